// SPDX-License-Identifier: MIT
#include "format/packed.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "base/checked.h"

namespace l1sparse {
namespace {

constexpr char kMagic[8] = {'L', '1', 'S', 'P', 'A', 'R', 'S', 'E'};
// Dimensions and counts stay below this, so that sums of two of them fit 32 bits.
constexpr std::int64_t kMaxExtent = 0x3fffffff;

// Activations of one channel block for a tile of 4 x 7 outputs. In a 32 KiB first-level cache they
// leave room for wider tiles and for the weights that stream past; docs/kernels.md has the figures.
constexpr std::int64_t kBlockBytes = 16 * 1024;
constexpr std::int64_t kTileRows = 4;
constexpr std::int64_t kTileCols = 7;

// Filters of a block that share a column's activations, on average, and how many filters a block
// has at least and at most. The more there are, the better activations that were brought to
// registers are used; but the sums of 256 filters for a tile of 48 outputs take 48 KiB, a nearest
// cache.
constexpr std::int64_t kSharingBlockFilters = 64;
constexpr std::int64_t kFewestBlockFilters = 128;
constexpr std::int64_t kMostBlockFilters = 512;

// Activations of one output in a channel block under `filters`. For a tile of 64 outputs they take
// 36 KiB of a 48 KiB first-level cache.
constexpr std::int64_t kBlockActivations = 144;

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kAlignment = kPackedAlignment;

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t larger(std::int64_t a, std::int64_t b) { return a < b ? b : a; }

std::int64_t even_blocks(std::int64_t groups, std::int64_t fitting) {
  return ceil_div(groups, ceil_div(groups, fitting < 1 ? 1 : fitting));
}

std::int64_t block_groups_for(const WeightShape& shape, const GroupGrid& grid, std::int64_t kept,
                              Strategy strategy) {
  if (strategy == Strategy::pixels) {
    const std::int64_t wanted =
        kept == 0 ? kMostBlockFilters : checked_mul(kSharingBlockFilters, grid.groups()) / kept;
    const std::int64_t filters = std::clamp(wanted, kFewestBlockFilters, kMostBlockFilters);
    const std::int64_t fitting = larger(filters / grid.filters, 1);
    const std::int64_t blocks = larger((grid.filter_groups + fitting / 2) / fitting, 1);
    return ceil_div(grid.filter_groups, blocks);
  }
  if (strategy == Strategy::filters) {
    return even_blocks(grid.channel_groups,
                       kBlockActivations / checked_mul(grid.channels, grid.taps));
  }
  const std::int64_t pixels =
      checked_mul(kTileRows + shape.kernel_h - 1, kTileCols + shape.kernel_w - 1);
  const std::int64_t group_bytes = checked_mul(pixels, checked_mul(grid.channels, kFloatBytes));
  return even_blocks(grid.channel_groups, kBlockBytes / group_bytes);
}

// Whether the lower halves of all numbers are zero.
bool are_bfloat16(const float* values, std::int64_t count) {
  std::uint32_t bits = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t value;
    std::memcpy(&value, values + i, sizeof(value));
    bits |= value;
  }
  return (bits & 0xffffu) == 0;
}

// What rows and entries are under a strategy.
struct Rows {
  bool by_column;
  std::int64_t in_block;       // rows of a block
  std::int64_t block_entries;  // entries that a row of a full block can have
  std::int64_t entries;        // that rows of all blocks together can have
  std::int64_t blocks;

  Rows(const GroupGrid& grid, Strategy strategy, std::int64_t block_groups)
      : by_column(strategy == Strategy::pixels),
        in_block(by_column ? grid.columns() : grid.filter_groups),
        block_entries(checked_mul(block_groups, by_column ? 1 : grid.taps)),
        entries(by_column ? grid.filter_groups : grid.columns()),
        blocks(ceil_div(entries, block_entries)) {}

