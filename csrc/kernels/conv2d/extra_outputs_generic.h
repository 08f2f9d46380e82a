// SPDX-License-Identifier: MIT
// Pixels on the lanes: a tile's outputs beyond its vectors, whose channels lie on the lanes. See
// channels_generic.h for why everything is in an anonymous namespace.
#pragma once

#include <cstdint>

#include "kernels/conv2d/finish_generic.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// What the sums of a filter of the block start from.
inline float bias_of(const ColumnsJob& job, std::int64_t filter) {
  return job.bias == nullptr ? 0.0f : job.bias[filter];
}

struct NoExtraOutputs {
  static constexpr int kOutputs = 0, kLanes = 0;
  template <int kChannels>
  struct Activations {
    template <class T>
    Activations(const T*, std::int64_t, std::uint64_t) {}
    void add_products(const float*, float*) const {}
  };
  static void clear(const ColumnsJob&) {}
  static void finish(const ColumnsJob&, int) {}
};

// One, as a 7x7 map has it: 49 = 3 * 16 + 1.
template <class E>
struct LoneOutput {
  static constexpr int kOutputs = 1, kLanes = E::kLanes;

  // Of kChannels channels.
  template <int kChannels>
  struct Activations {
    static_assert(kChannels <= kLanes);
    typename E::Reg x = E::zero();

    template <class T>
    L1SPARSE_INLINE Activations(const T* from, std::int64_t channel_pitch, std::uint64_t inside) {
      if ((inside & 1) == 0) return;
      float lanes[kLanes] = {};
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) lanes[c] = to_float(from[c * channel_pitch]);
      x = E::load(lanes);
    }

    L1SPARSE_INLINE void add_products(const float* weight, float* lanes) const {
      const typename E::Reg w =
          kChannels == kLanes ? E::load(weight) : E::load_partial(weight, kChannels);
      E::store(lanes, E::fma(x, w, E::load(lanes)));
    }
  };

  static void clear(const ColumnsJob& job) {
    for (std::int64_t i = job.first_filter; i < job.end_filter; ++i) {
      E::store(job.extra_lanes + i * kLanes, E::zero());
    }
  }

  // Writes the sums, as output number `output` of the tile.
  static void finish(const ColumnsJob& job, int output) {
    for (std::int64_t first = job.first_filter; first < job.end_filter; first += E::kBatch) {
      typename E::Reg lanes[E::kBatch];
      for (int i = 0; i < E::kBatch; ++i) {
        const bool exists = first + i < job.end_filter;
        lanes[i] = exists ? E::load(job.extra_lanes + (first + i) * kLanes) : E::zero();
      }
      float sums[E::kBatch];
      E::store(sums, E::sum_lanes(lanes));
      for (std::int64_t i = 0; i < E::kBatch && first + i < job.end_filter; ++i) {
        job.sums[(first + i) * job.sums_pitch + output] = bias_of(job, first + i) + sums[i];
      }
    }
  }
};

// Four, as a 14x14 map has them: 196 = 12 * 16 + 4. Four channels of an output are neighbours.
template <class E>
struct FourOutputs {
  static constexpr int kOutputs = 4, kLanes = E::kLanes;
  static_assert(kLanes == 16);

  // Of kChannels channels.
  template <int kChannels>
  struct Activations {
    static constexpr int kRegs = (kChannels + 3) / 4;
    typename E::Reg x[kRegs];

    L1SPARSE_INLINE Activations(const float* from, std::int64_t channel_pitch,
                                std::uint64_t inside) {
#pragma GCC unroll 2
      for (int r = 0; r < kRegs; ++r) {
        x[r] = E::load_columns(from + 4 * r * channel_pitch, channel_pitch, channels_of(r),
                               static_cast<std::uint32_t>(inside));
      }
    }

    L1SPARSE_INLINE void add_products(const float* weight, float* lanes) const {
      typename E::Reg sum = E::load(lanes);
#pragma GCC unroll 2
      for (int r = 0; r < kRegs; ++r) {
        sum = E::fma(x[r], E::repeat(weight + 4 * r, channels_of(r)), sum);
      }
      E::store(lanes, sum);
    }

    static constexpr int channels_of(int r) {
      return kChannels - 4 * r < 4 ? kChannels - 4 * r : 4;
    }
  };

  static void clear(const ColumnsJob& job) { LoneOutput<E>::clear(job); }

  // Writes the sums, as outputs from number `output` of the tile on.
  static void finish(const ColumnsJob& job, int output) {
    for (std::int64_t i = job.first_filter; i < job.end_filter; ++i) {
      float* const sums = job.sums + i * job.sums_pitch + output;
      E::store_sums_of_four(sums, E::load(job.extra_lanes + i * kLanes));
      for (int k = 0; k < kOutputs; ++k) sums[k] = bias_of(job, i) + sums[k];
    }
  }
};

}  // namespace
}  // namespace l1sparse
