// SPDX-License-Identifier: MIT
// What is read and written later, brought near a little at a time while other work is done. A core
// has few places for lines that are on their way (16 on recent Intel cores): asked for all at once,
// the others wait, and so does what follows them. See channels_generic.h for why everything is in
// an anonymous namespace.
#pragma once

#include <cstdint>

#include "kernels/conv2d/finish_generic.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// Whether it is a little at a time. Code that is to be small asks for all that a column does at
// once, in functions that all tiles share.
#ifdef __OPTIMIZE_SIZE__
constexpr bool kAsksByFilter = false;
#define L1SPARSE_AHEAD_INLINE __attribute__((noinline))
#else
constexpr bool kAsksByFilter = true;
#define L1SPARSE_AHEAD_INLINE L1SPARSE_INLINE
#endif

// Stretches of memory, as far apart as `pitch`, of which `left` are to be asked for.
struct Stretches {
  const void* next;
  std::int64_t pitch;  // bytes
  std::int64_t left;

  // Asks for the next one, of so many bytes; kFar: it is brought to the second-level cache.
  template <bool kFar>
  L1SPARSE_INLINE void ask(int bytes) {
#pragma GCC unroll 8
    for (int byte = 0; byte < bytes; byte += kCacheLine) {
      if constexpr (kFar) {
        prefetch_to_second_level(next, byte);
      } else {
        prefetch(next, byte);
      }
    }
    next = moved(next, pitch);
    --left;
  }
};

// For a tile under `pixels`: activations that are read, and outputs that are written next. A step
// is made with every filter of every column.
struct Ahead {
  Stretches activations, outputs;
  bool far;  // activations come from main memory: they are brought to the second-level cache

  bool any_left() const { return (activations.left | outputs.left) != 0; }

  // bytes: of a tile's activations of one channel, and of its outputs of one filter.
  L1SPARSE_INLINE void step(int bytes) {
    if (activations.left != 0) ask_for_activations(bytes);
    if (outputs.left != 0) outputs.ask<true>(bytes);
  }

  L1SPARSE_INLINE void ask_for_activations(int bytes) {
    if (far) {
      activations.ask<true>(bytes);
    } else {
      activations.ask<false>(bytes);
    }
  }
};

// Channel groups from the one in use to the one that is asked for from main memory.
constexpr std::int64_t kFarGroupsAhead = 4;

// Says at every column of a tile, in their order, what its steps are to ask for. `outputs` and
// `element_bytes` are the tile's, always the same.
class AheadByColumn {
 public:
  L1SPARSE_AHEAD_INLINE
  AheadByColumn(const ColumnsJob& job, int outputs, int element_bytes)
      : ahead_{{job.tile, job.channel_pitch * element_bytes, 0},
               {job.output, job.output_pitch, 0},
               job.far_activations},
        next_row_(job.prefetches ? 0 : job.columns),
        filters_(job.output == nullptr ? 0 : job.end_filter - job.first_filter),
        filters_a_column_(filters_ / job.columns),
        filters_left_(filters_ % job.columns) {
    move_on(job, (job.far_activations ? kFarGroupsAhead : 1) * job.taps, outputs * element_bytes);
  }

  L1SPARSE_AHEAD_INLINE
  Ahead* at_column(const ColumnsJob& job, std::int64_t column, int outputs, int element_bytes) {
    if (column == next_row_) begin_activations(job, outputs * element_bytes, element_bytes);
    if (filters_ != 0) begin_outputs(job, outputs * element_bytes);
    if constexpr (!kAsksByFilter) {
      while (ahead_.any_left()) ahead_.step(outputs * element_bytes);
    }
    return &ahead_;
  }

 private:
  // What the same tap of a later channel group reads, or of the next tile's first ones; taps side
  // by side read the same lines but for an element. Channels lie so far apart that no prefetcher
  // follows them.
  L1SPARSE_INLINE void begin_activations(const ColumnsJob& job, int bytes, int element_bytes) {
    // What too few filters were there for.
    while (ahead_.activations.left != 0) ahead_.ask_for_activations(bytes);
    // Where they begin within a line, the tile before has asked for that one.
    const std::int64_t byte = first_byte_ + kCacheLine - element_bytes;
    ahead_.activations.next =
        moved(job.tile, job.column_offset[ahead_column_] * element_bytes + byte);
    ahead_.activations.left = job.group_channels;
    next_row_ += job.kernel_w;
    move_on(job, job.kernel_w, bytes);
  }

  // So many columns, past the last one to the next tile's first.
  L1SPARSE_INLINE void move_on(const ColumnsJob& job, std::int64_t columns, int bytes) {
    ahead_column_ += columns;
    while (ahead_column_ >= job.columns) {
      ahead_column_ -= job.columns;
      first_byte_ += bytes;
    }
  }

  // Evenly over the tile's columns.
  L1SPARSE_INLINE void begin_outputs(const ColumnsJob& job, int bytes) {
    // Activations come first, so there may be too few filters for outputs at every column.
    while (ahead_.outputs.left > filters_a_column_) ahead_.outputs.ask<true>(bytes);
    ahead_.outputs.left += filters_a_column_;
    due_ += filters_left_;
    if (due_ < job.columns) return;
    due_ -= job.columns;
    ++ahead_.outputs.left;
  }

  Ahead ahead_;
  std::int64_t next_row_;          // the column at which activations are begun next
  std::int64_t ahead_column_ = 0;  // whose are then,
  std::int64_t first_byte_ = 0;    // from this one of the tile on
  std::int64_t filters_, filters_a_column_, filters_left_;
  std::int64_t due_ = 0;  // filters times columns
};

// For a block under `filters`: what the next one reads, or the next tile's first one. A step is
// made with every entry of every few filters.
class BlockAhead {
 public:
  // The block ends with the column `end` - 1.
  BlockAhead(const ColumnsJob& job, std::int64_t end, std::int64_t outputs,
             std::int64_t element_bytes)
      : element_bytes_(element_bytes), bytes_(outputs * element_bytes) {
    const bool last = end == job.columns;
    column_ = last ? 0 : end;
    first_output_ = last ? outputs : 0;
    const std::int64_t rest = job.columns - column_;
    // Taps side by side read the same lines but for an element.
    left_ =
        (rest < job.block_columns ? rest : job.block_columns) / job.kernel_w * job.group_channels;
    channels_ = left_;
  }

  // Shares them out evenly to so many steps.
  void begin(std::int64_t steps) {
    steps_ = steps;
    if (steps == 0) left_ = 0;
  }

  L1SPARSE_INLINE void step(const ColumnsJob& job) {
    for (due_ += channels_; due_ >= steps_ && left_ != 0; due_ -= steps_, --left_) {
      const std::int64_t element =
          job.column_offset[column_] + channel_ * job.channel_pitch + first_output_;
      for (std::int64_t byte = 0; byte < bytes_; byte += kCacheLine) {
        prefetch_to_second_level(job.tile, element * element_bytes_ + byte);
      }
      if (++channel_ == job.group_channels) {
        channel_ = 0;
        column_ += job.kernel_w;
      }
    }
  }

 private:
  std::int64_t element_bytes_, bytes_;  // bytes: of a tile's activations of one channel
  std::int64_t column_, channel_ = 0, first_output_;
  std::int64_t channels_, left_;
  std::int64_t steps_ = 0, due_ = 0;  // due: channels times steps
};

}  // namespace
}  // namespace l1sparse
