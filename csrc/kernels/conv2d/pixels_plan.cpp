// SPDX-License-Identifier: MIT
#include "kernels/conv2d/pixels_plan.h"

namespace l1sparse {
namespace {

// Plane bytes of a band: half of a common 1 MiB second-level cache; weights stream past it.
constexpr std::int64_t kBandBytes = 512 * 1024;
// A band should have this many outputs before threads take filters instead of bands.
constexpr std::int64_t kMinBandOutputs = 96;
// A piece of what threads share out has so many tiles at least, and a thread so many pieces at
// most.
constexpr std::int64_t kPieceTiles = 2;
constexpr std::int64_t kThreadPieces = 4;
// Each part of the filters gathers the input again, so a part should be worth it.
constexpr std::int64_t kMinPartFilters = 32;
// Outputs below which an image counts as small.
constexpr std::int64_t kSmallMap = 512;
// Where a filter has few columns to sum up, the last step is much of the work. Every filter's
// outputs lie on memory pages of their own, so it then takes about so many outputs together.
constexpr std::int64_t kFewColumns = 32;
constexpr std::int64_t kStretchOutputs = 96;
// Bytes of a strip, about: a quarter of such a cache.
constexpr std::int64_t kPooledBytes = 256 * 1024;
// Outputs of so many bytes, half of a second-level cache, are not in the caches when they are
// written. With several taps there is the time to bring this tile's there before the last step.
constexpr std::int64_t kFarOutputBytes = 512 * 1024;
// Where sums are the output and an image's have so many bytes, the next filters' are asked for just
// before sums start in them: a new output is seldom where the last call's was.
constexpr std::int64_t kFarSumBytes = 384 * 1024;
// If they have so many bytes, or those of all images, the next tile's are asked for meanwhile.
constexpr std::int64_t kFarTileBytes = 768 * 1024;
constexpr std::int64_t kAllFarTileBytes = 4 * 1024 * 1024;
// Inputs of so many bytes, of all images, come from main memory.
constexpr std::int64_t kMainMemoryBytes = 8 * 1024 * 1024;
// Under `filters`, the next activations are asked for where an image's inputs have so many bytes,
// more than a common second-level cache; asking takes registers.
constexpr std::int64_t kFarInputBytes = 2 * 1024 * 1024;
// Outputs of so many bytes leave nothing else in half of a common last-level cache. Written past
// the caches, they are not fetched from memory before; which takes a step of its own, unless the
// last products are added in registers.
constexpr std::int64_t kStreamedBytes = 16 * 1024 * 1024;
constexpr std::int64_t kOnceStreamedBytes = 8 * 1024 * 1024;
// Sums in the output save a pass over it. Where they start within a cache line, which makes every
// addition to them slower, they pay if a filter has so few columns of up to 8 channels, on average.
constexpr std::int64_t kLineFloats = 16;
constexpr std::int64_t kFewAdditions = 4;
// Where outputs of two filters are a multiple of so many floats apart, the sums of all filters
// compete for the same few places of the first-level cache.
constexpr std::int64_t kCompetingFloats = 512;
// Filters whose sums for a tile stay in the second-level cache between one block of channels and
// the next.
constexpr std::int64_t kSumFilters = 256;

// Floats of a band's input. A tile may read up to its width past the last output.
std::int64_t band_floats(const Conv2dProblem& problem, const PixelsPlan& plan, std::int64_t rows,
                         std::int64_t cols) {
  const WeightShape& shape = problem.weight.shape;
  const std::int64_t panel_rows =
      axis_extent_bound(rows, shape.kernel_h, problem.dilation_h, problem.stride_h);
  if (plan.source == Source::in_place) {
    return checked_mul(shape.in_channels, checked_mul(panel_rows, cols));
  }
  const std::int64_t sets =
      plan.source == Source::by_tap ? shape.kernel_w : smaller(shape.kernel_w, problem.stride_w);
  const std::int64_t planes = checked_mul(sets, shape.in_channels);
  return checked_add(checked_mul(planes, plane_pitch(panel_rows, cols)), plan.widest);
}

// The cheapest way to cover every number of units; tiles may reach past the last output.
TileChoice choose_tiles(const PixelTiles& tiles, std::int64_t unit) {
  TileChoice choice{};
  std::int64_t cost[kPlannedUnits + 1] = {};
  for (std::int64_t units = 1; units <= kPlannedUnits; ++units) {
    for (int t = 0; t < tiles.count; ++t) {
      const PixelTile& tile = tiles.tiles[t];
      const std::int64_t total = tile.cost + cost[larger(0, units - tile.outputs / unit)];
      if (choice.first[units] == nullptr || total < cost[units]) {
        choice.first[units] = &tile;
        cost[units] = total;
      }
    }
  }
  return choice;
}

void plan_tiles(const PixelTiles& tiles, PixelsPlan* plan) {
  plan->widest = 0;
  for (int t = 0; t < tiles.count; ++t) {
    plan->widest = larger(plan->widest, tiles.tiles[t].outputs);
  }
  plan->unit = tiles.tiles[tiles.count - 1].outputs;
  plan->tiles = choose_tiles(tiles, plan->unit);
}

Source choose_source(const Conv2dProblem& problem, const Conv2dKernels& kernels,
                     const PixelTiles& tiles) {
  const WeightShape& shape = problem.weight.shape;
  const bool bits = kernels.masks_are_cheap[static_cast<int>(problem.dtype)] &&
                    shape.kernel_h * shape.kernel_w <= kMaxTapsWithBits &&
                    problem.dilation_h <= problem.in_h && problem.dilation_w <= problem.in_w;
  // Output (y, x) of tap (0, 0) reads float y * width + x of a channel, plus a constant.
  const bool alike = problem.stride_h == 1 && problem.stride_w == 1 &&
                     problem.in_w == problem.out_w && problem.input_strides.w == 1 &&
                     (problem.in_h == 1 || problem.input_strides.h == problem.in_w);
  const bool no_edges = shape.kernel_h * shape.kernel_w == 1 && problem.in_h == problem.out_h;
  const bool readable = tiles.tiles[0].accumulate[static_cast<int>(problem.dtype)] != nullptr;
  if (alike && readable && (no_edges || bits)) return Source::in_place;
  // What a plane leaves out has to lie outside of the input.
  const bool holds_phase = ceil_div(problem.in_w, problem.stride_w) <= problem.out_w;
  return bits && holds_phase ? Source::by_phase : Source::by_tap;
}

// Whether threads take filters even where there are bands for all: bands of a small map meet in the
// same cache lines of every filter's outputs, and parts of the filters cost nothing where no input
// is gathered.
bool shares_filters(const Conv2dProblem& problem, const PixelsPlan& plan, std::int64_t threads) {
  const std::int64_t filters = problem.weight.shape.out_channels / problem.groups;
  return threads > 1 && plan.source == Source::in_place &&
         checked_mul(problem.out_h, problem.out_w) < kSmallMap &&
         filters >= checked_mul(threads, 2 * kMinPartFilters) &&
         checked_mul(problem.batch, problem.groups) % threads != 0;
}

// Read in place, the outputs of an image are one long row. Bands are whole tiles of it, and the
// last has what is left over.
void plan_stretches(const Conv2dProblem& problem, std::int64_t threads, PixelsPlan* plan) {
  const WeightShape& shape = problem.weight.shape;
  plan->rows = plan->band_rows = plan->bands_y = 1;
  plan->cols = checked_mul(problem.out_h, problem.out_w);
  const std::int64_t tiles = larger(plan->cols / plan->widest, 1);
  const std::int64_t reached =
      checked_mul(checked_mul(shape.kernel_h - 1, problem.dilation_h), problem.in_w);
  const std::int64_t fit = kBandBytes / kFloatBytes / shape.in_channels - reached;
  plan->bands_x = ceil_div(tiles, larger(fit / plan->widest, 1));
  // Pieces enough that a thread which is held up leaves some to the others.
  const std::int64_t images = checked_mul(problem.batch, problem.groups);
  if (threads > 1 && !plan->shares_filters && images % threads != 0) {
    const std::int64_t pieces = checked_mul(kThreadPieces, threads);
    plan->bands_x = larger(plan->bands_x, smaller(tiles / kPieceTiles, pieces));
  }
  plan->band_cols = (ceil_div(tiles, plan->bands_x) + 1) * plan->widest;
}

// Other bands are some rows of an image, or parts of a row.
void plan_bands(const Conv2dProblem& problem, std::int64_t threads, PixelsPlan* plan) {
  plan->rows = problem.out_h;
  plan->cols = problem.out_w;
  const auto fits = [&](std::int64_t rows, std::int64_t cols) {
    return band_floats(problem, *plan, rows, cols) <= kBandBytes / kFloatBytes;
  };
  plan->band_rows = 1;
  plan->band_cols = problem.out_w;
  const bool pools = problem.pool.kernel_h != 0;
  while (!pools && plan->band_cols > plan->widest && !fits(1, plan->band_cols)) {
    plan->band_cols = round_up(ceil_div(plan->band_cols, 2), plan->widest);
  }
  if (plan->band_cols >= problem.out_w) {
    while (plan->band_rows < problem.out_h && fits(plan->band_rows + 1, problem.out_w)) {
      ++plan->band_rows;
    }
  }
  // Without a band of less than a tile.
  plan->bands_x = ceil_div(larger(problem.out_w - plan->widest, 1), plan->band_cols);
  plan->bands_y = ceil_div(problem.out_h, plan->band_rows);
  // As many bands as give every thread the same work, where they do not become too small.
  const std::int64_t images = checked_mul(problem.batch, problem.groups);
  const std::int64_t outputs = checked_mul(problem.out_h, problem.out_w);
  const std::int64_t bands = checked_mul(plan->bands_x, plan->bands_y);
  if (threads > 1 && !plan->shares_filters && images % threads != 0 && bands < 4 * threads &&
      outputs >= kMinBandOutputs * round_up(bands, threads)) {
    const std::int64_t wanted = round_up(bands, threads);
    if (plan->bands_x == 1 && problem.out_h >= wanted) {
      plan->bands_y = wanted;
    } else if (problem.out_h == 1 && !pools) {
      plan->bands_x = wanted;
    }
  }
  std::int64_t rows = plan->band_rows;
  while (rows > 0 && rows * problem.out_w % kLineFloats != 0) --rows;
  // Shares are even, or else the next band's outputs begin with a cache line.
  const bool shared = threads > 1 || rows == 0 || plan->bands_y == 1;
  plan->band_rows = shared ? ceil_div(problem.out_h, plan->bands_y) : rows;
  plan->bands_y = ceil_div(problem.out_h, plan->band_rows);
  if (pools) {  // bands of whole windows, that share rows where windows do
    const MaxPool& pool = problem.pool;
    plan->pooled_rows = ceil_div(pool.out_h, smaller(plan->bands_y, pool.out_h));
    plan->bands_y = ceil_div(pool.out_h, plan->pooled_rows);
    plan->band_rows =
        smaller((plan->pooled_rows - 1) * pool.stride_h + pool.kernel_h, problem.out_h);
  }
  // Bands of whole widest tiles, unless threads would get uneven shares.
  const std::int64_t step = bands < 4 * threads && threads > 1 ? plan->unit : plan->widest;
  plan->band_cols =
      plan->bands_x == 1 ? problem.out_w : round_up(ceil_div(problem.out_w, plan->bands_x), step);
  plan->bands_x = ceil_div(problem.out_w, plan->band_cols);
}

// Whether every group of one filter is kept. That every row has its place is looked up, since the
// kernel rests on it.
bool is_unpruned(const PackedView& weight) {
  const GroupGrid& grid = weight.grid;
  if (grid.filters != 1 || weight.kept_groups != grid.groups()) return false;
  std::int64_t begin = 0;
  for (std::int64_t row = 0; row < weight.blocks * weight.block_rows; ++row) {
    if (weight.row_offsets[row] != begin) return false;
    const std::int64_t first = row / weight.block_rows * weight.block_groups;
    begin += smaller(weight.block_groups, grid.filter_groups - first);
  }
  return true;
}

const PixelTiles& tiles_for(const Conv2dProblem& problem, Isa isa) {
  const PackedView& weight = problem.weight;
  if (weight.strategy == Strategy::filters) {
    const Conv2dKernels& kernels = kernels_for(isa);
    return weight.grid.filters % kSharingFilters == 0 ? kernels.filter_by_filter_tiles
                                                      : kernels.one_by_one_tiles;
  }
  const PixelTiles* pairs = pair_tiles_for(isa);
  if (pairs != nullptr && problem.dtype == DType::bfloat16 && weight.bfloat16_values &&
      weight.grid.channels % 2 == 0 && weight.grid.channels >= 4) {
    return *pairs;
  }
  const Conv2dKernels& kernels = kernels_for(isa);
  if (problem.dtype == DType::float32 && is_unpruned(weight)) return kernels.unpruned_tiles;
  return weight.grid.channels <= 4  ? kernels.narrow_tiles
         : weight.grid.filters == 1 ? one_filter_tiles_for(isa)
                                    : kernels.pixel_tiles;
}

// Adds to a slot what max pooling needs.
void plan_strips(const Conv2dProblem& problem, PixelsPlan* plan) {
  const MaxPool& pool = problem.pool;
  const std::int64_t row = checked_mul(plan->block_filters, plan->band_cols * kFloatBytes);
  const std::int64_t rows = kPooledBytes / row;
  plan->strip_rows =
      smaller(larger((rows - pool.kernel_h) / pool.stride_h + 1, 1), plan->pooled_rows);
  plan->strip_pitch =
      plane_pitch(smaller((plan->strip_rows - 1) * pool.stride_h + pool.kernel_h, plan->band_rows),
                  plan->band_cols);
  plan->strip_at = round_up(plan->slot_bytes, kAlignment);
  plan->pool_line_at = checked_add(
      plan->strip_at, checked_mul(plan->block_filters * kFloatBytes, plan->strip_pitch));
  plan->slot_bytes =
      checked_add(plan->pool_line_at, kFloatBytes * max_pool_line(pool, problem.out_w));
}

// What an image ends with, if not with a tile like the others.
const PixelTile* last_tile_of(const Conv2dProblem& problem, const PixelTiles& tiles,
                              Source source) {
  const std::int64_t outputs = checked_mul(problem.out_h, problem.out_w);
  if (problem.pool.kernel_h != 0) return nullptr;
  const PackedView& weight = problem.weight;
  if (weight.strategy == Strategy::filters &&
      (weight.grid.filters % kExtraFilters != 0 || weight.grid.channels != kExtraChannels)) {
    return nullptr;
  }
  if (tiles.whole != nullptr && outputs == tiles.whole->outputs) return tiles.whole;
  if (tiles.last == nullptr || outputs >= kSmallMap || outputs < tiles.last->outputs ||
      (outputs - tiles.last->outputs) % kLineFloats != 0 ||
      (source == Source::in_place && problem.dtype != DType::float32)) {
    return nullptr;
  }
  return tiles.last;
}

}  // namespace

Status make_plan(const Conv2dProblem& problem, Isa isa, std::int64_t threads, PixelsPlan* plan) {
  const WeightShape& shape = problem.weight.shape;
  const GroupGrid& grid = problem.weight.grid;
  const Conv2dKernels& kernels = kernels_for(isa);
  const PixelTiles& tiles = tiles_for(problem, isa);
  plan_tiles(tiles, plan);
  plan->source = choose_source(problem, kernels, tiles);
  plan->last_tile = last_tile_of(problem, tiles, plan->source);
  plan->shares_filters = shares_filters(problem, *plan, threads);
  // Products may be added in another order in a last tile: bands do not depend on threads then.
  const std::int64_t band_threads = plan->last_tile == nullptr ? threads : 1;
  plan->long_row = plan->source == Source::in_place && problem.pool.kernel_h == 0;
  (plan->long_row ? plan_stretches : plan_bands)(problem, band_threads, plan);
  if (plan->source == Source::by_phase && plan->bands_x > 1) {
    plan->source = Source::by_tap;
    plan_bands(problem, band_threads, plan);
  }
  const std::int64_t bands = checked_mul(checked_mul(problem.batch, problem.groups),
                                         checked_mul(plan->bands_y, plan->bands_x));
  plan->filters = shape.out_channels / problem.groups;
  plan->by_filter = problem.weight.strategy == Strategy::filters;
  const std::int64_t block_groups =
      plan->by_filter ? larger(kSumFilters / grid.filters, 1) : problem.weight.block_groups;
  plan->block_filters = checked_mul(smaller(block_groups, grid.filter_groups), grid.filters);
  const std::int64_t wanted = plan->shares_filters ? threads : ceil_div(threads, larger(bands, 1));
  const std::int64_t parts = larger(smaller(wanted, plan->filters / kMinPartFilters), 1);
  plan->part_filters = round_up(ceil_div(plan->filters, parts), grid.filters);
  plan->filter_parts = ceil_div(plan->filters, plan->part_filters);
  plan->items = checked_mul(bands, plan->filter_parts);
  plan->slots = smaller(threads, plan->items);

  const std::int64_t image_bytes = checked_mul(checked_mul(problem.out_h, problem.out_w),
                                               shape.out_channels * size_of(problem.dtype));
  const std::int64_t bytes = checked_mul(problem.batch, image_bytes);
  const bool in_rows = !problem.channels_last && problem.pool.kernel_h == 0;
  plan->far_sums = in_rows && image_bytes >= kFarSumBytes;
  const std::int64_t input_bytes =
      checked_mul(problem.in_channels,
                  checked_mul(checked_mul(problem.in_h, problem.in_w), size_of(problem.dtype)));
  plan->activations_ahead =
      plan->source == Source::in_place && (!plan->by_filter || input_bytes >= kFarInputBytes);
  plan->next_outputs_ahead = in_rows && (image_bytes >= kFarTileBytes || bytes >= kAllFarTileBytes);
  plan->far_activations = checked_mul(problem.batch, input_bytes) >= kMainMemoryBytes;
  const std::int64_t streamed =
      streams_by_filter(problem.weight) ? kOnceStreamedBytes : kStreamedBytes;
  plan->streams = in_rows && bytes >= streamed && problem.dtype == DType::float32 &&
                  problem.out_h * problem.out_w % kLineFloats == 0;
  plan->outputs_ahead =
      in_rows && image_bytes >= kFarOutputBytes && grid.taps > 1 && !plan->streams;

  plan->unpruned = &tiles == &kernels.unpruned_tiles;

  const bool copies = plan->source != Source::in_place;
  const std::int64_t planes =
      copies ? band_floats(problem, *plan, plan->band_rows, plan->band_cols) : 0;
  plan->line_pitch = copies ? round_up(problem.in_w, 16) : 0;
  plan->lines_at = round_up(checked_mul(planes, kFloatBytes), kAlignment);
  plan->sums_at =
      checked_add(plan->lines_at, checked_mul(plan->line_pitch, kPlaneLines * kFloatBytes));
  const bool little_work = grid.columns() <= kFewColumns;
  plan->stretch = smaller(round_up(plan->band_rows * plan->band_cols, plan->widest),
                          larger(little_work ? kStretchOutputs : 0, plan->widest));
  plan->sums_pitch = plane_pitch(1, plan->stretch);
  plan->last_pitch = plan->last_tile == nullptr ? 0 : plane_pitch(1, plan->last_tile->outputs);
  plan->extra_lanes_at =
      checked_add(plan->sums_at, checked_mul(checked_mul(plan->block_filters, kFloatBytes),
                                             larger(plan->sums_pitch, plan->last_pitch)));
  plan->entries_at = checked_add(plan->extra_lanes_at,
                                 checked_mul(plan->block_filters, kMostExtraLanes * kFloatBytes));
  const bool parts_of_blocks = !plan->by_filter && (plan->filter_parts > 1 || problem.groups > 1);
  plan->panel_at = round_up(
      checked_add(plan->entries_at,
                  parts_of_blocks ? checked_mul(2 * sizeof(std::uint32_t), grid.columns()) : 0),
      kAlignment);
  const std::int64_t panel_floats =
      checked_mul(checked_mul(smaller(problem.weight.block_groups, grid.channel_groups), grid.taps),
                  checked_mul(grid.channels, plan->widest));
  plan->slot_bytes =
      checked_add(plan->panel_at, plan->by_filter ? checked_mul(panel_floats, kFloatBytes) : 0);
  if (problem.pool.kernel_h != 0) plan_strips(problem, plan);
  WorkspaceLayout layout;
  plan->row_runs_at = layout.reserve(shape.kernel_h, sizeof(AxisRun));
  plan->row_taps_at = layout.reserve(shape.kernel_h, sizeof(std::int64_t));
  plan->set_cols_at = layout.reserve(shape.kernel_w, sizeof(std::int64_t));
  plan->tap_begin_at = layout.reserve(shape.kernel_w, sizeof(std::int64_t));
  plan->tap_end_at = layout.reserve(shape.kernel_w, sizeof(std::int64_t));
  plan->column_offsets_at = layout.reserve(grid.columns(), sizeof(std::int64_t));
  plan->shares_at = layout.reserve(plan->slots, kAlignment);
  plan->slots_at = layout.reserve(plan->slots, round_up(plan->slot_bytes, kAlignment));
  plan->slot_bytes = round_up(plan->slot_bytes, kAlignment);
  plan->total_bytes = layout.bytes;
  if (plan->total_bytes == kTooLarge || plan->items == kTooLarge) {
    return {Code::too_large, kTooLarge, 0};
  }
  return {};
}

bool sums_fit_output(const Conv2dProblem& problem, const Conv2dTensors& tensors) {
  const PackedView& weight = problem.weight;
  if (problem.channels_last || problem.pool.kernel_h != 0) return false;
  // Sums of filters that fill up the last group have no place there.
  if (weight.shape.out_channels / problem.groups % weight.grid.filters != 0) return false;
  const bool follows = tensors.residual != nullptr || problem.activation != Activation::none;
  const bool by_filter = weight.strategy == Strategy::filters;
  const bool ends_by_filter =
      kEndsByFilter && by_filter && problem.activation != Activation::hardswish;
  if (follows && !ends_by_filter) return false;
  if (problem.dtype != DType::float32) {
    return ends_by_filter && written_once(weight) && weight.grid.filters % kSharingFilters != 0;
  }
  if (written_once(weight)) return true;
  const std::int64_t outputs = problem.out_h * problem.out_w;
  if (outputs % kCompetingFloats == 0) return false;
  if (outputs % kLineFloats == 0 && begins_line(tensors.output)) return true;
  return weight.kept_groups * ceil_div(weight.grid.channels, 8) <=
         weight.grid.filter_groups * kFewAdditions;
}

std::int64_t max_pool_line(const MaxPool& pool, std::int64_t width) {
  constexpr std::int64_t kWidestVectors = 2 * 16;
  const std::int64_t windows = (pool.out_w + 15) / 16 * 16 * pool.stride_w;
  const std::int64_t row = pool.pad_left + width;
  return (windows > row ? windows : row) + pool.kernel_w + kWidestVectors;
}

}  // namespace l1sparse
