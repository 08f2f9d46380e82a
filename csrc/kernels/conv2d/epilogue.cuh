// SPDX-License-Identifier: MIT
// What all convolution kernels do with their sums: bias, residual, activation, output; or, where
// the columns are split, partial sums for the kernel of reduce.cuh.
#pragma once

#include "base/gpu_vector.cuh"
#include "kernels/conv2d/gpu.h"

namespace l1sparse {

// The filters of a block: consecutive ones of one convolution group.
struct BlockFilters {
  int first;  // in the order of the blocks
  int count;
};

template <int kBlockFilters>
__device__ BlockFilters filters_of_block(const GpuConv2d& conv, int block) {
  const int of_group = conv.out_channels / conv.groups;
  const int blocks_of_group = (of_group + kBlockFilters - 1) / kBlockFilters;
  const int group = block / blocks_of_group;
  const int within = (block - group * blocks_of_group) * kBlockFilters;
  return {group * of_group + within, min(of_group - within, kBlockFilters)};
}

// Whether four filters of a pixel, the first of them a multiple of four within its block, can be
// moved at once.
__device__ inline bool moves_quads(const GpuConv2d& conv) {
  return conv.filter_order == nullptr && conv.out_channels % 4 == 0 &&
         (conv.out_channels / conv.groups) % 4 == 0;
}

// No switch: its table of jumps would cost a load before every store.
__device__ inline float activate(const GpuConv2d& conv, float x) {
  // Comparisons that are false for NaN, so that NaN stays.
  if (conv.activation == Activation::none) return x;
  if (conv.activation == Activation::hardswish) {
    const float gate = x + 3.0f;
    return x * ((gate < 0.0f ? 0.0f : gate > 6.0f ? 6.0f : gate) * (1.0f / 6.0f));
  }
  if (conv.activation == Activation::relu) return x < 0.0f ? 0.0f : x;
  return x < conv.low ? conv.low : x > conv.high ? conv.high : x;
}

// Of filters first .. first + 3 of a block, zero where there is none: loaded once for many pixels.
struct QuadBias {
  float of[4];
};

__device__ inline QuadBias bias_of(const GpuConv2d& conv, BlockFilters filters, int first) {
  QuadBias bias{{0.0f, 0.0f, 0.0f, 0.0f}};
  if (conv.bias == nullptr) return bias;
  const int filter = filters.first + first;
  if (moves_quads(conv)) {
    if (first < filters.count) Vector<float, 4>::load(conv.bias + filter).to_floats(bias.of);
    return bias;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i >= filters.count) continue;
    const int from =
        conv.filter_order != nullptr ? __ldg(conv.filter_order + filter + i) : filter + i;
    bias.of[i] = __ldg(conv.bias + from);
  }
  return bias;
}

// Finishes the sums of filters first .. first + 3 of a block at one pixel.
template <class T>
__device__ void finish_quad(const GpuConv2d& conv, BlockFilters filters, const QuadBias& bias,
                            std::int64_t pixel, int first, const float (&sums)[4]) {
  const auto* residual = static_cast<const T*>(conv.residual);
  auto* output = static_cast<T*>(conv.output);
  const int filter = filters.first + first;
  const std::int64_t row = pixel * conv.out_channels;
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = sums[i] + bias.of[i];
  if (moves_quads(conv)) {
    if (first >= filters.count) return;
    if (residual != nullptr) {
      float more[4];
      Vector<T, 4>::load(residual + row + filter).to_floats(more);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] += more[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = activate(conv, x[i]);
    Vector<T, 4>::from_floats(x).store_global(output + row + filter);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i >= filters.count) continue;
    const int to =
        conv.filter_order != nullptr ? __ldg(conv.filter_order + filter + i) : filter + i;
    float one[1] = {x[i]};
    if (residual != nullptr) {
      float more[1];
      Vector<T, 1>::load(residual + row + to).to_floats(more);
      one[0] += more[0];
    }
    one[0] = activate(conv, one[0]);
    Vector<T, 1>::from_floats(one).store_global(output + row + to);
  }
}

// The same for a kernel's own sums: to the output, or to the split's partial sums.
template <class T, int kBlockFilters>
__device__ void put_quad(const GpuConv2d& conv, BlockFilters filters, const QuadBias& bias,
                         int block, int split, std::int64_t pixel, std::int64_t pixels, int first,
                         const float (&sums)[4]) {
  if (conv.splits == 1) return finish_quad<T>(conv, filters, bias, pixel, first, sums);
  const std::int64_t row = (split * pixels + pixel) * conv.blocks + block;
  Vector<float, 4>::from_floats(sums).store_global(conv.partial + row * kBlockFilters + first);
}

}  // namespace l1sparse
