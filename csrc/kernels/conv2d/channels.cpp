// SPDX-License-Identifier: MIT
// Channels on the lanes: the order of the work, for every instruction set.
//
// The output is cut into register tiles; a rectangle of tiles is a *band*, small enough for its
// input to stay in the second-level cache. For each band the input is gathered into planes once;
// then, tile by tile, each channel block is accumulated for all filters while the tile's
// activations stay in the first-level cache, and the sums are finished into the output. Bands, and
// ranges of filters where bands are few, are what threads share out.
#include "kernels/conv2d/plan.h"

namespace l1sparse {
namespace {

// Panel bytes of a band: half of a common 1 MiB second-level cache; weights stream past it.
constexpr std::int64_t kBandBytes = 512 * 1024;
// Splitting filters gathers the input again for each part, so a part should be worth it.
constexpr std::int64_t kMinFilters = 16;
// Cost of starting and reducing one tile, in outputs.
constexpr std::int64_t kTileOverhead = 3;

struct Plan {
  const TileKernel* tile;
  std::int64_t chunks;            // planes of a channel group
  std::int64_t tiles_y, tiles_x;  // of the whole output
  std::int64_t band_y, band_x;    // tiles of a band
  std::int64_t bands_y, bands_x;
  std::int64_t filters;       // of a convolution group
  std::int64_t filter_parts;  // how many ranges they are split into
  std::int64_t part_filters;
  std::int64_t items, slots;  // pieces of work; workspaces, each used by one thread at a time
  // Workspace layout, in bytes.
  std::int64_t row_runs_at, col_runs_at, row_taps_at, col_taps_at, column_offsets_at;
  std::int64_t slots_at, slot_bytes, panel_bytes, total_bytes;
};

// Fewest vector operations for a group's channels, then least padding, then fewest outputs
// computed in vain.
const TileKernel* choose_tile(const Conv2dKernels& kernels, std::int64_t group_channels,
                              std::int64_t out_h, std::int64_t out_w) {
  const TileKernel* best = nullptr;
  std::int64_t best_chunks = 0, best_cost = 0;
  for (int i = 0; i < kernels.tile_count; ++i) {
    const TileKernel& tile = kernels.tiles[i];
    const std::int64_t chunks = ceil_div(group_channels, tile.lanes);
    const std::int64_t cost = ceil_div(out_h, tile.rows) * ceil_div(out_w, tile.cols) *
                              (tile.rows * tile.cols + kTileOverhead);
    const bool better =
        best == nullptr || chunks < best_chunks ||
        (chunks == best_chunks &&
         (tile.lanes < best->lanes || (tile.lanes == best->lanes && cost < best_cost)));
    if (better) {
      best = &tile;
      best_chunks = chunks;
      best_cost = cost;
    }
  }
  return best;
}

std::int64_t panel_bytes(const Conv2dProblem& problem, const Plan& plan, std::int64_t band_y,
                         std::int64_t band_x) {
  const std::int64_t rows =
      axis_extent_bound(band_y * plan.tile->rows, problem.weight.shape.kernel_h, problem.dilation_h,
                        problem.stride_h);
  const std::int64_t cols =
      axis_extent_bound(band_x * plan.tile->cols, problem.weight.shape.kernel_w, problem.dilation_w,
                        problem.stride_w);
  const std::int64_t planes = checked_mul(problem.weight.grid.channel_groups, plan.chunks);
  return checked_mul(checked_mul(checked_mul(rows, cols), planes), plan.tile->lanes * kFloatBytes);
}

Status make_plan(const Conv2dProblem& problem, Isa isa, std::int64_t threads, Plan* plan) {
  const WeightShape& shape = problem.weight.shape;
  const GroupGrid& grid = problem.weight.grid;
  plan->tile = choose_tile(kernels_for(isa), grid.channels, problem.out_h, problem.out_w);
  plan->chunks = ceil_div(grid.channels, plan->tile->lanes);
  plan->tiles_y = ceil_div(problem.out_h, plan->tile->rows);
  plan->tiles_x = ceil_div(problem.out_w, plan->tile->cols);

  // The largest band that fits: whole rows of tiles if one row fits, else part of a row.
  plan->band_x = plan->tiles_x;
  while (plan->band_x > 1 && panel_bytes(problem, *plan, 1, plan->band_x) > kBandBytes) {
    plan->band_x = ceil_div(plan->band_x, 2);
  }
  plan->band_y = 1;
  while (plan->band_y < plan->tiles_y &&
         panel_bytes(problem, *plan, plan->band_y + 1, plan->band_x) <= kBandBytes) {
    ++plan->band_y;
  }
  plan->bands_x = ceil_div(plan->tiles_x, plan->band_x);
  // Even bands, and at least one for every thread where there are rows for it.
  const std::int64_t others =
      checked_mul(checked_mul(problem.batch, problem.groups), plan->bands_x);
  plan->bands_y = larger(ceil_div(plan->tiles_y, plan->band_y),
                         smaller(plan->tiles_y, ceil_div(threads, larger(others, 1))));
  plan->band_y = ceil_div(plan->tiles_y, plan->bands_y);
  plan->bands_y = ceil_div(plan->tiles_y, plan->band_y);

  const std::int64_t bands = checked_mul(others, plan->bands_y);
  plan->filters = shape.out_channels / problem.groups;
  plan->filter_parts =
      larger(smaller(ceil_div(threads, larger(bands, 1)), plan->filters / kMinFilters), 1);
  plan->part_filters = round_up(ceil_div(plan->filters, plan->filter_parts), grid.filters);
  plan->filter_parts = ceil_div(plan->filters, plan->part_filters);
  plan->items = checked_mul(bands, plan->filter_parts);
  plan->slots = smaller(threads, plan->items);

  plan->panel_bytes = round_up(panel_bytes(problem, *plan, plan->band_y, plan->band_x), kAlignment);
  const std::int64_t sums_bytes =
      checked_mul(plan->part_filters, sums_pitch(plan->tile->rows, plan->tile->cols) * kFloatBytes);
  plan->slot_bytes = checked_add(plan->panel_bytes, round_up(sums_bytes, kAlignment));
  WorkspaceLayout layout;
  plan->row_runs_at = layout.reserve(shape.kernel_h, sizeof(AxisRun));
  plan->col_runs_at = layout.reserve(shape.kernel_w, sizeof(AxisRun));
  plan->row_taps_at = layout.reserve(shape.kernel_h, sizeof(std::int64_t));
  plan->col_taps_at = layout.reserve(shape.kernel_w, sizeof(std::int64_t));
  plan->column_offsets_at = layout.reserve(grid.columns(), sizeof(std::int64_t));
  plan->slots_at = layout.reserve(plan->slots, plan->slot_bytes);
  plan->total_bytes = layout.bytes;
  if (plan->total_bytes == kTooLarge || plan->items == kTooLarge) {
    return {Code::too_large, kTooLarge, 0};
  }
  return {};
}

// What every thread reads.
struct Run {
  const Conv2dProblem& problem;
  const Conv2dTensors& tensors;
  const Conv2dKernels& kernels;
  Plan plan;
  PanelAxis rows, cols;
  const std::int64_t* column_offsets;
  char* workspace;
  const char** ran;
};

// A piece of work: one image, one convolution group, one band, one range of filters.
struct Item {
  std::int64_t image, group, band_y, band_x, part;
};

Item item_at(const Plan& plan, const Conv2dProblem& problem, std::int64_t index) {
  Item item;
  item.part = index % plan.filter_parts;
  index /= plan.filter_parts;
  item.band_x = index % plan.bands_x;
  index /= plan.bands_x;
  item.band_y = index % plan.bands_y;
  index /= plan.bands_y;
  item.group = index % problem.groups;
  item.image = index / problem.groups;
  return item;
}

void gather_band(const Run& run, const Item& item, float* panel) {
  const Conv2dProblem& problem = run.problem;
  const Plan& plan = run.plan;
  const std::int64_t channels = problem.weight.shape.in_channels;
  GatherJob job;
  job.input =
      static_cast<const char*>(run.tensors.input) +
      (item.image * problem.input_strides.n + item.group * channels * problem.input_strides.c) *
          size_of(problem.dtype);
  job.channel_stride = problem.input_strides.c;
  job.row_stride = problem.input_strides.h;
  job.col_stride = problem.input_strides.w;
  job.channels = channels;
  job.height = problem.in_h;
  job.width = problem.in_w;
  job.first_row = item.band_y * plan.band_y * plan.tile->rows * problem.stride_h - problem.pad_top;
  job.first_col = item.band_x * plan.band_x * plan.tile->cols * problem.stride_w - problem.pad_left;
  job.rows = run.rows;
  job.cols = run.cols;
  job.group_channels = problem.weight.grid.channels;
  job.chunks = plan.chunks;
  job.channel_groups = problem.weight.grid.channel_groups;
  job.lanes = plan.tile->lanes;
  job.panel = panel;
  plan.tile->gather[static_cast<int>(problem.dtype)](job);
}

// One tile, at (tile_y, tile_x) of the band. Returns the instruction set that the kernel names.
const char* run_tile(const Run& run, const Item& item, std::int64_t tile_y, std::int64_t tile_x,
                     const float* panel, float* sums) {
  const Conv2dProblem& problem = run.problem;
  const Plan& plan = run.plan;
  const TileKernel& tile = *plan.tile;
  const PackedView& weight = problem.weight;
  const std::int64_t row_pitch = run.cols.extent * tile.lanes;
  const std::int64_t pitch = sums_pitch(tile.rows, tile.cols);

  AccumulateJob job;
  job.tile = panel + tile_y * tile.rows * row_pitch + tile_x * tile.cols * tile.lanes;
  job.row_pitch = row_pitch;
  job.plane_pitch = run.rows.extent * row_pitch;
  job.column_offset = run.column_offsets;
  job.columns = weight.entries;
  job.values = weight.values;
  job.group_filters = weight.grid.filters;
  job.group_channels = weight.grid.channels;
  job.first_filter = item.group * plan.filters + item.part * plan.part_filters;
  job.end_filter = smaller(job.first_filter + plan.part_filters, (item.group + 1) * plan.filters);
  job.sums = sums;
  job.ran = nullptr;
  const auto accumulate =
      job.group_channels == tile.lanes ? tile.accumulate_exact : tile.accumulate_chunks;
  for (std::int64_t block = 0; block < weight.blocks; ++block) {
    job.row_offsets = weight.row_offsets + block * weight.grid.filter_groups;
    job.add = block > 0;
    accumulate(job);
  }

  const std::int64_t out_y = (item.band_y * plan.band_y + tile_y) * tile.rows;
  const std::int64_t out_x = (item.band_x * plan.band_x + tile_x) * tile.cols;
  FinishJob finish = finish_job(problem, run.tensors, item.image, job.first_filter, out_y, out_x);
  finish.sums = sums;
  finish.sums_pitch = pitch;
  finish.filters = job.end_filter - job.first_filter;
  finish.tile_cols = tile.cols;
  finish.rows = smaller(tile.rows, problem.out_h - out_y);
  finish.cols = smaller(tile.cols, problem.out_w - out_x);
  run.kernels.finish[static_cast<int>(problem.dtype)](finish);
  return job.ran;
}

const char* run_item(const Run& run, std::int64_t index, char* slot) {
  const Plan& plan = run.plan;
  const Item item = item_at(plan, run.problem, index);
  auto* panel = reinterpret_cast<float*>(slot);
  auto* sums = reinterpret_cast<float*>(slot + plan.panel_bytes);
  const char* ran = nullptr;
  gather_band(run, item, panel);
  const std::int64_t tiles_y = smaller(plan.band_y, plan.tiles_y - item.band_y * plan.band_y);
  const std::int64_t tiles_x = smaller(plan.band_x, plan.tiles_x - item.band_x * plan.band_x);
  for (std::int64_t y = 0; y < tiles_y; ++y) {
    for (std::int64_t x = 0; x < tiles_x; ++x) ran = run_tile(run, item, y, x, panel, sums);
  }
  return ran;
}

void run_slot(void* context, std::int64_t slot) {
  const Run& run = *static_cast<const Run*>(context);
  const Plan& plan = run.plan;
  char* memory = run.workspace + plan.slots_at + slot * plan.slot_bytes;
  const Share share = share_of(plan.items, plan.slots, slot);
  const char* ran = nullptr;
  for (std::int64_t i = share.begin; i < share.end; ++i) ran = run_item(run, i, memory);
  if (slot == 0 && run.ran != nullptr) *run.ran = ran;
}

}  // namespace

Status channels_workspace(const Conv2dProblem& problem, Isa isa, std::int64_t threads,
                          std::int64_t* bytes) {
  Plan plan;
  if (Status status = make_plan(problem, isa, threads, &plan); !status.ok()) return status;
  *bytes = plan.total_bytes;
  return {};
}

Status channels_conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors, Isa isa,
                       const Parallel& parallel, void* workspace, const char** ran) {
  Plan plan;
  if (Status status = make_plan(problem, isa, parallel.threads, &plan); !status.ok()) {
    return status;
  }
  if (plan.items == 0) return {};
  auto* base = static_cast<char*>(workspace);
  auto* row_taps = reinterpret_cast<std::int64_t*>(base + plan.row_taps_at);
  auto* col_taps = reinterpret_cast<std::int64_t*>(base + plan.col_taps_at);
  const WeightShape& shape = problem.weight.shape;
  const PanelAxis rows =
      plan_axis(plan.band_y * plan.tile->rows, problem.stride_h, shape.kernel_h, problem.dilation_h,
                reinterpret_cast<AxisRun*>(base + plan.row_runs_at), row_taps);
  const PanelAxis cols =
      plan_axis(plan.band_x * plan.tile->cols, problem.stride_w, shape.kernel_w, problem.dilation_w,
                reinterpret_cast<AxisRun*>(base + plan.col_runs_at), col_taps);
  auto* offsets = reinterpret_cast<std::int64_t*>(base + plan.column_offsets_at);
  const std::int64_t row_pitch = cols.extent * plan.tile->lanes;
  for (std::int64_t group = 0; group < problem.weight.grid.channel_groups; ++group) {
    for (std::int64_t y = 0; y < shape.kernel_h; ++y) {
      for (std::int64_t x = 0; x < shape.kernel_w; ++x) {
        *offsets++ = (group * plan.chunks * rows.extent + row_taps[y]) * row_pitch +
                     col_taps[x] * plan.tile->lanes;
      }
    }
  }
  Run run{problem,
          tensors,
          kernels_for(isa),
          plan,
          rows,
          cols,
          reinterpret_cast<const std::int64_t*>(base + plan.column_offsets_at),
          base,
          ran};
  parallel.for_each(plan.slots, run_slot, &run);
  return {};
}

}  // namespace l1sparse
