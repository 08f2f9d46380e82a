// SPDX-License-Identifier: MIT
// What both strategies' kernels share, and the last step: once for every instruction set. See
// channels_generic.h for why everything is in an anonymous namespace.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/conv2d/kernel.h"

#define L1SPARSE_INLINE inline __attribute__((always_inline))

namespace l1sparse {
namespace {

constexpr std::int64_t kCacheLine = 64;  // bytes
// Each filter's outputs are a short stretch of a page of their own, which no prefetcher foresees:
// those of the filter so many ahead are asked for.
constexpr std::int64_t kOutputFiltersAhead = 4;
// A residual comes from farther away: in a network it was written some layers before.
constexpr std::int64_t kResidualFiltersAhead = 16;

inline std::int64_t clamp(std::int64_t x, std::int64_t low, std::int64_t high) {
  return x < low ? low : x > high ? high : x;
}

inline void fill_zero(float* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

// How far ahead weights are asked for, in bytes. Of a network's weights most come from memory each
// time, faster than a prefetcher that stops at the end of a page brings them.
constexpr std::int64_t kWeightsAhead = 4096;

// An address that need not lie in the same object as `base`.
inline const void* moved(const void* base, std::int64_t bytes) {
  return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(base) +
                                       static_cast<std::uintptr_t>(bytes));
}

// Brings a cache line near before it is needed; the address need not be one that can be read.
inline void prefetch(const void* base, std::int64_t bytes) {
  __builtin_prefetch(moved(base, bytes));
}

inline void prefetch_to_write(const void* base, std::int64_t bytes) {
  __builtin_prefetch(moved(base, bytes), 1);
}

// To the second-level cache, so that the nearest one keeps what is in use.
inline void prefetch_to_second_level(const void* base, std::int64_t bytes) {
  __builtin_prefetch(moved(base, bytes), 0, 2);
}

// What happens to a vector of sums on its way out.
template <class V, Activation kActivation, bool kResidual, class T>
struct Epilogue {
  typename V::Reg low, high;

  explicit Epilogue(const FinishJob& job)
      : low(V::broadcast(job.low)), high(V::broadcast(job.high)) {}

  L1SPARSE_INLINE typename V::Reg activate(typename V::Reg x) const {
    if constexpr (kActivation == Activation::relu) x = V::max(V::zero(), x);
    if constexpr (kActivation == Activation::clamp) x = V::min(high, V::max(low, x));
    if constexpr (kActivation == Activation::hardswish) {
      const typename V::Reg gate =
          V::min(V::broadcast(6.0f), V::max(V::zero(), V::add(x, V::broadcast(3.0f))));
      x = V::mul(x, V::mul(gate, V::broadcast(1.0f / 6.0f)));
    }
    return x;
  }

  L1SPARSE_INLINE void full(typename V::Reg sum, const T* residual, T* output,
                            bool streams = false) const {
    if constexpr (kResidual) sum = V::add(sum, V::load(residual));
    if constexpr (std::is_same_v<T, float>) {
      if (streams) return V::stream(output, activate(sum));
    }
    V::store(output, activate(sum));
  }

