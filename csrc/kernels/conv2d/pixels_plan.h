// SPDX-License-Identifier: MIT
// Pixels on the lanes: how a convolution is cut into pieces, and where they lie in the workspace.
#pragma once

#include "kernels/conv2d/plan.h"

namespace l1sparse {

// So many times the narrowest tile are cut into tiles in the best way; more start with the fastest.
constexpr std::int64_t kPlannedUnits = 16;

// With which tile to begin when so many units (outputs of the narrowest tile) are left.
struct TileChoice {
  const PixelTile* first[kPlannedUnits + 1];
};

// Where a tile's activations come from.
enum class Source {
  in_place,  // the input itself; bits say which outputs of a tile read past its edges
  by_phase,  // planes of every stride-th input column; bits as well
  by_tap,    // planes as each tap column of the kernel sees them; they hold the zeros of the edges
};

// Taps whose bits a thread keeps on its stack.
constexpr std::int64_t kMaxTapsWithBits = 121;

struct PixelsPlan {
  Source source;
  bool long_row;  // of an image's outputs, whatever rows they are in, for bands to be parts of
  std::int64_t rows, cols;  // of an image's outputs, or of the long row
  std::int64_t band_rows, band_cols;
  std::int64_t bands_y, bands_x;
  std::int64_t filters;  // of a convolution group
  bool shares_filters;
  bool by_filter;           // the strategy `filters`
  bool unpruned;            // with tiles that take every group to be kept
  bool far_sums;            // whether sums in the output are in no near cache when they start
  bool activations_ahead;   // whether the next ones are asked for: planes are near already
  bool far_activations;     // whether they come from main memory
  bool outputs_ahead;       // whether memory for outputs is asked for before they are finished
  bool next_outputs_ahead;  // likewise, where sums are the output, for the next tile's
  bool streams;             // whether outputs go past the caches
  std::int64_t part_filters, filter_parts;
  std::int64_t items, slots;   // pieces of work; workspaces, each used by one thread at a time
  std::int64_t widest;         // outputs of the widest tile
  const PixelTile* last_tile;  // what an image ends with, or null: like the others
  std::int64_t block_filters;
  std::int64_t stretch;     // outputs of tiles that the last step takes together, at most
  std::int64_t sums_pitch;  // floats from the sums of one filter to the next
  std::int64_t last_pitch;  // likewise for the last tile
  std::int64_t line_pitch;
  std::int64_t unit;  // outputs of the narrowest tile
  // With max pooling: rows of windows of a band and of a strip, and floats from the strip of one
  // filter to the next.
  std::int64_t pooled_rows, strip_rows, strip_pitch;
  TileChoice tiles;
  // Workspace layout, in bytes.
  std::int64_t row_runs_at, row_taps_at, set_cols_at, tap_begin_at, tap_end_at, column_offsets_at;
  std::int64_t slots_at, slot_bytes, shares_at, lines_at, sums_at, extra_lanes_at, entries_at,
      strip_at, pool_line_at, panel_at, total_bytes;
};

Status make_plan(const Conv2dProblem& problem, Isa isa, std::int64_t threads, PixelsPlan* plan);

// With which tile to begin when so many outputs are left.
inline const PixelTile& tile_for(const PixelsPlan& plan, std::int64_t outputs) {
  return *plan.tiles.first[smaller(ceil_div(outputs, plan.unit), kPlannedUnits)];
}

// Whether every sum is complete when it is first written.
inline bool written_once(const PackedView& weight) {
  return weight.strategy == Strategy::filters && weight.blocks == 1;
}

// Whether outputs that go past the caches do so with the last products.
inline bool streams_by_filter(const PackedView& weight) {
  return kEndsByFilter && written_once(weight) && weight.grid.filters % kSharingFilters != 0;
}

// Whether a cache line begins there.
inline bool begins_line(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kAlignment == 0;
}

// Whether sums are what the output will be, and gain by being there from the beginning.
bool sums_fit_output(const Conv2dProblem& problem, const Conv2dTensors& tensors);

// Floats of a row with what its windows reach on both sides, and vectors that start at the last
// window.
std::int64_t max_pool_line(const MaxPool& pool, std::int64_t width);

}  // namespace l1sparse
