// SPDX-License-Identifier: MIT
// What both strategies' kernels share, and the last step: once for every instruction set. See
// channels_generic.h for why everything is in an anonymous namespace.
#pragma once

#include <cstdint>

#include "kernels/conv2d/kernel.h"

#define L1SPARSE_INLINE inline __attribute__((always_inline))

namespace l1sparse {
namespace {

inline std::int64_t clamp(std::int64_t x, std::int64_t low, std::int64_t high) {
  return x < low ? low : x > high ? high : x;
}

inline void fill_zero(float* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

template <class V>
L1SPARSE_INLINE void finish_vector(const FinishJob& job, typename V::Reg sum, std::int64_t position,
                                   int count) {
  constexpr int kLanes = V::kLanes;
  if (job.residual != nullptr) {
    const float* from = job.residual + position;
    sum = V::add(sum, count == kLanes ? V::load(from) : V::load_partial(from, count));
  }
  if (job.relu) sum = V::relu(sum);
  if (count == kLanes) {
    V::store(job.output + position, sum);
  } else {
    V::store_partial(job.output + position, sum, count);
  }
}

// NCHW: the outputs of a tile row lie side by side.
template <class V>
L1SPARSE_INLINE void finish_rows(const FinishJob& job) {
  constexpr int kLanes = V::kLanes;
  for (std::int64_t filter = 0; filter < job.filters; ++filter) {
    const typename V::Reg bias = V::broadcast(job.bias == nullptr ? 0.0f : job.bias[filter]);
    for (std::int64_t row = 0; row < job.rows; ++row) {
      const float* sums = job.sums + filter * job.sums_pitch + row * job.tile_cols;
      const std::int64_t position = filter * job.filter_stride + row * job.row_stride;
      for (std::int64_t col = 0; col < job.cols; col += kLanes) {
        const int count = job.cols - col < kLanes ? static_cast<int>(job.cols - col) : kLanes;
        const typename V::Reg sum =
            count == kLanes ? V::load(sums + col) : V::load_partial(sums + col, count);
        finish_vector<V>(job, V::add(sum, bias), position + col, count);
      }
    }
  }
}

// NHWC: the filters of an output lie side by side.
template <class V>
L1SPARSE_INLINE void finish_pixels(const FinishJob& job) {
  constexpr int kLanes = V::kLanes;
  for (std::int64_t filter = 0; filter < job.filters; filter += kLanes) {
    const int count =
        job.filters - filter < kLanes ? static_cast<int>(job.filters - filter) : kLanes;
    typename V::Reg bias = V::zero();
    if (job.bias != nullptr) bias = V::load_partial(job.bias + filter, count);
    for (std::int64_t row = 0; row < job.rows; ++row) {
      for (std::int64_t col = 0; col < job.cols; col += kLanes) {
        const int pixels = job.cols - col < kLanes ? static_cast<int>(job.cols - col) : kLanes;
        const float* sums = job.sums + filter * job.sums_pitch + row * job.tile_cols + col;
        typename V::Reg r[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          r[i] = i < count ? V::load_partial(sums + i * job.sums_pitch, pixels) : V::zero();
        }
        V::transpose(r);
        for (int p = 0; p < pixels; ++p) {
          finish_vector<V>(job, V::add(r[p], bias),
                           filter + row * job.row_stride + (col + p) * job.col_stride, count);
        }
      }
    }
  }
}

// Wide goes along rows, V (which has to be transposed) across filters.
template <class Wide, class V>
void finish(const FinishJob& shared) {
  // A copy that no store can change, so that its members stay in registers.
  const FinishJob job = shared;
  if (job.filter_stride == 1) {
    finish_pixels<V>(job);
  } else {
    finish_rows<Wide>(job);
  }
}

}  // namespace
}  // namespace l1sparse
