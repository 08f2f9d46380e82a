// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "scalar"
#include "base/simd_scalar.h"
#include "kernels/conv2d_grad/grad_generic.h"

namespace l1sparse {
namespace {

constexpr GradTile kTiles[] = {L1SPARSE_GRAD_TILE(F32x4, 1, 4)};
}  // namespace

const Conv2dGradKernels conv2d_grad_scalar = {kTiles, sizeof(kTiles) / sizeof(kTiles[0]),
                                              &weight_grad_of_column<F32x4, 4>};
}  // namespace l1sparse
