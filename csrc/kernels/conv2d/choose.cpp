// SPDX-License-Identifier: MIT
#include "kernels/conv2d/choose.h"

#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// A column's activations are brought to registers once for all filters that kept it. With fewer
// filters than these and several taps, that costs more than summing up lanes at the end of every
// filter. One filter alone is not worth the planes either way, and pixels read NCHW in place.
constexpr std::int64_t kFewFilters = 4;

// With more channels than these a group's activations fill the registers under `pixels`, and
// sums are loaded and stored seldom enough.
constexpr std::int64_t kNarrowChannels = 4;
// Kept groups of a hundred from which on so many columns of a block are kept that bringing it to
// the nearest cache pays.
constexpr std::int64_t kManyKeptPercent = 20;

// With one tap, channels of an input that stay in the nearest cache for a tile, and how many of
// them a filter keeps on average at most, where it pays to write every output once, with all of its
// products, instead of adding column by column to what lies in other caches.
constexpr std::int64_t kFewChannels = 144;
constexpr std::int64_t kFewKeptChannels = 36;

// Whether the sums of a group's filters should stay in registers.
bool filter_by_filter(const WeightShape& shape, const GroupGrid& grid,
                      const std::uint8_t* grid_mask) {
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < grid.groups(); ++i) kept += grid_mask[i] != 0;
  if (grid.filters == 1) {
    return grid.taps == 1 && (grid.channels == 8 || grid.channels == 16) &&
           shape.in_channels <= kFewChannels &&
           kept * grid.channels <= shape.out_channels * kFewKeptChannels;
  }
  if (grid.filters % kSharingFilters != 0 || grid.channels > kNarrowChannels) return false;
  // More filters than channels share what is brought near; nothing is copied with one tap.
  if (grid.taps == 1 && shape.out_channels > shape.in_channels) return true;
  return kept * 100 >= grid.groups() * kManyKeptPercent;
}

}  // namespace

Strategy choose_strategy(const WeightShape& shape, const GroupGrid& grid,
                         const std::uint8_t* grid_mask) {
  const bool several_taps = shape.kernel_h * shape.kernel_w > 1;
  const bool few_filters = shape.out_channels > 1 && shape.out_channels <= kFewFilters;
  if (several_taps && few_filters) return Strategy::channels;
  return filter_by_filter(shape, grid, grid_mask) ? Strategy::filters : Strategy::pixels;
}

}  // namespace l1sparse
