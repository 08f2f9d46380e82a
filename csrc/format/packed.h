// SPDX-License-Identifier: MIT
// The packed group-sparse weight: one contiguous buffer that travels through tensors, files and
// devices as it is.
//
//   header         64 bytes, PackedHeader
//   row_offsets    uint32[rows + 1]; row r holds the groups row_offsets[r] .. row_offsets[r + 1]
//   entries        uint32[kept_groups], ascending inside a row
//   (zero bytes up to the next multiple of 64)
//   values         float[kept_groups][filters][channels] of a group, GroupGrid says how many
//
// A kept group has two coordinates: its filter group, and its column, which is its place in the
// filter: (channel_group * kernel_h + y) * kernel_w + x. The row gives one of them and the entry
// the other. Which one depends on the strategy, so that the kernel reads the buffer front to back:
//
//   strategy   a row is a           an entry is a   a block is `block_groups` consecutive
//   channels   filter group         column          channel groups
//   pixels     column               filter group    filter groups
//   filters    filter group         column          channel groups
//
// Rows are ordered block first. A block is small enough for what its rows share (activations of
// the channel groups; sums of the filter groups) to stay in the nearest cache. A last group that
// is cut short by the end of the filters or channels is filled up with zeros.
//
// All numbers are little-endian, on every processor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace l1sparse {

constexpr std::uint32_t kPackedVersion = 1;
// What `dtype` says of the values, which are float32 either way: any, or all of them bfloat16
// numbers exactly, which kernels for bfloat16 profit from.
constexpr std::uint16_t kFloat32 = 1;
constexpr std::uint16_t kFloat32OfBFloat16 = 2;
constexpr std::size_t kPackedAlignment = 64;  // of what pack() writes, and of the parts in it
constexpr std::size_t kReadAlignment = 8;     // of what can be read: files are mapped anywhere

// How a kernel goes through the kept groups; kernels/conv2d has one file for each.
enum class Strategy : std::uint16_t {
#define L1SPARSE_STRATEGY(name) name,
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY
};

constexpr int kStrategyCount = 0
#define L1SPARSE_STRATEGY(name) +1
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY
    ;

const char* strategy_name(Strategy strategy);

struct PackedHeader {
  char magic[8];  // "L1SPARSE"
  std::uint32_t version;
  std::uint16_t dtype;
  Strategy strategy;
  std::uint32_t group_filters;
  std::uint32_t group_channels;
  std::uint32_t out_channels;
  std::uint32_t in_channels;  // of one convolution group
  std::uint32_t kernel_h;
  std::uint32_t kernel_w;
  std::uint32_t block_groups;
  std::uint32_t kept_groups;
  std::uint64_t total_bytes;
  std::uint64_t checksum;  // of every other byte of the buffer
};
static_assert(sizeof(PackedHeader) == 64);

// Shape of a dense weight [out_channels, in_channels, kernel_h, kernel_w] and of its groups.
struct WeightShape {
  std::int64_t out_channels, in_channels, kernel_h, kernel_w;
  std::int64_t group_filters, group_channels;
};

// The group grid [filter_groups, channel_groups, kernel_h, kernel_w], and the extents of a stored
// group: the group shape's, but never more than the weight has.
struct GroupGrid {
  std::int64_t filter_groups, channel_groups, taps;
  std::int64_t filters, channels;
  std::int64_t groups() const { return filter_groups * channel_groups * taps; }
  std::int64_t columns() const { return channel_groups * taps; }
};

// A checked packed buffer, ready to be read: every offset and column is in range.
struct PackedView {
  WeightShape shape;
  GroupGrid grid;
  Strategy strategy;
  std::int64_t blocks;
  std::int64_t block_groups;  // channel or filter groups of a block
  std::int64_t block_rows;
  std::int64_t kept_groups;
  const std::uint32_t* row_offsets;
  const std::uint32_t* entries;
  const float* values;
  bool bfloat16_values;    // all of them are bfloat16 numbers exactly; see verify_packed
  std::uint64_t checksum;  // as stored; see verify_packed
};

// Checks that a weight of this shape can be packed, and gives its grid.
Status check_shape(const WeightShape& shape, GroupGrid* grid);

// Collapses a mask of the weight's shape (one byte a weight, 0 = pruned) into one byte a group.
Status mask_to_grid(const WeightShape& shape, const std::uint8_t* mask, std::uint8_t* grid_mask);

// Bytes of the packed form of a weight whose groups `grid_mask` keeps (one byte a group).
Status packed_bytes(const WeightShape& shape, const std::uint8_t* grid_mask, Strategy strategy,
                    std::int64_t* bytes);

// Writes the packed form into `buffer`, which has exactly packed_bytes() bytes and starts at a
// multiple of kPackedAlignment.
Status pack(const WeightShape& shape, const float* weight, const std::uint8_t* grid_mask,
            Strategy strategy, void* buffer, std::int64_t bytes);

// Checks everything that memory safety rests on, whatever the bytes hold: every size, count,
// offset and entry. Cheap enough for every call; `view` is set on success.
Status open_packed(const void* buffer, std::int64_t bytes, PackedView* view);

// Checks what open_packed leaves out because it costs a pass over the values or says nothing about
// safety: the checksum, the order of the entries and what the header says of the values. Once for a
// buffer is enough.
Status verify_packed(const void* buffer, std::int64_t bytes, const PackedView& view);

// The checksum that a buffer of at least the header's size should store.
std::uint64_t packed_checksum(const void* buffer, std::int64_t bytes);

// Weights of the kept groups that lie inside the weight.
std::int64_t kept_weights(const PackedView& view);

// Writes the dense weight, pruned weights as +0.
void unpack(const PackedView& view, float* weight);

// ---- values apart from their pattern --------------------------------------------------------
//
// For training: where the groups lie stays, their weights change. `view.values` may be replaced by
// any float[kept_groups][filters][channels] of the grid; `bfloat16_values` is false then.

// Numbers of scratch memory that gather_values needs.
std::int64_t gather_scratch(const PackedView& view);

// Takes the values of the kept groups out of a dense weight, in the order in which `view` stores
// them; what a last group has beyond the weight is 0.
void gather_values(const PackedView& view, const float* weight, float* values,
                   std::uint32_t* scratch);

// Where a kept group lies in the group grid.
struct KeptGroup {
  std::uint32_t filter_group, column;
};

// Writes the place of every kept group, in the order in which they are stored.
void list_kept_groups(const PackedView& view, KeptGroup* groups);

}  // namespace l1sparse
