// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "avx2"
#include "base/simd_x86.h"
#include "kernels/conv2d/channels_generic.h"
#include "kernels/conv2d/pixels_generic.h"

namespace l1sparse {
namespace {
// Sixteen registers: fourteen sums, one weight, and activations straight from memory.
#define L1SPARSE_TILES(V) \
  L1SPARSE_TILE(V, V, 2, 7), L1SPARSE_TILE(V, V, 3, 4), L1SPARSE_TILE(V, V, 1, 14)
constexpr TileKernel kTiles[] = {L1SPARSE_TILES(F32x4), L1SPARSE_TILES(F32x8)};
constexpr PixelTile kPixelTiles[] = {L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 3, 4, 1, 300),
                                     L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 2, 4, 1, 250),
                                     L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 1, 8, 1, 160)};
// Twelve sums, three weights and one activation. In narrow tiles sums would have to wait for one
// another: those keep activations.
constexpr PixelTile kOneFilterTiles[] = {L1SPARSE_FILTERS_TILE(F32x8, 4, 3, 400),
                                         L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 3, 4, 1, 310),
                                         L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 2, 4, 1, 250),
                                         L1SPARSE_PIXEL_TILE(F32x8, NoExtraOutputs, 1, 8, 1, 160)};
constexpr PixelTile kFilterByFilterTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 3, 4, 300),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 2, 4, 220),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 1, 4, 200)};
#ifdef __OPTIMIZE_SIZE__
constexpr PixelTile kOneByOneTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 3, 1, 300),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 1, 1, 200)};
#else
constexpr PixelTile kOneByOneTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 8, 1, 800),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 4, 1, 450),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x8, 1, 1, 250)};
#endif
constexpr PixelTile kUnprunedTiles[] = {L1SPARSE_UNPRUNED_TILE(F32x8, 3, 4, 300),
                                        L1SPARSE_UNPRUNED_TILE(F32x8, 1, 4, 160)};
}  // namespace

const Conv2dKernels conv2d_avx2 = L1SPARSE_CONV2D_KERNELS(
    F32x8, F32x8, kTiles, L1SPARSE_PIXEL_TILES(kOneFilterTiles, nullptr, nullptr), PixelTiles{},
    L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kFilterByFilterTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kOneByOneTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kUnprunedTiles, nullptr, nullptr), true, false, false);
}  // namespace l1sparse
