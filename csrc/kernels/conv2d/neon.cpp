// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "neon"
#include "base/simd_neon.h"
#include "kernels/conv2d/channels_generic.h"
#include "kernels/conv2d/pixels_generic.h"

namespace l1sparse {
namespace {
#if defined(__aarch64__)
constexpr TileKernel kTiles[] = {
    L1SPARSE_TILE(F32x4, F32x4, 4, 7),
    L1SPARSE_TILE(F32x4, F32x4, 2, 14),
    L1SPARSE_TILE(F32x4, F32x4, 3, 8),
    L1SPARSE_TILE(F32x4, F32x4, 1, 28),
};
constexpr PixelTile kPixelTiles[] = {L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 3, 8, 1, 150),
                                     L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 2, 8, 1, 103),
                                     L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 1, 8, 1, 56)};
constexpr PixelTile kNarrowTiles[] = {L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 4, 4, 1, 200),
                                      L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 3, 4, 1, 153),
                                      L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 2, 4, 1, 108),
                                      L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 1, 4, 1, 62)};
constexpr PixelTile kFilterByFilterTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 4, 4, 200),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 1, 4, 80)};
constexpr PixelTile kOneByOneTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 8, 1, 400),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 1, 1, 90)};
#else
// Half as many registers, as AVX2 has them.
constexpr TileKernel kTiles[] = {L1SPARSE_TILE(F32x4, F32x4, 2, 7),
                                 L1SPARSE_TILE(F32x4, F32x4, 3, 4),
                                 L1SPARSE_TILE(F32x4, F32x4, 1, 14)};
constexpr PixelTile kPixelTiles[] = {L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 3, 4, 1, 150),
                                     L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 2, 4, 1, 125),
                                     L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 1, 8, 1, 80)};
constexpr const PixelTile (&kNarrowTiles)[3] = kPixelTiles;
constexpr PixelTile kFilterByFilterTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 2, 4, 115),
                                              L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 1, 4, 80)};
constexpr PixelTile kOneByOneTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 8, 1, 400),
                                        L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 1, 1, 90)};
#endif
constexpr PixelTile kUnprunedTiles[] = {L1SPARSE_UNPRUNED_TILE(F32x4, 3, 4, 150),
                                        L1SPARSE_UNPRUNED_TILE(F32x4, 1, 4, 80)};
}  // namespace

const Conv2dKernels conv2d_neon = L1SPARSE_CONV2D_KERNELS(
    F32x4, F32x4, kTiles, L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr), PixelTiles{},
    L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kNarrowTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kFilterByFilterTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kOneByOneTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kUnprunedTiles, nullptr, nullptr), false, false, false);
}  // namespace l1sparse
