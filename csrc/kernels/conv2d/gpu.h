// SPDX-License-Identifier: MIT
// Group-sparse 2-D convolution on a GPU: the formula of conv2d.h, on channels_last tensors.
//
//   output[n, y, x, o] = act( bias[o] + residual[n, y, x, o]
//       + sum over the columns of o's block that o kept, over the column's channels c:
//           weight * input[n, y * stride_h + tap_y * dilation_h - pad_top,
//                             x * stride_w + tap_x * dilation_w - pad_left, c] )
//
// with float32 sums, in an order that depends on nothing but the arguments. Words:
//
//   block   consecutive filters of one convolution group, done by one thread block: 16 * strips
//           for TensorCoreConv2d, 64 otherwise. The last block of a convolution group may have
//           fewer. Block b belongs to convolution group b / ceil(filters of a group / filters of a
//           block).
//   column  one tap and consecutive channels of the input
//   tile    a column's weights for the filters that share it: a strip of 16, or one filter
//   piece   16 bytes of a tile: one filter's weights for half of a column's channels
//
// A launcher checks what it is given as far as sizes go, launches, and returns a cudaError_t: 0 is
// success, cudaErrorInvalidValue (1) an argument that it does not take. Nothing waits for the GPU.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/conv2d/activation.h"

namespace l1sparse {

struct GpuConv2d {
  // input [batch, in_h, in_w, in_channels], output [batch, out_h, out_w, out_channels]; each has
  // fewer than 2^31 pixels. Of `dtype`, like the residual.
  int batch, in_h, in_w, in_channels, out_h, out_w, out_channels;
  int groups;  // convolution groups
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  DType dtype;
  const void* input;
  void* output;

  const float* bias;     // [out_channels] or null
  const void* residual;  // of the output's shape, or null
  const int*
      filter_order;  // [out_channels]: the i-th filter of the blocks is filter_order[i]; or null
  Activation activation;
  float low, high;  // of Activation::clamp

  int blocks;
  const int* block_offsets;  // [blocks + 1] into columns
  const int* columns;       // [columns][4]: tap_y, tap_x, first channel of the input, and see below
  const int* tile_offsets;  // [columns + 1] into tiles
  const void* tiles;

  // Each split sums a share of every block's columns into partial[split][pixel][filter], filters
  // of all blocks with the missing ones of last blocks; a second kernel adds the splits in order.
  int splits;
  float* partial;  // null where splits is 1
};

// Filters of a block are strips of 16, a tile is [16][8 words]: words of one float32 (rounded to
// TF32) or two neighbouring 16-bit channels, so a column has 8 or 16 channels. Tiles are stored in
// the order in which lanes hold the A operand of mma.sync: [lane 4 g + t][4 words], word columns t
// and t + 4 of rows g and g + 8: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4).
//
//   columns[i][3]   bit s: strip s of the block kept the column; its tiles follow in this order
//
// in_channels and the channels of a convolution group are multiples of a column's; input and tiles
// start at multiples of 16 bytes. sm_80 or later.
struct TensorCoreConv2d {
  GpuConv2d conv;
  int strips;  // of a block: 4 or 8
  int pixels;  // of a thread block: 64 or 128; 128 with 8 strips
};
int launch_tensor_core_conv2d(const TensorCoreConv2d& problem, void* stream);

// The same with tiles of which only the pieces with a kept weight are stored. Filters of a block
// are 64, four strips. Pieces of a block follow each other by column, then strip, half of the
// channels and filter.
//
//   columns[i][3]       the number of its pieces
//   tile_offsets[i]     the column's first piece
//   tiles               the pieces
//   piece_masks[i][4]   of each strip: bit 16 h + r: filter r kept a weight of half h
//
// piece_masks starts at a multiple of 16 bytes.
struct CompressedConv2d {
  GpuConv2d conv;
  const int* piece_masks;
};
int launch_compressed_conv2d(const CompressedConv2d& problem, void* stream);

// Any channels, any groups. Filters of a block are 64; a tile is float32 [chunk] for one filter,
// zero where the column has fewer channels. Columns come in steps of 16 channels: 16 / chunk of
// them at one tap, side by side, the first one's channel within its convolution group a multiple
// of 16.
//
//   columns[i][3]        channels that the column has, at most `chunk`; 0 where no filter kept it
//   filter_masks[i][2]   bit f % 32 of [f / 32]: filter f of the block kept the column; its tiles
//                        follow in this order
//   block_order[blocks]  the order in which blocks are begun, most work first
struct SimtConv2d {
  GpuConv2d conv;
  int chunk;  // channels of a column: 8, 4 or 1
  const int* filter_masks;
  const int* block_order;
};
int launch_simt_conv2d(const SimtConv2d& problem, void* stream);

}  // namespace l1sparse
