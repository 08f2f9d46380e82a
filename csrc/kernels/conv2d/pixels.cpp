// SPDX-License-Identifier: MIT
// Pixels on the lanes: the order of the work, for every instruction set.
//
// The outputs are cut into *bands* whose input fits the second-level cache. For each band the input
// is gathered into planes once; then, for each filter block and each tile of the band, the tile's
// activations are brought to registers column by column, and every filter of the block that kept
// the column adds its products to its sums. The sums of a tile and block stay in the nearest
// cache and are finished into the output, unless they are the output; with max pooling, a *strip*
// of the band after the other into scratch memory, and what its windows give into the output. Where
// outputs and inputs of a channel already lie alike, the input is read in place. Bands, or ranges
// of filters, are what threads share out.
//
// The strategy `filters` is the same but for the step on a tile, which goes filter by filter.
#include <algorithm>
#include <atomic>
#include <limits>
#include <new>
#include <tuple>
#include <utility>

#include "kernels/conv2d/pixels_plan.h"

namespace l1sparse {
namespace {

// What every thread reads.
struct Run {
  const Conv2dProblem& problem;
  const Conv2dTensors& tensors;
  const Conv2dKernels& kernels;
  PixelsPlan plan;
  PanelAxis rows;
  const std::int64_t* set_cols;
  std::int64_t sets;
  const std::int64_t* tap_begin;  // for each tap column, the output columns that read
  const std::int64_t* tap_end;    // inside the input
  const std::int64_t* column_offsets;
  std::int64_t channel_pitch;
  bool sums_in_output;  // where the tile is not wider than what is left of the outputs
  char* workspace;
  const char** ran;
};

// A piece of work: one image, one convolution group, a rectangle of outputs, a range of filters.
struct Item {
  std::int64_t image, group;
  std::int64_t out_y, rows, out_x, cols;
  std::int64_t first_filter, end_filter;
  std::int64_t pooled_y, pooled_rows;  // its rows of windows, if there are any
};

Item item_at(const PixelsPlan& plan, const Conv2dProblem& problem, std::int64_t index) {
  Item item;
  const std::int64_t bands = plan.items / plan.filter_parts;
  const std::int64_t part = index / bands;
  index %= bands;
  const std::int64_t band_x = index % plan.bands_x;
  if (plan.long_row) {
    const Share tiles = share_of(plan.cols / plan.widest, plan.bands_x, band_x);
    item.out_x = tiles.begin * plan.widest;
    const bool last = band_x == plan.bands_x - 1;
    item.cols = (last ? plan.cols : tiles.end * plan.widest) - item.out_x;
  } else {
    item.out_x = band_x * plan.band_cols;
    item.cols = smaller(plan.band_cols, plan.cols - item.out_x);
  }
  index /= plan.bands_x;
  const std::int64_t band = index % plan.bands_y;
  item.out_y = band * plan.band_rows;
  item.rows = smaller(plan.band_rows, plan.rows - item.out_y);
  if (const MaxPool& pool = problem.pool; pool.kernel_h != 0) {
    item.pooled_y = band * plan.pooled_rows;
    item.pooled_rows = smaller(plan.pooled_rows, pool.out_h - item.pooled_y);
    const std::int64_t top = item.pooled_y * pool.stride_h - pool.pad_top;
    const std::int64_t bottom = top + (item.pooled_rows - 1) * pool.stride_h + pool.kernel_h;
    item.out_y = larger(top, 0);
    item.rows = smaller(bottom, problem.out_h) - item.out_y;
  }
  index /= plan.bands_y;
  item.group = index % problem.groups;
  item.image = index / problem.groups;
  item.first_filter = item.group * plan.filters + part * plan.part_filters;
  item.end_filter = smaller(item.first_filter + plan.part_filters, (item.group + 1) * plan.filters);
  return item;
}

const char* input_of(const Run& run, const Item& item) {
  const Conv2dProblem& problem = run.problem;
  const std::int64_t position =
      item.image * problem.input_strides.n +
      item.group * problem.weight.shape.in_channels * problem.input_strides.c;
  return static_cast<const char*>(run.tensors.input) + position * size_of(problem.dtype);
}

void gather(const Run& run, const Item& item, char* slot) {
  const Conv2dProblem& problem = run.problem;
  PlanesJob job;
  job.input = input_of(run, item);
  job.channel_stride = problem.input_strides.c;
  job.row_stride = problem.input_strides.h;
  job.col_stride = problem.input_strides.w;
  job.channels = problem.weight.shape.in_channels;
  job.height = problem.in_h;
  job.width = problem.in_w;
  job.first_row = item.out_y * problem.stride_h - problem.pad_top;
  job.first_col = item.out_x * problem.stride_w;
  job.rows = run.rows;
  job.cols = item.cols;
  job.row_pitch = run.plan.band_cols;
  job.col_step = problem.stride_w;
  job.set_cols = run.set_cols;
  job.sets = run.sets;
  job.plane_pitch = run.channel_pitch;
  job.planes = reinterpret_cast<float*>(slot);
  job.lines = reinterpret_cast<float*>(slot + run.plan.lines_at);
  job.line_pitch = run.plan.line_pitch;
  run.kernels.gather_planes[static_cast<int>(problem.dtype)](job);
}

// Bits `from` to `to` - 1; 0 <= from <= to <= 64.
std::uint64_t bits_between(std::int64_t from, std::int64_t to) {
  if (from == to) return 0;
  return ~std::uint64_t{0} >> (64 - (to - from)) << from;
}

// For each tap, which of the outputs from position `first` on read inside the input: where both its
// row and its column do. Planes have all the rows that are read.
void find_inside(const Run& run, std::int64_t first, std::int64_t count, std::uint64_t* inside) {
  const Conv2dProblem& problem = run.problem;
  const WeightShape& shape = problem.weight.shape;
  const bool in_place = run.plan.source == Source::in_place;
  std::uint64_t rows[kMaxTapsWithBits], cols[kMaxTapsWithBits];
  for (std::int64_t y = 0; y < shape.kernel_h; ++y) rows[y] = in_place ? 0 : ~std::uint64_t{0};
  for (std::int64_t x = 0; x < shape.kernel_w; ++x) cols[x] = 0;
  std::int64_t out_y = first / problem.out_w, out_x = first % problem.out_w;
  for (std::int64_t at = 0; at < count; ++out_y, out_x = 0) {  // the tile's part of a row
    const std::int64_t end = smaller(at + problem.out_w - out_x, count);
    for (std::int64_t x = 0; x < shape.kernel_w; ++x) {
      const std::int64_t low = larger(run.tap_begin[x] - out_x, 0);
      const std::int64_t high = larger(run.tap_end[x] - out_x, low);
      cols[x] |= bits_between(smaller(at + low, end), smaller(at + high, end));
    }
    std::int64_t row = out_y - problem.pad_top;
    for (std::int64_t y = 0; y < shape.kernel_h && in_place; ++y, row += problem.dilation_h) {
      if (row >= 0 && row < problem.in_h) rows[y] |= bits_between(at, end);
    }
    at = end;
  }
  for (std::int64_t y = 0; y < shape.kernel_h; ++y) {
    for (std::int64_t x = 0; x < shape.kernel_w; ++x) *inside++ = rows[y] & cols[x];
  }
}

// Which entries of a filter block's columns are to be worked on.
struct Entries {
  const std::uint32_t *begin, *end;  // by column
};

// Those of the filter groups [from, to). `memory` holds two numbers a column, needed unless that is
// the whole block.
Entries entries_of(const PackedView& weight, std::int64_t block, std::int64_t from, std::int64_t to,
                   std::uint32_t* memory) {
  const std::int64_t columns = weight.grid.columns();
  const std::int64_t first = block * weight.block_groups;
  const std::int64_t end = smaller(first + weight.block_groups, weight.grid.filter_groups);
  const std::uint32_t* const offsets = weight.row_offsets + block * weight.block_rows;
  const auto positions = [&](std::int64_t filter_group, std::uint32_t* position) {
    for (std::int64_t column = 0; column < columns; ++column) {
      position[column] = static_cast<std::uint32_t>(
          std::lower_bound(weight.entries + offsets[column], weight.entries + offsets[column + 1],
                           static_cast<std::uint32_t>(filter_group)) -
          weight.entries);
    }
    return position;
  };
  const std::uint32_t* const begins = from == first ? offsets : positions(from, memory);
  if (to == end) return {begins, offsets + 1};
  std::uint32_t* const ends = positions(to, memory + columns);
  // Entries that were changed after they were verified may be in any order.
  for (std::int64_t i = 0; i < columns; ++i) ends[i] = std::max(begins[i], ends[i]);
  return {begins, ends};
}

// What a thread does an item with.
struct ItemWork {
  const Run& run;
  const Item& item;
  char* slot;
  ColumnsJob job;
  std::uint64_t inside[kMaxTapsWithBits];
};

ColumnsJob columns_job(const Run& run, char* slot) {
  const PackedView& weight = run.problem.weight;
  ColumnsJob job{};
  job.columns = weight.grid.columns();
  job.taps = weight.grid.taps;
  job.kernel_w = weight.shape.kernel_w;
  job.prefetches = run.plan.activations_ahead;
  job.far_activations = run.plan.far_activations;
  job.group_filters = weight.grid.filters;
  job.group_channels = weight.grid.channels;
  job.last_channels =
      weight.shape.in_channels - (weight.grid.channel_groups - 1) * weight.grid.channels;
  job.filter_groups = job.columns_kept = weight.entries;
  job.row_offsets = weight.row_offsets;
  job.block_columns = weight.block_groups * weight.grid.taps;
  job.block_rows = weight.block_rows;
  job.panel = reinterpret_cast<float*>(slot + run.plan.panel_at);
  job.values = weight.values;
  job.column_offset = run.column_offsets;
  job.channel_pitch = run.channel_pitch;
  job.extra_lanes = reinterpret_cast<float*>(slot + run.plan.extra_lanes_at);
  return job;
}

// Some filters of a block.
struct Filters {
  std::int64_t block_first, first, end;
};

Filters filters_from(const ItemWork& work, std::int64_t first) {
  const std::int64_t size = work.run.plan.block_filters, block = first / size;
  return {block * size, first, smaller((block + 1) * size, work.item.end_filter)};
}

// Makes `work` ready for these filters.
void begin_filters(const Filters& filters, ItemWork& work) {
  const PackedView& weight = work.run.problem.weight;
  const PixelsPlan& plan = work.run.plan;
  const float* const bias = work.run.tensors.bias;
  work.job.bias = bias == nullptr ? nullptr : bias + filters.block_first;
  work.job.first_filter_group =
      static_cast<std::uint32_t>(filters.block_first / weight.grid.filters);
  work.job.first_filter = filters.first - filters.block_first;
  work.job.end_filter = filters.end - filters.block_first;
  if (plan.by_filter) return;  // rows are what it looks for
  const std::int64_t block = filters.block_first / plan.block_filters;
  const std::uint32_t* const offsets = weight.row_offsets + block * weight.block_rows;
  const Entries entries =
      plan.unpruned ? Entries{offsets, offsets + 1}
                    : entries_of(weight, block, filters.first / weight.grid.filters,
                                 ceil_div(filters.end, weight.grid.filters),
                                 reinterpret_cast<std::uint32_t*>(work.slot + plan.entries_at));
  work.job.entries_begin = entries.begin;
  work.job.entries_end = entries.end;
}

// What is computed of the item's outputs, and which of its rows the strip begins with.
struct Outputs {
  std::int64_t begin, end;
  std::int64_t strip_row;
};

// Where the outputs from number `start` on go.
FinishJob finish_from(const ItemWork& work, std::int64_t first, std::int64_t start,
                      std::int64_t strip_row) {
  const Item& item = work.item;
  const Conv2dProblem& problem = work.run.problem;
  if (problem.pool.kernel_h == 0) {
    return finish_job(problem, work.run.tensors, item.image, first,
                      item.out_y + (item.rows > 1 ? start / item.cols : 0),
                      item.out_x + (item.rows > 1 ? start % item.cols : start));
  }
  const PixelsPlan& plan = work.run.plan;
  FinishJob finish = last_step(problem, work.run.tensors, first);
  finish.output =
      reinterpret_cast<float*>(work.slot + plan.strip_at) + (start - strip_row * item.cols);
  finish.filter_stride = plan.strip_pitch;
  finish.col_stride = 1;
  return finish;
}

// What the activation brings outputs into, where it is no more than that.
std::pair<float, float> bounds_of(const Conv2dProblem& problem) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (problem.activation == Activation::clamp) return {problem.low, problem.high};
  return {problem.activation == Activation::relu ? 0.0f : -kInfinity, kInfinity};
}

void run_filters(const Filters& filters, const Outputs& outputs, ItemWork& work) {
  const Run& run = work.run;
  const Conv2dProblem& problem = run.problem;
  const PixelsPlan& plan = run.plan;
  const Item& item = work.item;
  ColumnsJob& job = work.job;
  const bool in_place = plan.source == Source::in_place;
  // Where the last tile begins, if this is the end of the image and there is one.
  const bool ends_image = plan.last_tile != nullptr && item.out_y + item.rows == plan.rows &&
                          item.out_x + item.cols == plan.cols;
  const std::int64_t last = outputs.end - (ends_image ? plan.last_tile->outputs : 0);
  const auto end_of = [&](std::int64_t at) { return at < last ? last : outputs.end; };
  const auto tile_at = [&](std::int64_t at) {
    return ends_image && at == last ? plan.last_tile : &tile_for(plan, end_of(at) - at);
  };
  const auto* planes = reinterpret_cast<const float*>(work.slot);
  char* const sums = work.slot + plan.sums_at;
  const bool ends = run.tensors.residual != nullptr || problem.activation != Activation::none ||
                    problem.dtype != DType::float32;
  job.sum_type = problem.dtype;
  std::tie(job.low, job.high) = bounds_of(problem);
  const DType finished = problem.pool.kernel_h == 0 ? problem.dtype : DType::float32;
  for (std::int64_t at = outputs.begin; at < outputs.end;) {
    const std::int64_t start = at;
    FinishJob finish = finish_from(work, filters.first, start, outputs.strip_row);
    const PixelTile* tile = tile_at(at);
    const bool in_output = run.sums_in_output && tile->outputs <= end_of(at) - at;
    job.sums_pitch = in_output                ? finish.filter_stride
                     : tile == plan.last_tile ? plan.last_pitch
                                              : plan.sums_pitch;
    const std::int64_t sum_bytes = in_output ? size_of(problem.dtype) : kFloatBytes;
    const std::int64_t before = job.first_filter * job.sums_pitch;
    char* const first_sums =
        in_output ? static_cast<char*>(finish.output) - before * sum_bytes : sums;
    const std::int64_t stretch = in_output ? tile->outputs : plan.stretch;
    do {
      const std::int64_t count = smaller(tile->outputs, end_of(at) - at);
      const std::int64_t position = item.out_y * problem.out_w + item.out_x + at;
      if (job.inside != nullptr) find_inside(run, position, count, work.inside);
      job.tile = in_place ? input_of(run, item) + position * size_of(problem.dtype)
                          : reinterpret_cast<const char*>(planes + at);
      job.sums = reinterpret_cast<float*>(first_sums + (at - start) * sum_bytes);
      job.ends = in_output && ends;
      job.residual = finish.residual == nullptr ? nullptr
                                                : static_cast<const char*>(finish.residual) +
                                                      (at - start - before) * sum_bytes;
      job.streams = in_output && plan.streams && streams_by_filter(problem.weight) &&
                    begins_line(finish.output);
      job.sums_are_far = in_output && plan.far_sums && !job.streams;
      job.output = nullptr;
      if (in_output ? plan.next_outputs_ahead : plan.outputs_ahead) {
        const std::int64_t bytes = size_of(problem.dtype), next = in_output ? count : 0;
        job.output = static_cast<const char*>(finish.output) + (at - start + next) * bytes;
        job.output_pitch = finish.filter_stride * bytes;
      }
      tile->accumulate[static_cast<int>(in_place ? problem.dtype : DType::float32)](job);
      at += count;
      if (at == outputs.end) break;
      tile = tile_at(at);
    } while (tile != plan.last_tile && at - start + tile->outputs <= stretch);
    if (in_output) continue;
    finish.bias = nullptr;  // it is in the sums
    finish.sums = reinterpret_cast<const float*>(sums) + before;
    finish.sums_pitch = job.sums_pitch;
    finish.filters = filters.end - filters.first;
    finish.tile_cols = finish.cols = at - start;
    finish.rows = 1;
    finish.streams = plan.streams && begins_line(finish.output);
    run.kernels.finish[static_cast<int>(finished)](finish);
  }
}

// The same and max pooling, strip by strip. Rows that two strips' windows reach are computed once.
void run_pooled_filters(const Filters& filters, ItemWork& work) {
  const Conv2dProblem& problem = work.run.problem;
  const MaxPool& pool = problem.pool;
  const PixelsPlan& plan = work.run.plan;
  const Item& item = work.item;
  auto* const strip = reinterpret_cast<float*>(work.slot + plan.strip_at);
  MaxPoolJob job;
  job.pool = pool;
  job.rows = strip;
  job.filter_pitch = plan.strip_pitch;
  job.filters = filters.end - filters.first;
  job.width = item.cols;
  job.line = reinterpret_cast<float*>(work.slot + plan.pool_line_at);
  job.line_floats = max_pool_line(pool, problem.out_w);
  const std::int64_t plane = item.image * problem.weight.shape.out_channels + filters.first;
  std::int64_t begin = 0, end = 0;  // rows of the item that are in the strip
  for (std::int64_t y = 0; y < item.pooled_rows; y += job.out_rows) {
    job.out_rows = smaller(plan.strip_rows, item.pooled_rows - y);
    const std::int64_t top = (item.pooled_y + y) * pool.stride_h - pool.pad_top - item.out_y;
    const std::int64_t bottom = top + (job.out_rows - 1) * pool.stride_h + pool.kernel_h;
    const std::int64_t wanted = larger(top, 0), kept = larger(end - wanted, 0);
    for (std::int64_t filter = 0; filter < job.filters && kept > 0; ++filter) {
      float* const rows = strip + filter * plan.strip_pitch;
      std::copy_n(rows + (wanted - begin) * item.cols, kept * item.cols, rows);
    }
    begin = wanted;
    end = smaller(bottom, item.rows);
    run_filters(filters, {(wanted + kept) * item.cols, end * item.cols, begin}, work);
    job.height = end - begin;
    job.first_row = top - begin;
    const std::int64_t position = (plane * pool.out_h + item.pooled_y + y) * pool.out_w;
    job.output = static_cast<char*>(work.run.tensors.output) + position * size_of(problem.dtype);
    work.run.kernels.max_pool[static_cast<int>(problem.dtype)](job);
  }
}

const char* run_item(const Run& run, std::int64_t index, char* slot) {
  const PixelsPlan& plan = run.plan;
  const Item item = item_at(plan, run.problem, index);
  if (plan.source != Source::in_place) gather(run, item, slot);
  ItemWork work{run, item, slot, columns_job(run, slot), {}};
  if (plan.source != Source::by_tap) work.job.inside = work.inside;
  for (std::int64_t first = item.first_filter; first < item.end_filter;) {
    const Filters filters = filters_from(work, first);
    begin_filters(filters, work);
    if (run.problem.pool.kernel_h == 0) {
      run_filters(filters, {0, item.rows * item.cols, 0}, work);
    } else {
      run_pooled_filters(filters, work);
    }
    first = filters.end;
  }
  return work.job.ran;
}

// The next item of a slot's share that no thread has taken, on a cache line of its own.
std::atomic<std::size_t>& next_of(const PixelsPlan& plan, char* workspace, std::int64_t slot) {
  return *reinterpret_cast<std::atomic<std::size_t>*>(workspace + plan.shares_at +
                                                      slot * kAlignment);
}

// Does the items of the slot's share, whose inputs and outputs may be in its processor's caches
// from the layer before, and then what is left of others', whose threads are slower or held up.
void run_slot(void* context, std::int64_t slot) {
  const Run& run = *static_cast<const Run*>(context);
  const PixelsPlan& plan = run.plan;
  char* memory = run.workspace + plan.slots_at + slot * plan.slot_bytes;
  for (std::int64_t i = 0; i < plan.slots; ++i) {
    const std::int64_t owner = (slot + i) % plan.slots;
    const std::int64_t end = share_of(plan.items, plan.slots, owner).end;
    std::atomic<std::size_t>& next = next_of(plan, run.workspace, owner);
    for (std::int64_t item; (item = static_cast<std::int64_t>(next++)) < end;) {
      const char* const ran = run_item(run, item, memory);
      if (item == 0 && run.ran != nullptr) *run.ran = ran;
    }
  }
}

}  // namespace

