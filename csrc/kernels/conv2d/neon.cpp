// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "neon"
#include "base/simd_neon.h"
#include "kernels/conv2d/generic.h"

namespace l1sparse {
namespace {
constexpr TileKernel kTiles[] = {
    L1SPARSE_TILE(F32x4, F32x4, 4, 7),
    L1SPARSE_TILE(F32x4, F32x4, 2, 14),
    L1SPARSE_TILE(F32x4, F32x4, 3, 8),
    L1SPARSE_TILE(F32x4, F32x4, 1, 28),
};
}

const Conv2dKernels conv2d_neon = {kTiles, sizeof(kTiles) / sizeof(kTiles[0]), &finish<F32x4>};
}  // namespace l1sparse
