// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "avx512"
// GCC 12's own AVX-512 intrinsics read an uninitialised dummy (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "base/simd_x86.h"
#include "kernels/conv2d/channels_generic.h"
#include "kernels/conv2d/pixels_generic.h"

namespace l1sparse {
namespace {
// Thirty-two registers of any width, so narrow groups profit from AVX-512 as well.
#define L1SPARSE_TILES(V, kGatherV)                                    \
  L1SPARSE_TILE(V, kGatherV, 4, 7), L1SPARSE_TILE(V, kGatherV, 2, 14), \
      L1SPARSE_TILE(V, kGatherV, 3, 8), L1SPARSE_TILE(V, kGatherV, 1, 28)
constexpr TileKernel kTiles[] = {L1SPARSE_TILES(F32x4, F32x4), L1SPARSE_TILES(F32x8, F32x8),
                                 L1SPARSE_TILES(F32x16, F32x8)};
constexpr PixelTile kPixelTiles[] = {L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 3, 8, 2, 600),
                                     L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 2, 8, 2, 412),
                                     L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 1, 8, 2, 225),
                                     L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 3, 8, 2, 350),
                                     L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 1, 8, 2, 160)};
#define L1SPARSE_ONE_FILTER_TILES(kFloatChains)                                     \
  L1SPARSE_ONE_FILTER_TILE(F32x16, NoExtraOutputs, 3, 8, 2, kFloatChains, 600),     \
      L1SPARSE_ONE_FILTER_TILE(F32x16, NoExtraOutputs, 2, 8, 2, kFloatChains, 412), \
      L1SPARSE_ONE_FILTER_TILE(F32x16, NoExtraOutputs, 1, 8, 2, kFloatChains, 225), \
      L1SPARSE_ONE_FILTER_TILE(F32x8, NoExtraOutputs, 3, 8, 2, kFloatChains, 350),  \
      L1SPARSE_ONE_FILTER_TILE(F32x8, NoExtraOutputs, 1, 8, 2, kFloatChains, 160)
constexpr PixelTile kOneFilterTiles[] = {L1SPARSE_ONE_FILTER_TILES(1)};
constexpr PixelTile kNarrowTiles[] = {L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 4, 4, 1, 800),
                                      L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 3, 4, 1, 610),
                                      L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 2, 4, 1, 430),
                                      L1SPARSE_PIXEL_TILE(F32x16, NoExtraOutputs, 1, 4, 1, 250),
                                      L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 3, 4, 1, 370),
                                      L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 1, 4, 1, 180)};
constexpr PixelTile kPixelWhole = L1SPARSE_PIXEL_TILE(F32x16, LoneOutput<F32x8>, 3, 8, 2, 630);
constexpr PixelTile kOneFilterWhole =
    L1SPARSE_ONE_FILTER_TILE(F32x16, LoneOutput<F32x8>, 3, 8, 2, 2, 630);
constexpr PixelTile kNarrowWhole = L1SPARSE_PIXEL_TILE(F32x16, LoneOutput<F32x8>, 3, 4, 1, 640);
constexpr PixelTile kPixelLast = L1SPARSE_LAST_TILE(F32x16, FourOutputs<F32x16>, 3, 8, 2, 0, 640);
constexpr PixelTile kOneFilterLast =
    L1SPARSE_LAST_TILE(F32x16, FourOutputs<F32x16>, 3, 8, 1, 1, 640);
constexpr PixelTile kNarrowLast = L1SPARSE_LAST_TILE(F32x16, FourOutputs<F32x16>, 3, 4, 1, 0, 660);
constexpr PixelTile kFilterByFilterTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 4, 4, 800),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 3, 4, 610),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 2, 4, 465),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 1, 4, 330),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 1, 4, 300)};
constexpr PixelTile kFilterByFilterWhole = L1SPARSE_FILTER_BY_FILTER_WHOLE(F32x16, 3, 640);
constexpr PixelTile kFilterByFilterLast = L1SPARSE_FILTER_BY_FILTER_LAST(F32x16, 3, 660);
// What they read has to fit the panel, which is planned for the widest tile.
static_assert(48 * kExtraChannels + 4 * kExtraLanes <=
              kFilterByFilterTiles[0].outputs * kExtraChannels);
constexpr PixelTile kOneByOneTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 4, 1, 800),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 2, 1, 450),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x16, 1, 1, 300),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 1, 1, 290)};
constexpr PixelTile kUnprunedTiles[] = {
    L1SPARSE_UNPRUNED_TILE(F32x16, 4, 4, 800), L1SPARSE_UNPRUNED_TILE(F32x16, 2, 8, 430),
    L1SPARSE_UNPRUNED_TILE(F32x16, 1, 8, 250), L1SPARSE_UNPRUNED_TILE(F32x8, 1, 8, 180)};
L1SPARSE_PAIRS(constexpr PixelTile kTwoSumsTiles[] = {L1SPARSE_ONE_FILTER_TILES(2)};
               constexpr PixelTile kTwoSumsLast = L1SPARSE_LAST_TILE(F32x16, FourOutputs<F32x16>, 3,
                                                                     8, 2, 1, 640);)
constexpr PixelTiles kTwoSums = {L1SPARSE_PAIRS(kTwoSumsTiles,
                                                sizeof(kTwoSumsTiles) / sizeof(kTwoSumsTiles[0]),
                                                &kOneFilterWhole, &kTwoSumsLast)};
}  // namespace

const Conv2dKernels conv2d_avx512 = L1SPARSE_CONV2D_KERNELS(
    F32x16, F32x16, kTiles,
    L1SPARSE_PIXEL_TILES(kOneFilterTiles, &kOneFilterWhole, &kOneFilterLast), kTwoSums,
    L1SPARSE_PIXEL_TILES(kPixelTiles, &kPixelWhole, &kPixelLast),
    L1SPARSE_PIXEL_TILES(kNarrowTiles, &kNarrowWhole, &kNarrowLast),
    L1SPARSE_PIXEL_TILES(kFilterByFilterTiles, &kFilterByFilterWhole, &kFilterByFilterLast),
    L1SPARSE_PIXEL_TILES(kOneByOneTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kUnprunedTiles, nullptr, nullptr), true, true, true);
}  // namespace l1sparse
