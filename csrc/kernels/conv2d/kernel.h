// SPDX-License-Identifier: MIT
// What an instruction set supplies: steps on small jobs, for each strategy. The order of the steps,
// tiling and threads are written once, in channels.cpp and pixels.cpp.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/conv2d/activation.h"

namespace l1sparse {

// ---- what the strategies share --------------------------------------------------------------

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

// The last step: sums + bias + residual, activation, into the output tensor.
struct FinishJob {
  const float* sums;
  std::int64_t sums_pitch;
  std::int64_t filters;     // rows of `sums`
  std::int64_t tile_cols;   // outputs in a tile row
  std::int64_t rows, cols;  // valid outputs of the tile
  const float* bias;        // of the first filter, or null
  const void* residual;     // at the output's position, or null
  void* output;             // first filter, first output of the tile
  std::int64_t filter_stride, row_stride, col_stride;
  // Whether outputs go past the caches; they are float32, and every filter's start a cache line.
  bool streams;
  Activation activation;
  float low, high;
};

// ---- channels on the lanes ------------------------------------------------------------------
//
// A *plane* holds `lanes` consecutive channels of one channel group for a rectangle of pixels,
// [row][column][lane]. One vector load then brings the channels of one pixel, aligned, at any tap,
// stride or dilation. A tile's sums stay in registers while a filter's groups go by.

// Step 1: copy a rectangle of the input of one image and convolution group into planes.
struct GatherJob {
  const void* input;  // channel 0 of the convolution group
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

// A register tile: rows x cols outputs, `lanes` channels at a time.
struct TileKernel {
  int lanes, rows, cols;
  void (*accumulate_exact)(AccumulateJob& job);   // group_channels == lanes
  void (*accumulate_chunks)(AccumulateJob& job);  // any group_channels
  void (*gather[kDTypeCount])(const GatherJob& job);
};

// Floats between the sums of one filter and the next: whole vectors of 8.
constexpr std::int64_t sums_pitch(int rows, int cols) { return (rows * cols + 7) / 8 * 8; }

// ---- pixels on the lanes --------------------------------------------------------------------
//
// A *plane* holds every col_step-th input column of one channel, as many as a band has output
// columns: [panel row][column]. Neighbouring outputs, across the ends of rows too, then read
// neighbouring floats. A column's activations for a tile stay in registers while the filters that
// kept the column go by; their sums wait in the nearest cache.

// Step 1: copy what a band's outputs read into planes [plane set][channel].
struct PlanesJob {
  const void* input;  // channel 0 of the convolution group
  std::int64_t channel_stride, row_stride, col_stride;
  std::int64_t channels, height, width;  // valid input; everything else reads as 0
  std::int64_t first_row;                // input row of panel coordinate "source 0"
  PanelAxis rows;
  std::int64_t first_col;        // input column of the band
  const std::int64_t* set_cols;  // input column, from first_col on, that each set starts with
  std::int64_t sets;
  std::int64_t cols;         // columns of a plane
  std::int64_t col_step;     // input columns from one to the next
  std::int64_t row_pitch;    // floats from one panel row to the next
  std::int64_t plane_pitch;  // floats from one plane to the next
  float* planes;
  float* lines;  // scratch of kPlaneLines * line_pitch floats
  std::int64_t line_pitch;
};

// Channels that the first step takes through its scratch memory together, at most.
constexpr std::int64_t kPlaneLines = 16;

// Step 2: for one tile of outputs and one filter block, sum up weight * activation.
struct ColumnsJob {
  const void* tile;                   // plane 0 at the tile's first output
  std::int64_t channel_pitch;         // elements from one channel's plane to the next
  const std::int64_t* column_offset;  // elements from `tile` to a column's first one
  // For each tap, bit i: output i of the tile reads inside the input; others take 0 and their
  // memory is not touched. Null: every output of the tile can be read.
  const std::uint64_t* inside;
  std::int64_t columns, taps, kernel_w;
  // Whether to bring activations near ahead of time: planes are near already.
  bool prefetches;
  bool far_activations;  // they come from main memory
  std::int64_t group_filters, group_channels;
  std::int64_t last_channels;  // channels of the last channel group that exist
  // Under `pixels`, by column:
  const std::uint32_t* filter_groups;
  const std::uint32_t* entries_begin;  // for each column, where in `filter_groups` those to work
  const std::uint32_t* entries_end;    // on begin and end
  // Under `filters`, by channel block and filter group; each block has so many columns and rows:
  const std::uint32_t* columns_kept;
  const std::uint32_t* row_offsets;  // where in `columns_kept` a filter group's begin
  std::int64_t block_columns, block_rows;
  float* panel;  // scratch memory for what a tile reads in a block

