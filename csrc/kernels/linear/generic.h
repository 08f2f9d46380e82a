// SPDX-License-Identifier: MIT
// The steps of a linear layer, once for every instruction set. Everything is in an anonymous
// namespace, so that no linker takes the code of one instruction set for another's.
#pragma once

#include <cstdint>

#include "kernels/linear/kernel.h"

namespace l1sparse {
namespace {

// Of so many vectors the sums of lanes, for the first `count`.
template <class V>
void store_sums(const typename V::Reg (&vectors)[V::kBatch], std::int64_t count, float* sums) {
  float all[V::kBatch];
  V::Sums::store(all, V::sum_lanes(vectors));
  for (std::int64_t i = 0; i < count; ++i) sums[i] = all[i];
}

template <class V>
void average_pixels(const AverageJob& shared) {
  const AverageJob job = shared;
  constexpr std::int64_t kLanes = V::kLanes, kBatch = V::kBatch;
  const float scale = 1.0f / static_cast<float>(job.pixels);
  const float* from = job.input;
  for (std::int64_t i = 0; i < job.count; i += kBatch) {
    const std::int64_t count = job.count - i < kBatch ? job.count - i : kBatch;
    typename V::Reg sums[kBatch];
    for (std::int64_t k = 0; k < kBatch; ++k) sums[k] = V::zero();
    for (std::int64_t k = 0; k < count; ++k, from += job.pixels) {
      std::int64_t p = 0;
      for (; p + kLanes <= job.pixels; p += kLanes) sums[k] = V::add(sums[k], V::load(from + p));
      if (p < job.pixels) {
        const int left = static_cast<int>(job.pixels - p);
        sums[k] = V::add(sums[k], V::load_partial(from + p, left));
      }
    }
    store_sums<V>(sums, count, job.averages + i);
  }
  for (std::int64_t i = 0; i < job.count; ++i) job.averages[i] *= scale;
}

// As many rows together as have their lanes summed up together: so many streams of the weight hide
// how long memory takes, better than asking for one stream ahead does.
template <class V>
void linear_rows(const LinearRowsJob& shared) {
  const LinearRowsJob job = shared;
  constexpr std::int64_t kLanes = V::kLanes;
  constexpr int kRows = V::kBatch;
  for (std::int64_t first = job.first; first < job.end; first += kRows) {
    const std::int64_t count = job.end - first < kRows ? job.end - first : kRows;
    const float* row[kRows];
    for (int k = 0; k < kRows; ++k) {
      row[k] = job.weight + (first + (k < count ? k : count - 1)) * job.in_features;
    }
    for (std::int64_t n = 0; n < job.batch; ++n) {
      const float* input = job.input + n * job.in_features;
      typename V::Reg sums[kRows];
#pragma GCC unroll 8
      for (int k = 0; k < kRows; ++k) sums[k] = V::zero();
      std::int64_t f = 0;
      for (; f + kLanes <= job.in_features; f += kLanes) {
        const typename V::Reg x = V::load(input + f);
#pragma GCC unroll 8
        for (int k = 0; k < kRows; ++k) sums[k] = V::fma(V::load(row[k] + f), x, sums[k]);
      }
      if (f < job.in_features) {
        const int left = static_cast<int>(job.in_features - f);
        const typename V::Reg x = V::load_partial(input + f, left);
#pragma GCC unroll 8
        for (int k = 0; k < kRows; ++k) {
          sums[k] = V::fma(V::load_partial(row[k] + f, left), x, sums[k]);
        }
      }
      float* output = job.output + n * job.out_pitch + first;
      store_sums<V>(sums, count, output);
      if (job.bias != nullptr) {
        for (std::int64_t k = 0; k < count; ++k) output[k] += job.bias[first + k];
      }
    }
  }
}

}  // namespace
}  // namespace l1sparse

#define L1SPARSE_LINEAR_KERNELS(V) {&average_pixels<V>, &linear_rows<V>}
