// SPDX-License-Identifier: MIT
// The steps of kernel.h, once for every instruction set. In an anonymous namespace, so that no
// object file lends its instructions to another.
#pragma once

#include <cstdint>

#include "kernels/conv2d_grad/kernel.h"

namespace l1sparse {
namespace {

// ---- gradient of the input ------------------------------------------------------------------

// acc[c][v] += weights of channel c * gradients, for every filter that kept the column.
template <class V, int kVectors, int kChannels, bool kMasked, class T>
inline void add_tap(const InputGradJob& job, const GradTap tap, std::uint64_t inside,
                    const float* values, typename V::Reg (&acc)[kChannels][kVectors]) {
  const std::uint32_t end = job.kept.offsets[tap.column + 1];
  const T* const from = static_cast<const T*>(job.tile) + tap.offset;
  const std::int64_t group_filters = job.group_filters, group_channels = job.group_channels;
  const std::int64_t filter_count = job.filters.end - job.filters.first;
  typename V::Lanes lanes[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    lanes[v] = V::lanes_of_bits(static_cast<std::uint32_t>(inside >> v * V::kLanes));
  }
  for (std::uint32_t i = job.kept.offsets[tap.column]; i != end; ++i) {
    std::int64_t filter = job.kept.filter_group[i] * group_filters - job.filters.first;
    const float* weight = values + job.kept.place[i] * group_filters * group_channels;
    for (std::int64_t left = group_filters; left != 0; --left, ++filter, weight += group_channels) {
      if (filter < 0 || filter >= filter_count) continue;
      const T* grad = from + filter * job.filter_pitch;
      typename V::Reg g[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        g[v] =
            kMasked ? V::load_lanes(grad + v * V::kLanes, lanes[v]) : V::load(grad + v * V::kLanes);
      }
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) {
        const typename V::Reg w = V::broadcast(weight[c]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[c][v] = V::fma(g[v], w, acc[c][v]);
      }
    }
  }
}

// The sums of kChannels channels, from `channel` of the group on.
template <class V, int kVectors, int kChannels, class T>
__attribute__((noinline)) void sum_channels(const InputGradJob& shared, std::int64_t channel) {
  // A copy that no store can change, so that its members stay in registers.
  const InputGradJob job = shared;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kVectors * V::kLanes);
  typename V::Reg acc[kChannels][kVectors];
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[c][v] = V::zero();
  }
  const float* const values = job.values + channel;
  for (std::int64_t t = 0; t < job.tap_count; ++t) {
    const std::uint64_t inside = job.inside == nullptr ? kAll : job.inside[t] & kAll;
    if (inside == kAll) {
      add_tap<V, kVectors, kChannels, false, T>(job, job.taps[t], inside, values, acc);
    } else if (inside != 0) {
      add_tap<V, kVectors, kChannels, true, T>(job, job.taps[t], inside, values, acc);
    }
  }
  float* sums = job.sums + channel * job.sums_pitch;
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; ++c, sums += job.sums_pitch) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) V::store(sums + v * V::kLanes, acc[c][v]);
  }
}

template <class V, int kVectors, int kMaxChannels, class T>
void accumulate_grads(InputGradJob& job) {
  std::int64_t channel = 0;
  for (; job.channels - channel >= kMaxChannels; channel += kMaxChannels) {
    sum_channels<V, kVectors, kMaxChannels, T>(job, channel);
  }
  const std::int64_t left = job.channels - channel;
  if constexpr (kMaxChannels > 4) {
    if ((left & 4) != 0) sum_channels<V, kVectors, 4, T>(job, channel), channel += 4;
  }
  if ((left & 2) != 0) sum_channels<V, kVectors, 2, T>(job, channel), channel += 2;
  if ((left & 1) != 0) sum_channels<V, kVectors, 1, T>(job, channel);
  job.ran = L1SPARSE_KERNEL_ISA;
}

// ---- gradient of the weight -----------------------------------------------------------------

// A filter's gradients, and where those of its kept weights go.
struct GradRow {
  const float* grad;
  float* to;
};