  const float* values;
  std::uint32_t first_filter_group;       // of the block of filters; its sums come first
  std::int64_t first_filter, end_filter;  // filters of the block to work on
  std::int64_t sums_pitch;                // floats from the sums of one filter to the next
  float* sums;                            // [filters of the block][sums_pitch]
  bool sums_are_far;                      // whether to bring them near before they are started
  const float* bias;                      // [filters of the block], what sums start from, or null
  float* extra_lanes;  // [filters of the block][lanes], of a tile with outputs beyond its vectors
  // Under `pixels`, what is written after this tile for the first filter, to be brought near while
  // sums are computed, and likewise for the next filters; null: nothing is.
  const char* output;
  std::int64_t output_pitch;  // from one filter to the next, in bytes
  // Under `filters`, where sums are the output: whether something follows the last products,
  // whether they are written past the caches (by groups of one filter), the type that `sums` then
  // has, the bounds that outputs are brought into and the residual, of the same filter as `sums`,
  // or null.
  bool ends;
  bool streams;
  DType sum_type;
  float low, high;
  const void* residual;
  const char* ran;
};

// Lanes that sum up the channels of a filter's outputs beyond a tile's vectors, at most.
constexpr std::int64_t kMostExtraLanes = 16;

// Under `filters`, so many filters of a group share every activation, if its filters are a multiple
// of them.
constexpr std::int64_t kSharingFilters = 4;

// Under `filters`, a tile with outputs beyond its vectors is for groups of these channels and of a
// multiple of these filters, whose products fill a vector's lanes.
constexpr int kExtraFilters = 4, kExtraChannels = 4;

// Whether under `filters` what follows the sums is done with the last products; in code that is to
// be small, in a step of its own.
#ifdef __OPTIMIZE_SIZE__
constexpr bool kEndsByFilter = false;
#else
constexpr bool kEndsByFilter = true;
#endif

// A register tile: so many outputs in a row. Most fill whole vectors; some have one or four more,
// which have their channels on the lanes.
struct PixelTile {
  int outputs;  // at most 64
  int cost;     // of a group, in hundredths of what 8 outputs cost in the fastest tile
  // By the type of what is at `tile`; null: it has to be float32.
  void (*accumulate[kDTypeCount])(ColumnsJob& job);
};

// ---- max pooling after the last step ----------------------------------------------------------

// Windows of a convolution's outputs of which the greatest is kept; kernel_h 0: there is none. A
// window reaches at least one output; what lies outside of them does not count.
struct MaxPool {
  std::int64_t kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, pad_top = 0, pad_left = 0;
  std::int64_t out_h = 0, out_w = 0;
};

// Some filters' rows of finished outputs, to the rows of their windows.
struct MaxPoolJob {
  MaxPool pool;
  const float* rows;  // of each filter `height` rows of `width`
  std::int64_t filter_pitch, filters, height, width;
  std::int64_t first_row;  // of the first window; may be negative
  std::int64_t out_rows;   // rows of windows
  void* output;            // the first filter's first; filters are out_h * out_w apart
  float* line;             // scratch memory for a row
  std::int64_t line_floats;
};

// ---- an instruction set's table -------------------------------------------------------------

// The fastest first; outputs are multiples of the last one's. All of them add products in the same
// order, so that an output does not depend on the tile that it falls into.
struct PixelTiles {
  const PixelTile* tiles;
  int count;
  const PixelTile* whole;  // for maps of just its size, or null
  const PixelTile* last;   // for the end of maps, float32, or null
};

struct Conv2dKernels {
  const TileKernel* tiles;
  int tile_count;
  PixelTiles one_filter_tiles;  // for groups of one filter and more than four channels
  // Likewise on processors that take avx512_bf16, AMD's, if there are any. Those add vectors in
  // units of their own, so that two sums an output, which wait less, cost nothing; Intel's add in
  // the multipliers' place.
  PixelTiles two_sums_tiles;
  PixelTiles pixel_tiles;             // for groups of more filters and more than four channels
  PixelTiles narrow_tiles;            // for the others
  PixelTiles filter_by_filter_tiles;  // for groups of a multiple of four filters under `filters`
  PixelTiles one_by_one_tiles;        // for the others
  PixelTiles unpruned_tiles;          // for groups of one filter where none is pruned, float32
  // Whether `inside` costs next to nothing, so that edges of the input need no copy.
  bool masks_are_cheap[kDTypeCount];
  void (*gather_planes[kDTypeCount])(const PlanesJob& job);
  void (*finish[kDTypeCount])(const FinishJob& job);
  void (*max_pool[kDTypeCount])(const MaxPoolJob& job);  // by the type of its output
};

#if defined(__x86_64__) && !defined(L1SPARSE_WITHOUT_AVX512_BF16) && \
    !defined(L1SPARSE_WITHOUT_AVX512)
#define L1SPARSE_PAIRS(...) __VA_ARGS__
#else
#define L1SPARSE_PAIRS(...)
#endif
// Tiles for weights that are bfloat16 numbers exactly, in groups of an even number of channels, at
// least four.
L1SPARSE_PAIRS(extern const PixelTiles conv2d_pairs_avx512_bf16;)

#define L1SPARSE_ISA(name, kernels) extern const Conv2dKernels conv2d_##kernels;
#include "base/isa.inc"
#undef L1SPARSE_ISA

}  // namespace l1sparse