  std::int64_t count() const { return checked_mul(in_block, blocks); }
  std::int64_t first_entry(std::int64_t block) const { return block * block_entries; }
  std::int64_t end_entry(std::int64_t block) const {
    return smaller(checked_mul(block + 1, block_entries), entries);
  }
  std::int64_t filter_group(std::int64_t row, std::int64_t entry) const {
    return by_column ? entry : row % in_block;
  }
  std::int64_t column(std::int64_t row, std::int64_t entry) const {
    return by_column ? row % in_block : entry;
  }
};

struct Layout {
  std::int64_t entries_at, values_at, total;
};

Layout layout_of(const GroupGrid& grid, const Rows& rows, std::int64_t kept) {
  Layout layout;
  layout.entries_at =
      checked_add(sizeof(PackedHeader), checked_mul(checked_add(rows.count(), 1), 4));
  layout.values_at = round_up(checked_add(layout.entries_at, checked_mul(kept, 4)), kAlignment);
  const std::int64_t group_bytes =
      checked_mul(checked_mul(grid.filters, grid.channels), kFloatBytes);
  layout.total = checked_add(layout.values_at, checked_mul(kept, group_bytes));
  return layout;
}

std::int64_t count_kept(const GroupGrid& grid, const std::uint8_t* grid_mask) {
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < grid.groups(); ++i) kept += grid_mask[i] != 0;
  return kept;
}

// The part of a group that lies inside the weight.
struct GroupExtent {
  std::int64_t first_filter, filters, first_channel, channels;
};

GroupExtent extent_of(const WeightShape& shape, std::int64_t filter_group,
                      std::int64_t channel_group) {
  GroupExtent extent;
  extent.first_filter = filter_group * shape.group_filters;
  extent.first_channel = channel_group * shape.group_channels;
  extent.filters = smaller(shape.group_filters, shape.out_channels - extent.first_filter);
  extent.channels = smaller(shape.group_channels, shape.in_channels - extent.first_channel);
  return extent;
}

// Calls visit(dense_index, packed_index) for every weight of a group that exists.
template <class Visit>
void for_each_weight(const WeightShape& shape, const GroupGrid& grid, std::int64_t filter_group,
                     std::int64_t channel_group, std::int64_t tap, Visit visit) {
  const GroupExtent extent = extent_of(shape, filter_group, channel_group);
  const std::int64_t taps = shape.kernel_h * shape.kernel_w;
  for (std::int64_t f = 0; f < extent.filters; ++f) {
    for (std::int64_t c = 0; c < extent.channels; ++c) {
      const std::int64_t filter = extent.first_filter + f;
      const std::int64_t channel = extent.first_channel + c;
      visit((filter * shape.in_channels + channel) * taps + tap, f * grid.channels + c);
    }
  }
}

// Calls visit(filter_group, column, place) for every kept group, in the order of their places.
template <class Visit>
void for_each_kept(const PackedView& view, Visit visit) {
  const Rows rows(view.grid, view.strategy, view.block_groups);
  for (std::int64_t row = 0; row < rows.count(); ++row) {
    for (std::uint32_t i = view.row_offsets[row]; i < view.row_offsets[row + 1]; ++i) {
      const std::int64_t entry = view.entries[i];
      visit(rows.filter_group(row, entry), rows.column(row, entry), std::int64_t{i});
    }
  }
}

Status check_extent(std::int64_t value, Code code) {
  return value < 1 || value > kMaxExtent ? Status{code, value, kMaxExtent} : Status{};
}

// Whether an entry lies outside of first to last, which are below 2^31. There is no branch in the
// loop and nothing is inlined around it, so that compilers make vector instructions of it.
__attribute__((noinline)) bool any_outside(const std::uint32_t* entry, const std::uint32_t* end,
                                           std::uint32_t first, std::uint32_t last) {
  std::uint32_t signs = 0;
  for (; entry != end; ++entry) signs |= (last - *entry) | (*entry - first);
  return signs >> 31 != 0;
}

}  // namespace

const char* strategy_name(Strategy strategy) {
  static constexpr const char* kNames[] = {
#define L1SPARSE_STRATEGY(name) #name,
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY
  };
  return kNames[static_cast<int>(strategy)];
}

Status check_shape(const WeightShape& shape, GroupGrid* grid) {
  for (const std::int64_t side : {shape.group_filters, shape.group_channels}) {
    if (Status status = check_extent(side, Code::bad_group); !status.ok()) return status;
  }
  for (const std::int64_t dimension :
       {shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w}) {
    if (Status status = check_extent(dimension, Code::bad_shape); !status.ok()) return status;
  }
  grid->filter_groups = ceil_div(shape.out_channels, shape.group_filters);
  grid->channel_groups = ceil_div(shape.in_channels, shape.group_channels);
  grid->taps = checked_mul(shape.kernel_h, shape.kernel_w);
  grid->filters = smaller(shape.group_filters, shape.out_channels);
  grid->channels = smaller(shape.group_channels, shape.in_channels);
  const std::int64_t columns = checked_mul(grid->channel_groups, grid->taps);
  const std::int64_t filters = checked_mul(shape.out_channels, kFloatBytes);
  const std::int64_t weight_bytes =
      checked_mul(checked_mul(filters, shape.in_channels), grid->taps);
  if (columns > kMaxExtent || checked_mul(columns, grid->filter_groups) > UINT32_MAX ||
      weight_bytes == kTooLarge) {
    return {Code::too_large, kTooLarge, 0};
  }
  return {};
}

