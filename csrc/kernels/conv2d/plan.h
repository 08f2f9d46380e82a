// SPDX-License-Identifier: MIT
// What the plans of all strategies are made of, and the strategies' entry points.
#pragma once

#include "base/checked.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kAlignment = 64;

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// An odd number of cache lines, so that planes do not compete for the same places of the cache.
inline std::int64_t plane_pitch(std::int64_t rows, std::int64_t cols) {
  const std::int64_t floats = round_up(checked_mul(rows, cols), 16);
  return floats % 32 == 0 ? checked_add(floats, 16) : floats;
}

// Places in a workspace, one after the other.
struct WorkspaceLayout {
  std::int64_t bytes = 0;

  std::int64_t reserve(std::int64_t count, std::int64_t size) {
    const std::int64_t start = bytes;
    bytes = round_up(checked_add(bytes, checked_mul(count, size)), kAlignment);
    return start;
  }
};

const Conv2dKernels& kernels_for(Isa isa);

// Tiles that multiply pairs of bfloat16 numbers, or null where the instruction set has none.
const PixelTiles* pair_tiles_for(Isa isa);

// Tiles for groups of one filter and more than four channels.
const PixelTiles& one_filter_tiles_for(Isa isa);

// Maps the input coordinates that `outputs` neighbouring outputs read to panel coordinates. Writes
// at most `kernel` runs, and each tap's panel coordinate for the first output.
PanelAxis plan_axis(std::int64_t outputs, std::int64_t stride, std::int64_t kernel,
                    std::int64_t dilation, AxisRun* runs, std::int64_t* tap_start);

// Panel coordinates of one axis for a band of `outputs`: no more than the input's own span, nor
// than every tap by itself.
std::int64_t axis_extent_bound(std::int64_t outputs, std::int64_t kernel, std::int64_t dilation,
                               std::int64_t stride);

// The items begin .. end - 1 of one of `slots` slots: an even, contiguous share.
struct Share {
  std::int64_t begin, end;
};

inline Share share_of(std::int64_t items, std::int64_t slots, std::int64_t slot) {
  const std::int64_t share = items / slots, extra = items % slots;
  const std::int64_t begin = slot * share + smaller(slot, extra);
  return {begin, begin + share + (slot < extra ? 1 : 0)};
}

// The last step's job but for places and extents: filters from `filter` on.
FinishJob last_step(const Conv2dProblem& problem, const Conv2dTensors& tensors,
                    std::int64_t filter);

// The last step's job for outputs from (filter, out_y, out_x) of an image on; sums and extents are
// left to the caller.
FinishJob finish_job(const Conv2dProblem& problem, const Conv2dTensors& tensors, std::int64_t image,
                     std::int64_t filter, std::int64_t out_y, std::int64_t out_x);

// The strategies, on checked problems with outputs: see conv2d.h for what the functions do.
#define L1SPARSE_STRATEGY(name)                                                             \
  Status name##_workspace(const Conv2dProblem& problem, Isa isa, std::int64_t threads,      \
                          std::int64_t* bytes);                                             \
  Status name##_conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors, Isa isa, \
                       const Parallel& parallel, void* workspace, const char** ran);
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY

}  // namespace l1sparse
