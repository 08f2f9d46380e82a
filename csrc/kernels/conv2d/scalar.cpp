// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "scalar"
#include "base/simd_scalar.h"
#include "kernels/conv2d/generic.h"

namespace l1sparse {
namespace {
constexpr TileKernel kTiles[] = {L1SPARSE_TILE(F32x4, F32x4, 1, 4)};
}

const Conv2dKernels conv2d_scalar = {kTiles, 1, &finish<F32x4>};
}  // namespace l1sparse