Status mask_to_grid(const WeightShape& shape, const std::uint8_t* mask, std::uint8_t* grid_mask) {
  GroupGrid grid;
  if (Status status = check_shape(shape, &grid); !status.ok()) return status;
  std::int64_t index = 0;
  for (std::int64_t i = 0; i < grid.filter_groups; ++i) {
    for (std::int64_t j = 0; j < grid.channel_groups; ++j) {
      for (std::int64_t tap = 0; tap < grid.taps; ++tap, ++index) {
        std::int64_t kept = 0, seen = 0;
        for_each_weight(shape, grid, i, j, tap, [&](std::int64_t dense, std::int64_t) {
          kept += mask[dense] != 0;
          ++seen;
        });
        if (kept != 0 && kept != seen) return {Code::mask_cuts_group, index, 0};
        grid_mask[index] = kept != 0;
      }
    }
  }
  return {};
}

Status packed_bytes(const WeightShape& shape, const std::uint8_t* grid_mask, Strategy strategy,
                    std::int64_t* bytes) {
  GroupGrid grid;
  if (Status status = check_shape(shape, &grid); !status.ok()) return status;
  const std::int64_t kept = count_kept(grid, grid_mask);
  const Rows rows(grid, strategy, block_groups_for(shape, grid, kept, strategy));
  const Layout layout = layout_of(grid, rows, kept);
  if (layout.total == kTooLarge) return {Code::too_large, kTooLarge, 0};
  *bytes = layout.total;
  return {};
}

Status pack(const WeightShape& shape, const float* weight, const std::uint8_t* grid_mask,
            Strategy strategy, void* buffer, std::int64_t bytes) {
  GroupGrid grid;
  if (Status status = check_shape(shape, &grid); !status.ok()) return status;
  const std::int64_t kept = count_kept(grid, grid_mask);
  const std::int64_t block_groups = block_groups_for(shape, grid, kept, strategy);
  const Rows rows(grid, strategy, block_groups);
  const Layout layout = layout_of(grid, rows, kept);
  if (layout.total != bytes) return {Code::packed_size, bytes, layout.total};

  auto* data = static_cast<std::uint8_t*>(buffer);
  std::memset(data, 0, static_cast<std::size_t>(bytes));
  PackedHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kPackedVersion;
  header.dtype = kFloat32;
  header.strategy = strategy;
  header.group_filters = static_cast<std::uint32_t>(shape.group_filters);
  header.group_channels = static_cast<std::uint32_t>(shape.group_channels);
  header.out_channels = static_cast<std::uint32_t>(shape.out_channels);
  header.in_channels = static_cast<std::uint32_t>(shape.in_channels);
  header.kernel_h = static_cast<std::uint32_t>(shape.kernel_h);
  header.kernel_w = static_cast<std::uint32_t>(shape.kernel_w);
  header.block_groups = static_cast<std::uint32_t>(block_groups);
  header.kept_groups = static_cast<std::uint32_t>(kept);
  header.total_bytes = static_cast<std::uint64_t>(bytes);

  auto* row_offsets = reinterpret_cast<std::uint32_t*>(data + sizeof(PackedHeader));
  auto* entries = reinterpret_cast<std::uint32_t*>(data + layout.entries_at);
  auto* values = reinterpret_cast<float*>(data + layout.values_at);
  const std::int64_t group_size = grid.filters * grid.channels;
  std::uint32_t written = 0;
  for (std::int64_t row = 0; row < rows.count(); ++row) {
    row_offsets[row] = written;
    const std::int64_t block = row / rows.in_block;
    for (std::int64_t entry = rows.first_entry(block); entry < rows.end_entry(block); ++entry) {
      const std::int64_t filter_group = rows.filter_group(row, entry);
      const std::int64_t column = rows.column(row, entry);
      if (grid_mask[filter_group * grid.columns() + column] == 0) continue;
      float* group_values = values + written * group_size;
      for_each_weight(
          shape, grid, filter_group, column / grid.taps, column % grid.taps,
          [&](std::int64_t dense, std::int64_t packed) { group_values[packed] = weight[dense]; });
      entries[written++] = static_cast<std::uint32_t>(entry);
    }
  }
  row_offsets[rows.count()] = written;
  if (are_bfloat16(values, kept * group_size)) header.dtype = kFloat32OfBFloat16;
  std::memcpy(data, &header, sizeof(header));
  header.checksum = packed_checksum(data, bytes);
  std::memcpy(data, &header, sizeof(header));
  return {};
}

