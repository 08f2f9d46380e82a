// SPDX-License-Identifier: MIT
#define L1SPARSE_KERNEL_ISA "scalar"
#include "base/simd_scalar.h"
#include "kernels/conv2d/channels_generic.h"
#include "kernels/conv2d/pixels_generic.h"

namespace l1sparse {
namespace {
constexpr TileKernel kTiles[] = {L1SPARSE_TILE(F32x4, F32x4, 1, 4)};
constexpr PixelTile kPixelTiles[] = {L1SPARSE_PIXEL_TILE(F32x4, NoExtraOutputs, 1, 4, 1, 50)};
constexpr PixelTile kFilterByFilterTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 1, 4, 50)};
constexpr PixelTile kOneByOneTiles[] = {L1SPARSE_FILTER_BY_FILTER_TILE(F32x4, 1, 1, 50)};
constexpr PixelTile kUnprunedTiles[] = {L1SPARSE_UNPRUNED_TILE(F32x4, 1, 1, 50)};
}  // namespace

const Conv2dKernels conv2d_scalar = L1SPARSE_CONV2D_KERNELS(
    F32x4, F32x4, kTiles, L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr), PixelTiles{},
    L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kPixelTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kFilterByFilterTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kOneByOneTiles, nullptr, nullptr),
    L1SPARSE_PIXEL_TILES(kUnprunedTiles, nullptr, nullptr), false, false, false);
}  // namespace l1sparse
