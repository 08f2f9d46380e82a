// SPDX-License-Identifier: MIT
// What an instruction set supplies for the gradients: steps on small jobs. The order of the steps,
// tiling and threads are written once, in input_grad.cpp and weight_grad.cpp.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace l1sparse {

// The kept groups by column, filter groups ascending inside one where the packed buffer is in
// order; `place` is where the group lies in the packed order. All entries are in range.
struct ByColumn {
  const std::uint32_t* offsets;  // column c has the entries offsets[c] .. offsets[c + 1]
  const std::uint32_t* filter_group;
  const std::uint32_t* place;
};

// The filters of a convolution group.
struct FilterRange {
  std::int64_t first, end;
};

// ---- gradient of the input ------------------------------------------------------------------
//
// Neighbouring input pixels lie on the lanes. For one channel group and one tile of pixels, the
// sums of all its channels stay in registers while the kept (tap, filter) pairs go by; each brings
// the filter's gradients, moved by the tap, and meets the group's weights as they are stored.

struct GradTap {
  std::int64_t column;  // counted from the channel group's first
  std::int64_t offset;  // elements from `tile` to the gradient that the tile's first pixel reads
};

struct InputGradJob {
  const void* tile;           // first filter of the convolution group
  std::int64_t filter_pitch;  // elements from one filter's gradients to the next
  const GradTap* taps;
  std::int64_t tap_count;
  // For each tap, bit i: pixel i of the tile reads inside the gradient; others take 0 and their
  // memory is not touched. Null: every pixel of the tile can be read.
  const std::uint64_t* inside;
  ByColumn kept;  // offsets: of the channel group's first column
  const float* values;
  FilterRange filters;
  std::int64_t group_filters, group_channels;
  std::int64_t channels;  // of the group, that exist
  std::int64_t sums_pitch;
  float* sums;  // [channels][sums_pitch], written
  const char* ran;
};

struct GradTile {
  int pixels;                                      // at most 64
  void (*accumulate[kDTypeCount])(InputGradJob&);  // by the type of what is at `tile`
};

// ---- gradient of the weight -----------------------------------------------------------------
//
// For one column, the gradients of its kept groups: dot products over a stretch of output pixels,
// which lie on the lanes. A few filters take the same activations at once.

struct WeightGradJob {
  const float* input;          // the column's first channel at the first output pixel
  std::int64_t channel_pitch;  // floats from one channel to the next
  const float* grad;           // first filter of the convolution group
  std::int64_t filter_pitch;
  std::int64_t pixels;
  ByColumn kept;
  std::int64_t column;
  FilterRange filters;
  std::int64_t group_filters, group_channels;
  std::int64_t channels;  // of the group, that exist
  float* values_grad;     // of the packed order; added to
  const char* ran;
};

// ---- an instruction set's table -------------------------------------------------------------

struct Conv2dGradKernels {
  const GradTile* tiles;  // the widest first
  int tile_count;
  void (*weight_grad)(WeightGradJob&);
};

#define L1SPARSE_ISA(name, kernels) extern const Conv2dGradKernels conv2d_grad_##kernels;
#include "base/isa.inc"
#undef L1SPARSE_ISA

}  // namespace l1sparse
