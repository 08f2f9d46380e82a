// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "avx2"
#include "base/simd_x86.h"
#include "kernels/conv2d_grad/grad_generic.h"

namespace l1sparse {
namespace {
// Sixteen registers: twelve sums.
constexpr GradTile kTiles[] = {L1SPARSE_GRAD_TILE(F32x8, 3, 4), L1SPARSE_GRAD_TILE(F32x8, 1, 8)};
}  // namespace

const Conv2dGradKernels conv2d_grad_avx2 = {kTiles, sizeof(kTiles) / sizeof(kTiles[0]),
                                            &weight_grad_of_column<F32x8, 12>};
}  // namespace l1sparse