Status open_packed(const void* buffer, std::int64_t bytes, PackedView* view) {
  const auto misaligned = reinterpret_cast<std::uintptr_t>(buffer) % kReadAlignment;
  if (bytes < static_cast<std::int64_t>(sizeof(PackedHeader))) {
    return {Code::packed_too_short, bytes, sizeof(PackedHeader)};
  }
  if (misaligned != 0) {
    return {Code::packed_unaligned, static_cast<std::int64_t>(misaligned), kReadAlignment};
  }
  PackedHeader header;
  std::memcpy(&header, buffer, sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return {Code::packed_magic};
  if (header.version != kPackedVersion) {
    return {Code::packed_version, header.version, kPackedVersion};
  }
  if (header.dtype != kFloat32 && header.dtype != kFloat32OfBFloat16) {
    return {Code::packed_dtype, header.dtype, kFloat32};
  }
  if (static_cast<int>(header.strategy) >= kStrategyCount) {
    return {Code::packed_strategy, static_cast<int>(header.strategy), kStrategyCount - 1};
  }
  for (const std::uint32_t field :
       {header.group_filters, header.group_channels, header.out_channels, header.in_channels,
        header.kernel_h, header.kernel_w, header.block_groups}) {
    if (Status status = check_extent(field, Code::packed_field); !status.ok()) return status;
  }
  const WeightShape shape{header.out_channels, header.in_channels,   header.kernel_h,
                          header.kernel_w,     header.group_filters, header.group_channels};
  GroupGrid grid;
  if (Status status = check_shape(shape, &grid); !status.ok()) return status;
  if (header.kept_groups > grid.groups()) {
    return {Code::packed_field, header.kept_groups, grid.groups()};
  }
  const Rows rows(grid, header.strategy, header.block_groups);
  const Layout layout = layout_of(grid, rows, header.kept_groups);
  if (layout.total != bytes || header.total_bytes != static_cast<std::uint64_t>(bytes)) {
    return {Code::packed_size, bytes, layout.total};
  }

  const auto* data = static_cast<const std::uint8_t*>(buffer);
  const auto* row_offsets = reinterpret_cast<const std::uint32_t*>(data + sizeof(PackedHeader));
  const auto* entries = reinterpret_cast<const std::uint32_t*>(data + layout.entries_at);
  const std::int64_t row_count = rows.count();
  if (row_offsets[0] != 0) return {Code::packed_row_offset, row_offsets[0], 0};
  for (std::int64_t row = 0; row < row_count; ++row) {
    if (row_offsets[row] > row_offsets[row + 1]) {
      return {Code::packed_row_offset, row_offsets[row], row_offsets[row + 1]};
    }
  }
  if (row_offsets[row_count] != header.kept_groups) {
    return {Code::packed_row_offset, row_offsets[row_count], header.kept_groups};
  }
  for (std::int64_t block = 0; block < rows.blocks; ++block) {
    const auto first = static_cast<std::uint32_t>(rows.first_entry(block));
    const auto last = static_cast<std::uint32_t>(rows.end_entry(block) - 1);
    const std::uint32_t begin = row_offsets[block * rows.in_block];
    const std::uint32_t end = row_offsets[(block + 1) * rows.in_block];
    if (any_outside(entries + begin, entries + end, first, last)) {
      std::uint32_t i = begin;
      while (entries[i] >= first && entries[i] <= last) ++i;
      return {Code::packed_entry, entries[i], last};
    }
  }

  view->shape = shape;
  view->grid = grid;
  view->strategy = header.strategy;
  view->blocks = rows.blocks;
  view->block_groups = header.block_groups;
  view->block_rows = rows.in_block;
  view->kept_groups = header.kept_groups;
  view->row_offsets = row_offsets;
  view->entries = entries;
  view->values = reinterpret_cast<const float*>(data + layout.values_at);
  view->bfloat16_values = header.dtype == kFloat32OfBFloat16;
  view->checksum = header.checksum;
  return {};
}

Status verify_packed(const void* buffer, std::int64_t bytes, const PackedView& view) {
  if (view.checksum != packed_checksum(buffer, bytes)) return {Code::packed_checksum};
  const std::int64_t numbers = view.kept_groups * view.grid.filters * view.grid.channels;
  if (view.bfloat16_values && !are_bfloat16(view.values, numbers)) {
    return {Code::packed_dtype, kFloat32OfBFloat16, kFloat32};
  }
  const Rows rows(view.grid, view.strategy, view.block_groups);
  for (std::int64_t row = 0; row < rows.count(); ++row) {
    for (std::uint32_t i = view.row_offsets[row] + 1; i < view.row_offsets[row + 1]; ++i) {
      if (view.entries[i] <= view.entries[i - 1]) {
        return {Code::packed_entry, view.entries[i], rows.end_entry(row / rows.in_block) - 1};
      }
    }
  }
  return {};
}

std::int64_t kept_weights(const PackedView& view) {
  std::int64_t kept = 0;
  for_each_kept(view, [&](std::int64_t filter_group, std::int64_t column, std::int64_t) {
    const GroupExtent extent = extent_of(view.shape, filter_group, column / view.grid.taps);
    kept += extent.filters * extent.channels;
  });
  return kept;
}

void unpack(const PackedView& view, float* weight) {
  const std::int64_t taps = view.grid.taps;
  const std::int64_t group_size = view.grid.filters * view.grid.channels;
  const std::int64_t weights = view.shape.out_channels * view.shape.in_channels * taps;
  std::memset(weight, 0, static_cast<std::size_t>(weights) * sizeof(float));
  for_each_kept(view, [&](std::int64_t filter_group, std::int64_t column, std::int64_t at) {
    const float* group_values = view.values + at * group_size;
    for_each_weight(
        view.shape, view.grid, filter_group, column / taps, column % taps,
        [&](std::int64_t dense, std::int64_t packed) { weight[dense] = group_values[packed]; });
  });
}

std::int64_t gather_scratch(const PackedView& view) {
  return checked_add(checked_add(view.grid.filter_groups, 1), checked_mul(2, view.kept_groups));
}

void gather_values(const PackedView& view, const float* weight, float* values,
                   std::uint32_t* scratch) {
  // Filter by filter, since the dense weight is the larger of the two and lies so: its cache lines
  // are then read once, one after the other.
  std::uint32_t* const next = scratch;  // for each filter group, where its next group goes
  std::uint32_t* const columns = next + view.grid.filter_groups + 1;
  std::uint32_t* const places = columns + view.kept_groups;
  std::memset(next, 0, static_cast<std::size_t>(view.grid.filter_groups + 1) * sizeof(*next));
  for_each_kept(view, [&](std::int64_t filter_group, std::int64_t, std::int64_t) {
    ++next[filter_group + 1];
  });
  for (std::int64_t i = 0; i < view.grid.filter_groups; ++i) next[i + 1] += next[i];
  for_each_kept(view, [&](std::int64_t filter_group, std::int64_t column, std::int64_t at) {
    const std::uint32_t to = next[filter_group]++;
    columns[to] = static_cast<std::uint32_t>(column);
    places[to] = static_cast<std::uint32_t>(at);
  });
  const std::int64_t taps = view.grid.taps;
  const std::int64_t group_size = view.grid.filters * view.grid.channels;
  std::uint32_t begin = 0;
  for (std::int64_t filter_group = 0; filter_group < view.grid.filter_groups; ++filter_group) {
    for (std::uint32_t i = begin; i < next[filter_group]; ++i) {
      const std::int64_t channel_group = columns[i] / taps, tap = columns[i] % taps;
      float* group_values = values + places[i] * group_size;
      const GroupExtent extent = extent_of(view.shape, filter_group, channel_group);
      if (extent.filters * extent.channels != group_size) {
        std::memset(group_values, 0, static_cast<std::size_t>(group_size) * sizeof(float));
      }
      for_each_weight(
          view.shape, view.grid, filter_group, channel_group, tap,
          [&](std::int64_t dense, std::int64_t packed) { group_values[packed] = weight[dense]; });
    }
    begin = next[filter_group];
  }
}

void list_kept_groups(const PackedView& view, KeptGroup* groups) {
  for_each_kept(view, [&](std::int64_t filter_group, std::int64_t column, std::int64_t at) {
    groups[at] = {static_cast<std::uint32_t>(filter_group), static_cast<std::uint32_t>(column)};
  });
}

}  // namespace l1sparse
