// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "avx512"
// GCC 12's own AVX-512 intrinsics read an uninitialised dummy (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include "base/simd_x86.h"
#include "kernels/conv2d_grad/grad_generic.h"

namespace l1sparse {
namespace {
// Thirty-two registers: twenty-four sums.
constexpr GradTile kTiles[] = {L1SPARSE_GRAD_TILE(F32x16, 3, 8), L1SPARSE_GRAD_TILE(F32x16, 2, 8),
                               L1SPARSE_GRAD_TILE(F32x16, 1, 8), L1SPARSE_GRAD_TILE(F32x8, 1, 8)};
}  // namespace

const Conv2dGradKernels conv2d_grad_avx512 = {kTiles, sizeof(kTiles) / sizeof(kTiles[0]),
                                              &weight_grad_of_column<F32x16, 24>};
}  // namespace l1sparse
