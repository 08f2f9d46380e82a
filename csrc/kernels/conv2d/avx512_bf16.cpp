// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "avx512_bf16"
// GCC 12's own AVX-512 intrinsics read an uninitialised dummy (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "base/pairs_x86.h"
#include "kernels/conv2d/pixel_pairs_generic.h"

namespace l1sparse {
namespace {
constexpr PixelTile kTiles[] = {
    L1SPARSE_PAIRS_TILE(F32x16, BF16PairsX16, NoExtraOutputs, 4, 4, 800),
    L1SPARSE_PAIRS_TILE(F32x16, BF16PairsX16, NoExtraOutputs, 3, 4, 620),
    L1SPARSE_PAIRS_TILE(F32x16, BF16PairsX16, NoExtraOutputs, 2, 4, 440),
    L1SPARSE_PAIRS_TILE(F32x16, BF16PairsX16, NoExtraOutputs, 1, 4, 260),
    L1SPARSE_PAIRS_TILE(F32x8, BF16PairsX8, NoExtraOutputs, 3, 4, 380),
    L1SPARSE_PAIRS_TILE(F32x8, BF16PairsX8, NoExtraOutputs, 1, 4, 180)};
constexpr PixelTile kWhole =
    L1SPARSE_PAIRS_TILE(F32x16, BF16PairsX16, LoneOutput<F32x8>, 3, 4, 630);
}  // namespace

const PixelTiles conv2d_pairs_avx512_bf16 = L1SPARSE_PIXEL_TILES(kTiles, &kWhole, nullptr);
}  // namespace l1sparse
