// SPDX-License-Identifier: MIT
// The step of kernel.h, once for every instruction set. In an anonymous namespace for the reason
// given in conv2d/generic.h.
#pragma once

#include <cstdint>

#include "kernels/group_l1/kernel.h"

namespace l1sparse {
namespace {

template <class V>
typename V::Reg load_up_to(const float* from, std::int64_t count) {
  return count >= V::kLanes ? V::load(from) : V::load_partial(from, static_cast<int>(count));
}

// sum over i of |values[i]|
template <class V>
float sum_abs(const float* values, std::int64_t count) {
  typename V::Reg sums[V::kBatch] = {};
  for (int i = 0; i < V::kBatch; ++i) sums[i] = V::zero();
  for (std::int64_t i = 0; i < count; i += V::kLanes) {
    sums[0] = V::add(sums[0], V::abs(load_up_to<V>(values + i, count - i)));
  }
  float total[V::kLanes];
  V::store(total, V::sum_lanes(sums));
  return total[0];
}

// into[i] += |values[i]|
template <class V>
void add_abs(const float* values, std::int64_t count, float* into) {
  for (std::int64_t i = 0; i < count; i += V::kLanes) {
    const std::int64_t left = count - i;
    const typename V::Reg sum =
        V::add(load_up_to<V>(into + i, left), V::abs(load_up_to<V>(values + i, left)));
    if (left >= V::kLanes) {
      V::store(into + i, sum);
    } else {
      V::store_partial(into + i, sum, static_cast<int>(left));
    }
  }
}

template <class V>
void group_l1(const GroupL1Job& job) {
  float* norms = job.norms;
  for (std::int64_t first = 0; first < job.channels; first += job.group_channels) {
    const std::int64_t left = job.channels - first;
    const std::int64_t channels = left < job.group_channels ? left : job.group_channels;
    for (std::int64_t tap = 0; tap < job.taps; ++tap) norms[tap] = 0.0f;
    for (std::int64_t filter = 0; filter < job.filters; ++filter) {
      const float* weight = job.weight + (filter * job.channels + first) * job.taps;
      if (job.taps == 1) {
        norms[0] += sum_abs<V>(weight, channels);
        continue;
      }
      for (std::int64_t c = 0; c < channels; ++c) {
        add_abs<V>(weight + c * job.taps, job.taps, norms);
      }
    }
    const float size = static_cast<float>(job.filters * channels);
    for (std::int64_t tap = 0; tap < job.taps; ++tap) norms[tap] /= size;
    norms += job.taps;
  }
}

}  // namespace
}  // namespace l1sparse