  L1SPARSE_INLINE void partial(typename V::Reg sum, const T* residual, T* output, int n) const {
    if constexpr (kResidual) sum = V::add(sum, V::load_partial(residual, n));
    V::store_partial(output, activate(sum), n);
  }
};

// NCHW: the outputs of a tile row lie side by side.
template <class V, Activation kActivation, bool kResidual, class T>
void finish_rows(const FinishJob& shared) {
  // A copy that no store can change, so that its members stay in registers.
  const FinishJob job = shared;
  constexpr int kLanes = V::kLanes;
  constexpr std::int64_t kFiltersAhead = kResidual ? kResidualFiltersAhead : kOutputFiltersAhead;
  constexpr std::int64_t kLineElements = kCacheLine / sizeof(T);
  const Epilogue<V, kActivation, kResidual, T> epilogue(job);
  for (std::int64_t filter = 0; filter < job.filters; ++filter) {
    const typename V::Reg bias = V::broadcast(job.bias == nullptr ? 0.0f : job.bias[filter]);
    for (std::int64_t row = 0; row < job.rows; ++row) {
      const float* sums = job.sums + filter * job.sums_pitch + row * job.tile_cols;
      const std::int64_t position = filter * job.filter_stride + row * job.row_stride;
      const T* residual = static_cast<const T*>(job.residual) + (kResidual ? position : 0);
      T* output = static_cast<T*>(job.output) + position;
      for (std::int64_t col = 0; col < job.cols; col += kLineElements) {
        const std::int64_t ahead = (kFiltersAhead * job.filter_stride + col) * sizeof(T);
        if (!job.streams) prefetch_to_write(output, ahead);
        if constexpr (kResidual) prefetch(residual, ahead);
      }
      std::int64_t col = 0;
      for (; col + kLanes <= job.cols; col += kLanes) {
        epilogue.full(V::add(V::load(sums + col), bias), residual + (kResidual ? col : 0),
                      output + col, job.streams);
      }
      if (col < job.cols) {
        const int n = static_cast<int>(job.cols - col);
        epilogue.partial(V::add(V::load_partial(sums + col, n), bias),
                         residual + (kResidual ? col : 0), output + col, n);
      }
    }
  }
  if (job.streams) V::finish_streams();
}

// NHWC: the filters of an output lie side by side.
template <class V, Activation kActivation, bool kResidual, class T>
void finish_pixels(const FinishJob& shared) {
  const FinishJob job = shared;
  constexpr int kLanes = V::kLanes;
  const Epilogue<V, kActivation, kResidual, T> epilogue(job);
  for (std::int64_t row = 0; row < job.rows; ++row) {
    for (std::int64_t col = 0; col < job.cols; col += kLanes) {
      const int pixels = job.cols - col < kLanes ? static_cast<int>(job.cols - col) : kLanes;
      // All filters of some pixels before the next ones, so that the output is written in order.
      for (std::int64_t filter = 0; filter < job.filters; filter += kLanes) {
        const int count =
            job.filters - filter < kLanes ? static_cast<int>(job.filters - filter) : kLanes;
        typename V::Reg bias = V::zero();
        if (job.bias != nullptr) bias = V::load_partial(job.bias + filter, count);
        const float* sums = job.sums + filter * job.sums_pitch + row * job.tile_cols + col;
        typename V::Reg r[kLanes];
        if (count == kLanes && pixels == kLanes) {
          for (int i = 0; i < kLanes; ++i) r[i] = V::load(sums + i * job.sums_pitch);
        } else {
          for (int i = 0; i < kLanes; ++i) {
            r[i] = i < count ? V::load_partial(sums + i * job.sums_pitch, pixels) : V::zero();
          }
        }
        V::transpose(r);
        std::int64_t position = filter + row * job.row_stride + col * job.col_stride;
        for (int p = 0; p < pixels; ++p, position += job.col_stride) {
          const T* residual = static_cast<const T*>(job.residual) + (kResidual ? position : 0);
          T* output = static_cast<T*>(job.output) + position;
          if (count == kLanes) {
            epilogue.full(V::add(r[p], bias), residual, output);
          } else {
            epilogue.partial(V::add(r[p], bias), residual, output, count);
          }
        }
      }
    }
  }
}

template <class Wide, class V, Activation kActivation, class T>
void finish_with(const FinishJob& job) {
  if (job.filter_stride == 1) {
    if (job.residual != nullptr) {
      finish_pixels<V, kActivation, true, T>(job);
    } else {
      finish_pixels<V, kActivation, false, T>(job);
    }
  } else if (job.residual != nullptr) {
    finish_rows<Wide, kActivation, true, T>(job);
  } else {
    finish_rows<Wide, kActivation, false, T>(job);
  }
}

// Wide goes along rows, V (which has to be transposed) across filters; T is the output's type.
template <class Wide, class V, class T>
void finish(const FinishJob& job) {
  switch (job.activation) {
    case Activation::none:
      return finish_with<Wide, V, Activation::none, T>(job);
    case Activation::relu:
      return finish_with<Wide, V, Activation::relu, T>(job);
    case Activation::clamp:
      return finish_with<Wide, V, Activation::clamp, T>(job);
    case Activation::hardswish:
      return finish_with<Wide, V, Activation::hardswish, T>(job);
  }
}

}  // namespace
}  // namespace l1sparse