// to[f][c] += sum over pixels of grad[f] * input[c].
template <class V, int kFilters, int kChannels>
__attribute__((noinline)) void dot_products(const float* input, std::int64_t channel_pitch,
                                            std::int64_t pixels, const GradRow* rows) {
  using Sums = typename V::Sums;
  static_assert(kChannels <= V::kBatch);
  typename V::Reg acc[kFilters][V::kBatch];
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
    for (int c = 0; c < V::kBatch; ++c) acc[f][c] = V::zero();
  }
  const float* grad[kFilters];
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) grad[f] = rows[f].grad;
  std::int64_t at = 0;
  for (; at + V::kLanes <= pixels; at += V::kLanes) {
    typename V::Reg g[kFilters];
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) g[f] = V::load(grad[f] + at);
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c) {
      const typename V::Reg x = V::load(input + c * channel_pitch + at);
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) acc[f][c] = V::fma(x, g[f], acc[f][c]);
    }
  }
  if (at < pixels) {
    const int left = static_cast<int>(pixels - at);
    typename V::Reg g[kFilters];
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) g[f] = V::load_partial(grad[f] + at, left);
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c) {
      const typename V::Reg x = V::load_partial(input + c * channel_pitch + at, left);
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) acc[f][c] = V::fma(x, g[f], acc[f][c]);
    }
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    const typename Sums::Reg sums = V::sum_lanes(acc[f]);
    if constexpr (kChannels == Sums::kLanes) {
      Sums::store(rows[f].to, Sums::add(Sums::load(rows[f].to), sums));
    } else {
      Sums::store_partial(rows[f].to, Sums::add(Sums::load_partial(rows[f].to, kChannels), sums),
                          kChannels);
    }
  }
}

// kAccumulators registers hold sums: those of as many filters as fit take an activation together.
template <class V, int kAccumulators, int kChannels>
__attribute__((noinline)) void weight_grad_of_channels(const WeightGradJob& shared,
                                                       std::int64_t channel) {
  const WeightGradJob job = shared;
  constexpr int kFitting = kAccumulators / kChannels;
  constexpr int kFilters = kFitting < 1 ? 1 : kFitting > 6 ? 6 : kFitting;
  const float* const input = job.input + channel * job.channel_pitch;
  const std::uint32_t end = job.kept.offsets[job.column + 1];
  const std::int64_t filter_count = job.filters.end - job.filters.first;
  GradRow rows[kFilters];
  int count = 0;
  for (std::uint32_t i = job.kept.offsets[job.column]; i != end; ++i) {
    std::int64_t filter = job.kept.filter_group[i] * job.group_filters - job.filters.first;
    float* to =
        job.values_grad + channel + job.kept.place[i] * job.group_filters * job.group_channels;
    for (std::int64_t left = job.group_filters; left != 0;
         --left, ++filter, to += job.group_channels) {
      if (filter < 0 || filter >= filter_count) continue;
      rows[count++] = {job.grad + filter * job.filter_pitch, to};
      if (count == kFilters) {
        dot_products<V, kFilters, kChannels>(input, job.channel_pitch, job.pixels, rows);
        count = 0;
      }
    }
  }
  for (int i = 0; i < count; ++i) {
    dot_products<V, 1, kChannels>(input, job.channel_pitch, job.pixels, rows + i);
  }
}

template <class V, int kAccumulators>
void weight_grad_of_column(WeightGradJob& job) {
  std::int64_t channel = 0;
  for (; job.channels - channel >= V::kBatch; channel += V::kBatch) {
    weight_grad_of_channels<V, kAccumulators, V::kBatch>(job, channel);
  }
  const std::int64_t left = job.channels - channel;
  if constexpr (V::kBatch > 4) {
    if ((left & 4) != 0) {
      weight_grad_of_channels<V, kAccumulators, 4>(job, channel);
      channel += 4;
    }
  }
  if ((left & 2) != 0) weight_grad_of_channels<V, kAccumulators, 2>(job, channel), channel += 2;
  if ((left & 1) != 0) weight_grad_of_channels<V, kAccumulators, 1>(job, channel);
  job.ran = L1SPARSE_KERNEL_ISA;
}

}  // namespace
}  // namespace l1sparse

// Entries of an instruction set's tables: kVectors of V make the tile, and registers hold the sums
// of kMaxChannels channels.
#define L1SPARSE_GRAD_TILE(V, kVectors, kMaxChannels)             \
  {                                                               \
    kVectors *V::kLanes, {                                        \
      &accumulate_grads<V, kVectors, kMaxChannels, float>,        \
          &accumulate_grads<V, kVectors, kMaxChannels, BFloat16>, \
          &accumulate_grads<V, kVectors, kMaxChannels, Float16>   \
    }                                                             \
  }
