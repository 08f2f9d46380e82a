// SPDX-License-Identifier: MIT
// The step of kernel.h, once for every instruction set. In an anonymous namespace for the reason
// given in conv2d/channels_generic.h.
#pragma once

#include <cstdint>

#include "kernels/group_l1/kernel.h"

namespace l1sparse {
namespace {

// sums += |from[0..count)|, lane by lane.
template <class V>
typename V::Reg add_abs(typename V::Reg sums, const float* from, std::int64_t count) {
  const bool full = count >= V::kLanes;
  return V::add(sums,
                V::abs(full ? V::load(from) : V::load_partial(from, static_cast<int>(count))));
}

// Several taps: they lie side by side, so a vector holds the sums of as many taps.
template <class V>
void sum_taps(const GroupL1Job& job, const float* weight, std::int64_t channels, float* norms) {
  constexpr int kLanes = V::kLanes;
  const typename V::Reg size = V::broadcast(static_cast<float>(job.filters * channels));
  for (std::int64_t at = 0; at < job.taps; at += kLanes) {
    // The last vector overlaps the one before; if there is none before, it is a shorter one.
    const std::int64_t tap = at > 0 && at + kLanes > job.taps ? job.taps - kLanes : at;
    const int count = job.taps < kLanes ? static_cast<int>(job.taps) : kLanes;
    typename V::Reg sums = V::zero();
    for (std::int64_t filter = 0; filter < job.filters; ++filter) {
      const float* from = weight + filter * job.channels * job.taps + tap;
      if (count == kLanes) {
        for (std::int64_t c = 0; c < channels; ++c, from += job.taps) {
          sums = V::add(sums, V::abs(V::load(from)));
        }
      } else {
        for (std::int64_t c = 0; c < channels; ++c, from += job.taps) {
          sums = V::add(sums, V::abs(V::load_partial(from, count)));
        }
      }
    }
    V::store_partial(norms + tap, V::div(sums, size), count);
  }
}

// One tap: a group's channels lie side by side. The lanes of kBatch groups are added up together.
template <class V>
void sum_channels(const GroupL1Job& job, float* norms) {
  constexpr int kBatch = V::kBatch, kLanes = V::kLanes;
  static_assert(kBatch == kLanes);
  const std::int64_t step = job.group_channels;
  const std::int64_t groups = (job.channels + step - 1) / step;
  std::int64_t first = 0;
  if (step % kLanes == 0) {  // whole vectors
    const typename V::Reg size = V::broadcast(static_cast<float>(job.filters * step));
    for (; (first + kBatch) * step <= job.channels; first += kBatch) {
      typename V::Reg sums[kBatch];
      for (int i = 0; i < kBatch; ++i) sums[i] = V::zero();
      for (std::int64_t filter = 0; filter < job.filters; ++filter) {
        const float* from = job.weight + filter * job.channels + first * step;
        for (std::int64_t c = 0; c < step; c += kLanes) {
#pragma GCC unroll 8
          for (int i = 0; i < kBatch; ++i) {
            sums[i] = V::add(sums[i], V::abs(V::load(from + i * step + c)));
          }
        }
      }
      V::store(norms + first, V::div(V::sum_lanes(sums), size));
    }
  }
  for (; first < groups; ++first) {
    const std::int64_t left = job.channels - first * step, channels = left < step ? left : step;
    typename V::Reg sums[kBatch];
    for (int i = 0; i < kBatch; ++i) sums[i] = V::zero();
    for (std::int64_t filter = 0; filter < job.filters; ++filter) {
      const float* from = job.weight + filter * job.channels + first * step;
      for (std::int64_t c = 0; c < channels; c += kLanes) {
        sums[0] = add_abs<V>(sums[0], from + c, channels - c);
      }
    }
    const typename V::Reg size = V::broadcast(static_cast<float>(job.filters * channels));
    V::store_partial(norms + first, V::div(V::sum_lanes(sums), size), 1);
  }
}

// Wide for the taps of a group, V for its channels.
template <class Wide, class V>
void group_l1(const GroupL1Job& shared) {
  const GroupL1Job job = shared;  // a copy that no store can change
  if (job.taps == 1) {
    sum_channels<V>(job, job.norms);
    return;
  }
  float* norms = job.norms;
  for (std::int64_t first = 0; first < job.channels; first += job.group_channels) {
    const std::int64_t left = job.channels - first;
    sum_taps<Wide>(job, job.weight + first * job.taps,
                   left < job.group_channels ? left : job.group_channels, norms);
    norms += job.taps;
  }
}

}  // namespace
}  // namespace l1sparse
