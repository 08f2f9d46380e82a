// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "neon"
#include "base/simd_neon.h"
#include "kernels/conv2d_grad/grad_generic.h"

namespace l1sparse {
namespace {
// Thirty-two registers: twenty-four sums.
constexpr GradTile kTiles[] = {L1SPARSE_GRAD_TILE(F32x4, 3, 8), L1SPARSE_GRAD_TILE(F32x4, 1, 8)};
}  // namespace

const Conv2dGradKernels conv2d_grad_neon = {kTiles, sizeof(kTiles) / sizeof(kTiles[0]),
                                            &weight_grad_of_column<F32x4, 24>};
}  // namespace l1sparse
