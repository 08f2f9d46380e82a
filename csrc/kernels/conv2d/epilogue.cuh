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

// Whether `count` filters of a pixel, the first of them a multiple of `count` within its block, can
// be moved at once.
__device__ inline bool moves_together(const GpuConv2d& conv, int count) {
  return conv.filter_order == nullptr && conv.out_channels % count == 0 &&
         (conv.out_channels / conv.groups) % count == 0;
}

// No switch, its table of jumps would cost a load before every store; and asked once for all of a
// thread's numbers.
template <int kCount>
__device__ void activate(const GpuConv2d& conv, float (&x)[kCount]) {
  // Comparisons that are false for NaN, so that NaN stays.
  if (conv.activation == Activation::none) return;
  if (conv.activation == Activation::hardswish) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float gate = x[i] + 3.0f;
      x[i] *= (gate < 0.0f ? 0.0f : gate > 6.0f ? 6.0f : gate) * (1.0f / 6.0f);
    }
    return;
  }
  if (conv.activation == Activation::relu) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = x[i] < 0.0f ? 0.0f : x[i];
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[i] = x[i] < conv.low ? conv.low : x[i] > conv.high ? conv.high : x[i];
  }
}

// Filters first .. first + 3 of a block, for many pixels: their bias, zero where there is none, and
// their places in the output, -1 where there is no such filter.
struct Quad {
  bool together;  // the places follow each other
  float bias[4];
  int to[4];
};

__device__ inline Quad quad_of(const GpuConv2d& conv, BlockFilters filters, int first) {
  Quad quad{moves_together(conv, 4), {0.0f, 0.0f, 0.0f, 0.0f}, {-1, -1, -1, -1}};
  const int filter = filters.first + first;
  if (quad.together) {
    if (first >= filters.count) return quad;
    quad.to[0] = filter;
    if (conv.bias != nullptr) Vector<float, 4>::load(conv.bias + filter).to_floats(quad.bias);
    return quad;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i >= filters.count) continue;
    quad.to[i] = conv.filter_order != nullptr ? __ldg(conv.filter_order + filter + i) : filter + i;
    if (conv.bias != nullptr) quad.bias[i] = __ldg(conv.bias + quad.to[i]);
  }
  return quad;
}

// Finishes sums of kCount filters of a pixel, whose places from `at` on follow each other.
template <class T, int kCount>
__device__ void finish(const GpuConv2d& conv, std::int64_t at, float (&x)[kCount]) {
  const auto* residual = static_cast<const T*>(conv.residual);
  if (residual != nullptr) {
    float more[kCount];
    Vector<T, kCount>::load(residual + at).to_floats(more);
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] += more[i];
  }
  activate(conv, x);
  Vector<T, kCount>::from_floats(x).store_global(static_cast<T*>(conv.output) + at);
}

// Finishes the sums of a quad at one pixel.
template <class T>
__device__ void finish_quad(const GpuConv2d& conv, const Quad& quad, std::int64_t pixel,
                            const float (&sums)[4]) {
  const std::int64_t row = pixel * conv.out_channels;
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = sums[i] + quad.bias[i];
  if (quad.together) {
    if (quad.to[0] >= 0) finish<T>(conv, row + quad.to[0], x);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float one[1] = {x[i]};
    if (quad.to[i] >= 0) finish<T>(conv, row + quad.to[i], one);
  }
}

// The same for a kernel's own sums: to the output, or to the split's partial sums.
template <class T, int kBlockFilters>
__device__ void put_quad(const GpuConv2d& conv, const Quad& quad, int block, int split,
                         std::int64_t pixel, std::int64_t pixels, int first,
                         const float (&sums)[4]) {
  if (conv.splits == 1) return finish_quad<T>(conv, quad, pixel, sums);
  const std::int64_t row = (split * pixels + pixel) * conv.blocks + block;
  Vector<float, 4>::from_floats(sums).store_global(conv.partial + row * kBlockFilters + first);
}

}  // namespace l1sparse