Status pixels_workspace(const Conv2dProblem& problem, Isa isa, std::int64_t threads,
                        std::int64_t* bytes) {
  PixelsPlan plan;
  if (Status status = make_plan(problem, isa, threads, &plan); !status.ok()) return status;
  *bytes = plan.total_bytes;
  return {};
}

Status pixels_conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors, Isa isa,
                     const Parallel& parallel, void* workspace, const char** ran) {
  PixelsPlan plan;
  if (Status status = make_plan(problem, isa, parallel.threads, &plan); !status.ok()) {
    return status;
  }
  if (plan.items == 0) return {};
  auto* base = static_cast<char*>(workspace);
  auto* row_taps = reinterpret_cast<std::int64_t*>(base + plan.row_taps_at);
  auto* column_offsets = reinterpret_cast<std::int64_t*>(base + plan.column_offsets_at);
  const WeightShape& shape = problem.weight.shape;
  const PanelAxis rows =
      plan_axis(plan.band_rows, problem.stride_h, shape.kernel_h, problem.dilation_h,
                reinterpret_cast<AxisRun*>(base + plan.row_runs_at), row_taps);
  const bool in_place = plan.source == Source::in_place;
  const std::int64_t channel_pitch =
      in_place ? problem.input_strides.c : plane_pitch(rows.extent, plan.band_cols);
  auto* const tap_begin = reinterpret_cast<std::int64_t*>(base + plan.tap_begin_at);
  auto* const tap_end = reinterpret_cast<std::int64_t*>(base + plan.tap_end_at);
  auto* const set_cols = reinterpret_cast<std::int64_t*>(base + plan.set_cols_at);
  std::int64_t sets = 0;
  for (std::int64_t x = 0; x < shape.kernel_w; ++x) {
    const std::int64_t shift_x = x * problem.dilation_w - problem.pad_left;
    tap_begin[x] = ceil_div(larger(-shift_x, 0), problem.stride_w);
    tap_end[x] = ceil_div(larger(problem.in_w - shift_x, 0), problem.stride_w);
    // The set of planes that the tap column reads, and how many columns from its first one.
    std::int64_t set = 0, start = shift_x;
    if (plan.source == Source::by_phase) {
      start = (shift_x % problem.stride_w + problem.stride_w) % problem.stride_w;
    }
    while (set < sets && set_cols[set] != start) ++set;
    if (set == sets && !in_place) set_cols[sets++] = start;
    const std::int64_t skipped = (shift_x - start) / problem.stride_w;
    for (std::int64_t group = 0; group < problem.weight.grid.channel_groups; ++group) {
      const std::int64_t channel = group * problem.weight.grid.channels;
      for (std::int64_t y = 0; y < shape.kernel_h; ++y) {
        const std::int64_t shift_y = y * problem.dilation_h - problem.pad_top;
        column_offsets[(group * shape.kernel_h + y) * shape.kernel_w + x] =
            in_place ? channel * channel_pitch + shift_y * problem.in_w + shift_x
                     : (set * shape.in_channels + channel) * channel_pitch +
                           row_taps[y] * plan.band_cols + skipped;
      }
    }
  }
  for (std::int64_t slot = 0; slot < plan.slots; ++slot) {
    const std::int64_t begin = share_of(plan.items, plan.slots, slot).begin;
    new (&next_of(plan, base, slot)) std::atomic<std::size_t>(static_cast<std::size_t>(begin));
  }
  // Otherwise what goes past the caches does so in the last step.
  const bool sums_in_output =
      sums_fit_output(problem, tensors) && (written_once(problem.weight) || !plan.streams);
  Run run{problem,   tensors, kernels_for(isa), plan,          rows,           set_cols, sets,
          tap_begin, tap_end, column_offsets,   channel_pitch, sums_in_output, base,     ran};
  parallel.for_each(plan.slots, run_slot, &run);
  return {};
}

// The same but for the step on a tile, which the plan chooses.
Status filters_workspace(const Conv2dProblem& problem, Isa isa, std::int64_t threads,
                         std::int64_t* bytes) {
  return pixels_workspace(problem, isa, threads, bytes);
}

Status filters_conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors, Isa isa,
                      const Parallel& parallel, void* workspace, const char** ran) {
  return pixels_conv2d(problem, tensors, isa, parallel, workspace, ran);
}

}  // namespace l1sparse
