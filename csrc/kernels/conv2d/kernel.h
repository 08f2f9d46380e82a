// SPDX-License-Identifier: MIT
// What an instruction set supplies: three steps on small jobs. The order of the steps, tiling and
// threads are conv2d.cpp's, written once.
//
// Activations are laid out with channels on the lanes: a *plane* holds `lanes` consecutive
// channels of one channel group for a rectangle of pixels, [row][column][lane]. One vector load
// then brings the channels of one pixel, aligned, at any tap, stride or dilation.
#pragma once

#include <cstdint>

namespace l1sparse {

// A stretch of panel coordinates filled from every step-th input coordinate.
struct AxisRun {
  std::int64_t start, count, source, step;
};

// How one spatial axis of the input maps to panel coordinates. Input coordinates are grouped by
// their phase (coordinate mod stride), so neighbouring outputs read neighbouring panel pixels
// whatever the stride; and gaps that no tap reaches (large dilation) are left out.
struct PanelAxis {
  const AxisRun* runs;
  std::int64_t run_count;
  std::int64_t extent;  // panel coordinates in all
};

// Step 1: copy a rectangle of the input of one image and convolution group into planes.
struct GatherJob {
  const float* input;  // channel 0 of the convolution group
  std::int64_t channel_stride, row_stride, col_stride;
  std::int64_t channels, height, width;  // valid input; everything else reads as 0
  std::int64_t first_row, first_col;     // input coordinate of panel coordinate "source 0"
  PanelAxis rows, cols;
  std::int64_t group_channels;  // channels of a channel group
  std::int64_t chunks;          // planes of a channel group
  std::int64_t channel_groups;
  int lanes;
  float* panel;  // [channel_groups * chunks][rows.extent][cols.extent][lanes]
};

// Step 2: for one tile of outputs, one channel block and a range of filters, sum up
// weight * activation.
struct AccumulateJob {
  const float* tile;                  // the panel at the tile's first output
  std::int64_t row_pitch;             // floats from one panel row to the next
  std::int64_t plane_pitch;           // floats from one plane to the next
  const std::int64_t* column_offset;  // floats from `tile` to a group's first activation
  const std::uint32_t* row_offsets;   // of the channel block, indexed by filter group
  const std::uint32_t* columns;
  const float* values;
  std::int64_t group_filters, group_channels;
  std::int64_t first_filter, end_filter;
  bool add;     // to what `sums` holds; else it is overwritten
  float* sums;  // [end_filter - first_filter][sums_pitch(tile)]
  const char* ran;
};

// Step 3: sums + bias + residual, activation, into the output tensor.
struct FinishJob {
  const float* sums;
  std::int64_t sums_pitch;
  std::int64_t filters;     // rows of `sums`
  int tile_cols;            // outputs in a tile row
  std::int64_t rows, cols;  // valid outputs of the tile
  const float* bias;        // of the first filter, or null
  const float* residual;    // at the output's position, or null
  float* output;            // first filter, first output of the tile
  std::int64_t filter_stride, row_stride, col_stride;
  bool relu;
};

// A register tile: rows x cols outputs, `lanes` channels at a time.
struct TileKernel {
  int lanes, rows, cols;
  void (*accumulate_exact)(AccumulateJob& job);   // group_channels == lanes
  void (*accumulate_chunks)(AccumulateJob& job);  // any group_channels
  void (*gather)(const GatherJob& job);
};

struct Conv2dKernels {
  const TileKernel* tiles;
  int tile_count;
  void (*finish)(const FinishJob& job);
};

// Floats between the sums of one filter and the next: whole vectors of 8.
constexpr std::int64_t sums_pitch(int rows, int cols) { return (rows * cols + 7) / 8 * 8; }

#define L1SPARSE_ISA(name) extern const Conv2dKernels conv2d_##name;
#include "base/isa.inc"
#undef L1SPARSE_ISA

}  // namespace l1sparse
