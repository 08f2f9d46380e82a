// SPDX-License-Identifier: MIT
// Pixels on the lanes, on instructions that add two products of bfloat16 numbers to a float32:
// lanes hold two channels of a pixel. For weights that are bfloat16 numbers exactly, in groups of
// an even number of channels, at least four.
#pragma once

#include "kernels/conv2d/pixels_generic.h"

namespace l1sparse {
namespace {

// sums[filter] += weights * activations, for kPairs pairs of channels of one column (without
// kSecond for one channel, whose partner's weight is 0) and every filter that kept it; moves `work`
// on by these channels. P is lanes of pairs, as many as V's.
template <class V, class P, class Extra, int kVectors, int kPairs, bool kSecond, class T>
L1SPARSE_INLINE void add_pairs(const ColumnsJob& job, ColumnWork<T>& work) {
  static_assert(kSecond || kPairs == 1);
  constexpr int kChannels = kSecond ? 2 * kPairs : 1;
  constexpr int kOutputs = kVectors * V::kLanes;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kOutputs);
  const std::int64_t channel_pitch = job.channel_pitch;
  typename P::Reg x[kPairs][kVectors];
  if (kSecond && (work.inside & kAll) == kAll) {
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const T* first = work.activation + 2 * p * channel_pitch + v * V::kLanes;
        x[p][v] = P::load(first, first + channel_pitch);
      }
    }
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto lanes = V::lanes_of_bits(static_cast<std::uint32_t>(work.inside >> v * V::kLanes));
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) {
        const T* first = work.activation + 2 * p * channel_pitch + v * V::kLanes;
        x[p][v] = kSecond ? P::load_lanes(first, first + channel_pitch, lanes)
                          : P::load_first(first, lanes);
      }
    }
  }
  add_to_sums<V, Extra, kVectors, kChannels, 0>(
      job, work,
      [&](const float* weight, typename V::Reg(&acc)[kVectors]) __attribute__((always_inline)) {
        // Beside a lone output it is the slower way (docs/kernels.md).
        constexpr bool kThroughMemory = kPairs == 4 && Extra::kOutputs == 0;
        std::uint32_t pairs[4];
        if constexpr (kThroughMemory) narrow_to_pairs(weight, pairs);
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; ++p) {
          typename P::Reg w;
          if constexpr (kThroughMemory) {
            w = P::broadcast(pairs[p]);
          } else {
            w = P::broadcast(weight + 2 * p);
          }
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) acc[v] = P::dot(x[p][v], w, acc[v]);
        }
      });
}

// The channels that do not fill the registers.
template <class V, class P, class Extra, int kVectors, int kMaxPairs, class T>
__attribute__((noinline)) void add_last_pairs(const ColumnsJob& job, ColumnWork<T> work,
                                              std::int64_t channels) {
  if constexpr (kMaxPairs > 4) {
    if ((channels & 8) != 0) add_pairs<V, P, Extra, kVectors, 4, true, T>(job, work);
  }
  if constexpr (kMaxPairs > 2) {
    if ((channels & 4) != 0) add_pairs<V, P, Extra, kVectors, 2, true, T>(job, work);
  }
  if ((channels & 2) != 0) add_pairs<V, P, Extra, kVectors, 1, true, T>(job, work);
  if ((channels & 1) != 0) add_pairs<V, P, Extra, kVectors, 1, false, T>(job, work);
}

// A way to add a column: the activations of kMaxPairs pairs of channels stay in registers.
template <class V, class P, class Extra, int kVectors, int kMaxPairs>
struct KeepPairs {
  template <class T>
  L1SPARSE_INLINE static void add_column(const ColumnsJob& job, ColumnWork<T> work,
                                         std::int64_t channels) {
    for (; channels >= 2 * kMaxPairs; channels -= 2 * kMaxPairs) {
      add_pairs<V, P, Extra, kVectors, kMaxPairs, true, T>(job, work);
    }
    if (channels != 0) {
      add_last_pairs<V, P, Extra, kVectors, kMaxPairs, T>(job, work, channels);
    }
  }
};

}  // namespace
}  // namespace l1sparse

// Entries of an instruction set's tables of pairs; float16 has none.
#define L1SPARSE_PAIRS_TILE(V, P, Extra, kVectors, kMaxPairs, cost)                                \
  {                                                                                                \
    kVectors *V::kLanes + Extra::kOutputs, cost, {                                                 \
      &accumulate_columns<V, Extra, kVectors, KeepPairs<V, P, Extra, kVectors, kMaxPairs>, float>, \
          &accumulate_columns<V, Extra, kVectors, KeepPairs<V, P, Extra, kVectors, kMaxPairs>,     \
                              BFloat16>,                                                           \
          nullptr                                                                                  \
    }                                                                                              \
  }
