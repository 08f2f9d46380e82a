// SPDX-License-Identifier: MIT
// Pixels on the lanes, filter by filter: the step of kernel.h, once for every instruction set. See
// channels_generic.h for why everything is in an anonymous namespace.
//
// As a dense matrix product does it: the sums of some filters and all outputs of the tile stay in
// registers while their kept columns go by, and every activation that is loaded serves all these
// filters. So activations have to be in the first-level cache: a block's channels are as few as fit
// it, and are copied there, aligned and with the zeros of the edges.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/conv2d/ahead_generic.h"
#include "kernels/conv2d/extra_outputs_generic.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// Activations of a tile: columns from number `first` on, [column][channel][pitch].
struct Panel {
  const float* activations;
  std::int64_t first, pitch;
  const float* extra;  // of outputs beyond whole vectors, [column][output][filter][channel], all
                       // filters alike
};

// Groups of four filters and so many channels have a loop of their own, and so have groups of other
// filters with so many channels or twice as many; but not in code that is to be small.
#ifdef __OPTIMIZE_SIZE__
constexpr int kOwnLoop = 0, kOneByOneLoop = 0;
#else
constexpr int kOwnLoop = 4, kOneByOneLoop = 8;
#endif
// Tiles of so many outputs bring near what comes next.
constexpr int kAheadOutputs = 48;

constexpr int kExtraLanes = kExtraFilters * kExtraChannels;

// Copies what kExtra outputs, one or four, read of so many channels; bit i of `reads`: output i
// does.
template <class V, int kExtra, class T>
L1SPARSE_INLINE void copy_extra(const T* from, std::int64_t channel_pitch, std::int64_t channels,
                                std::uint64_t reads, float* to) {
  if constexpr (kExtra == 4) {
    float outputs[kExtraLanes];
    V::store(outputs, V::load_columns(from, channel_pitch, static_cast<int>(channels),
                                      static_cast<std::uint32_t>(reads)));
    for (int k = 0; k < kExtra; ++k) {
      V::store(to + k * kExtraLanes, V::repeat(outputs + k * kExtraChannels, kExtraChannels));
    }
  } else {
    for (int c = 0; c < kExtraChannels; ++c) {
      const float x = (reads & 1) != 0 && c < channels ? to_float(from[c * channel_pitch]) : 0.0f;
      for (int f = 0; f < kExtraFilters; ++f) to[f * kExtraChannels + c] = x;
    }
  }
}

// Copies what the tile reads at the columns [begin, end) to job.panel; channels that a last group
// lacks become 0.
template <class V, int kVectors, int kExtra, class T>
__attribute__((noinline)) void copy_to_panel(const ColumnsJob& job, std::int64_t begin,
                                             std::int64_t end, float* extra) {
  constexpr int kOutputs = kVectors * V::kLanes;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kOutputs);
  const std::int64_t channel_pitch = job.channel_pitch;
  float* to = job.panel;
  std::int64_t tap = 0;  // a block begins with a group of channels
  for (std::int64_t column = begin; column < end; ++column) {
    const std::uint64_t inside = job.inside == nullptr ? kAll : job.inside[tap] & kAll;
    const std::int64_t this_tap = tap;
    if (++tap == job.taps) tap = 0;
    const T* const from = static_cast<const T*>(job.tile) + job.column_offset[column];
    const std::int64_t channels =
        column >= job.columns - job.taps ? job.last_channels : job.group_channels;
    if (inside == kAll) {
      for (std::int64_t c = 0; c < channels; ++c) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          V::store(to + c * kOutputs + v * V::kLanes,
                   V::load(from + c * channel_pitch + v * V::kLanes));
        }
      }
    } else {
      for (int v = 0; v < kVectors; ++v) {
        const auto lanes = V::lanes_of_bits(static_cast<std::uint32_t>(inside >> v * V::kLanes));
        for (std::int64_t c = 0; c < channels; ++c) {
          V::store(to + c * kOutputs + v * V::kLanes,
                   V::load_lanes(from + c * channel_pitch + v * V::kLanes, lanes));
        }
      }
    }
    for (std::int64_t i = channels * kOutputs; i < job.group_channels * kOutputs; ++i) to[i] = 0.0f;
    to += job.group_channels * kOutputs;
    if constexpr (kExtra > 0) {
      const std::uint64_t reads = job.inside == nullptr ? 15 : job.inside[this_tap] >> kOutputs;
      copy_extra<V, kExtra>(from + kOutputs, channel_pitch, channels, reads, extra);
      extra += kExtra * kExtraLanes;
    }
  }
}

// acc[f] += weight[f * weight_pitch + c] * activation[c], for kChannels channels.
template <class V, int kVectors, int kFilters, int kChannels>
L1SPARSE_INLINE void add_shared(const float* activation, std::int64_t channel_pitch,
                                const float* weight, std::int64_t weight_pitch,
                                typename V::Reg (&acc)[kFilters][kVectors]) {
#pragma GCC unroll 16
  for (int c = 0; c < kChannels; ++c, activation += channel_pitch) {
    // Hides how `activation` moves on: otherwise GCC makes a register of every vector's distance
    // from the first, more than there are.
    asm("" : "+r"(activation));
    typename V::Reg w[kFilters];
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) w[f] = V::broadcast(weight[f * weight_pitch + c]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const typename V::Reg x = V::load(activation + v * V::kLanes);
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) acc[f][v] = V::fma(x, w[f], acc[f][v]);
    }
  }
}

// Adds products[k], of the filters and channels, to the sums of output k; the rest as below.
template <class V, int kFilters, int kExtra, bool kEnds>
L1SPARSE_INLINE void add_extra(const ColumnsJob& job, const typename V::Reg (&products)[kExtra],
                               const float* start, float* sums, const float* residual) {
  float of_filter[kExtraLanes];
  if constexpr (kExtra == 4) {
    V::store(of_filter, V::sums_of_fours(products));
    for (int f = 0; f < kFilters; ++f) {
      const std::int64_t at = f * job.sums_pitch;
      typename V::Reg sum =
          start != nullptr ? V::broadcast(start[f]) : V::load_partial(sums + at, kExtra);
      sum = V::add(sum, V::load_partial(of_filter + f * kExtra, kExtra));
      if constexpr (kEnds) {
        if (residual != nullptr) sum = V::add(sum, V::load_partial(residual + at, kExtra));
        sum = V::min(V::broadcast(job.high), V::max(V::broadcast(job.low), sum));
      }
      V::store_partial(sums + at, sum, kExtra);
    }
  } else {
    V::store(of_filter, products[0]);
    for (int f = 0; f < kFilters; ++f) {
      const float* const p = of_filter + f * kExtraChannels;
      const std::int64_t at = f * job.sums_pitch;
      float sum = (start != nullptr ? start[f] : sums[at]) + ((p[0] + p[1]) + (p[2] + p[3]));
      if constexpr (kEnds) {
        if (residual != nullptr) sum += residual[at];
        sum = sum < job.low ? job.low : sum > job.high ? job.high : sum;
      }
      sums[at] = sum;
    }
  }
}

// Adds the products of the entries begin .. end - 1 of a group to the sums of kFilters of its
// filters, of which `weight` is the first; with `start`, sums start from that instead. kEnds: then
// the residual is added, if there is one, and sums are brought into their bounds. kChannels:
// channels of a group; 0: job.group_channels. Sums are of the type Sum, float unless they start and
// end here. kAhead: brings near what comes next, which takes registers.
template <class V, int kVectors, int kFilters, int kChannels, int kExtra, bool kAhead, bool kEnds,
          class Sum>
L1SPARSE_INLINE void add_filters(const ColumnsJob& job, const Panel& panel, std::uint32_t begin,
                                 std::uint32_t end, const float* weight, const float* start,
                                 Sum* sums, [[maybe_unused]] const Sum* residual,
                                 [[maybe_unused]] BlockAhead& ahead) {
  const std::int64_t channels = kChannels != 0 ? kChannels : job.group_channels;
  const std::int64_t group_size = job.group_filters * channels, sums_pitch = job.sums_pitch;
  const std::int64_t pitch = panel.pitch, column_pitch = channels * pitch;
  typename V::Reg acc[kFilters][kVectors];
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      if (!std::is_same_v<Sum, float> || start != nullptr) {
        acc[f][v] = V::broadcast(start[f]);
      } else {
        acc[f][v] = V::load(sums + f * sums_pitch + v * V::kLanes);
      }
    }
  }
  [[maybe_unused]] typename V::Reg products[kExtra > 0 ? kExtra : 1];
#pragma GCC unroll 4
  for (int k = 0; k < kExtra; ++k) products[k] = V::zero();
  const float* const activations = panel.activations - panel.first * column_pitch;
  const std::uint32_t* const last = job.columns_kept + end;
  for (const std::uint32_t* entry = job.columns_kept + begin; entry != last; ++entry) {
    const float* activation = activations + *entry * column_pitch;
    prefetch(weight, kWeightsAhead);
    if constexpr (kAhead) ahead.step(job);
    if constexpr (kChannels != 0) {
      add_shared<V, kVectors, kFilters, kChannels>(activation, pitch, weight, channels, acc);
    } else {
      for (std::int64_t c = 0; c < channels; ++c) {
        add_shared<V, kVectors, kFilters, 1>(activation + c * pitch, pitch, weight + c, channels,
                                             acc);
      }
    }
    if constexpr (kExtra > 0) {
      const float* const extra = panel.extra + (*entry - panel.first) * (kExtra * kExtraLanes);
      const typename V::Reg w = V::load(weight);
#pragma GCC unroll 4
      for (int k = 0; k < kExtra; ++k) {
        products[k] = V::fma(V::load(extra + k * kExtraLanes), w, products[k]);
      }
    }
    weight += group_size;
  }
  if constexpr (kExtra > 0) {
    add_extra<V, kFilters, kExtra, kEnds>(
        job, products, start, sums + kVectors * V::kLanes,
        residual == nullptr ? nullptr : residual + kVectors * V::kLanes);
  }
  if constexpr (kEnds) {
    const typename V::Reg low = V::broadcast(job.low), high = V::broadcast(job.high);
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        if (residual != nullptr) {
          acc[f][v] = V::add(acc[f][v], V::load(residual + f * sums_pitch + v * V::kLanes));
        }
        acc[f][v] = V::min(high, V::max(low, acc[f][v]));
      }
    }
  }
  // Past the caches. With more filters the choice alone takes registers.
  if constexpr (kEndsByFilter && kFilters == 1 && std::is_same_v<Sum, float>) {
    if (job.streams) {
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          V::stream(sums + f * sums_pitch + v * V::kLanes, acc[f][v]);
        }
      }
      return;
    }
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      V::store(sums + f * sums_pitch + v * V::kLanes, acc[f][v]);
    }
  }
}

// The products of one block, whose rows begin at `rows`, for all filters; groups have a multiple of
// kFilters. kAhead, kEnds, Sum: as for add_filters.
template <class V, int kVectors, int kFilters, int kChannels, int kExtra, bool kAhead, bool kEnds,
          class Sum>
__attribute__((noinline)) void add_block(const ColumnsJob& shared, const Panel panel,
                                         const std::uint32_t* rows, const bool first_block,
                                         BlockAhead& ahead) {
  // A copy that no store can change, so that its members stay in registers.
  const ColumnsJob job = shared;
  constexpr std::int64_t kTileBytes = kVectors * V::kLanes * sizeof(Sum);
  const std::int64_t filter_bytes = job.sums_pitch * static_cast<std::int64_t>(sizeof(Sum));
  const std::int64_t group_size = job.group_filters * job.group_channels;
  // A group may begin before the first filter, in another group of the convolution.
  const std::int64_t group = job.first_filter / job.group_filters;
  const std::uint32_t* row = rows + job.first_filter_group + group;
  if constexpr (kAhead) {
    const std::int64_t groups =
        (job.end_filter - group * job.group_filters + job.group_filters - 1) / job.group_filters;
    ahead.begin((row[groups] - row[0]) * (job.group_filters / kFilters));
  }
  for (std::int64_t first = group * job.group_filters; first < job.end_filter;
       first += job.group_filters, ++row) {
    if (row[0] == row[1] && !first_block && !kEnds) continue;
    Sum* const sums = reinterpret_cast<Sum*>(job.sums) + first * job.sums_pitch;
    if (first_block && job.sums_are_far) {
      for (std::int64_t f = 0; f < job.group_filters; ++f) {
        const std::int64_t ahead = (kOutputFiltersAhead + f) * filter_bytes;
        for (std::int64_t byte = 0; byte < kTileBytes; byte += kCacheLine) {
          prefetch_to_write(sums, ahead + byte);
        }
      }
    }
    const Sum* residual = nullptr;
    if constexpr (kEnds) {
      if (job.residual != nullptr) {
        residual = static_cast<const Sum*>(job.residual) + first * job.sums_pitch;
        for (std::int64_t f = 0; f < job.group_filters; ++f) {
          const std::int64_t ahead = (kResidualFiltersAhead + f) * filter_bytes;
          for (std::int64_t byte = 0; byte < kTileBytes; byte += kCacheLine) {
            prefetch(residual, ahead + byte);
          }
        }
      }
    }
    const float* weight = job.values + row[0] * group_size;
    for (std::int64_t filter = 0; filter < job.group_filters; filter += kFilters) {
      float start[kFilters];
      for (int f = 0; f < kFilters; ++f) {
        const std::int64_t i = first + filter + f;
        start[f] = i < job.end_filter ? bias_of(job, i) : 0.0f;
      }
      add_filters<V, kVectors, kFilters, kChannels, kExtra, kAhead, kEnds>(
          job, panel, row[0], row[1], weight + filter * job.group_channels,
          first_block ? start : nullptr, sums + filter * job.sums_pitch,
          residual == nullptr ? nullptr : residual + filter * job.sums_pitch, ahead);
    }
  }
}

// Whether activations can stay where they are: in lines that the tile does not share, and so far
// apart that they do not compete for the same places of the first-level cache.
template <int kOutputs>
L1SPARSE_INLINE bool reads_in_place(const ColumnsJob& job) {
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kOutputs);
  constexpr std::int64_t kLineFloats = kCacheLine / sizeof(float);
  return job.taps == 1 && job.last_channels == job.group_channels &&
         (job.inside == nullptr || (job.inside[0] & kAll) == kAll) &&
         job.channel_pitch % kLineFloats == 0 && job.channel_pitch % (8 * kLineFloats) != 0 &&
         reinterpret_cast<std::uintptr_t>(job.tile) % kCacheLine == 0 && job.column_offset[0] == 0;
}

// The one for the job's groups.
using AddBlock = void (*)(const ColumnsJob&, const Panel, const std::uint32_t*, bool, BlockAhead&);

template <class V, int kVectors, int kFilters, int kExtra, bool kEnds, class Sum>
AddBlock add_block_for(const ColumnsJob& job) {
  constexpr int kChannels = kFilters == 1 ? kOneByOneLoop : kOwnLoop;
  constexpr bool kCanAhead = kVectors * V::kLanes >= kAheadOutputs;
  if constexpr (kExtra == 0 && kChannels != 0) {
    if constexpr (kFilters == 1) {
      if (job.group_channels == 2 * kChannels) {
        return &add_block<V, kVectors, kFilters, 2 * kChannels, kExtra, false, kEnds, Sum>;
      }
    }
    if (job.group_channels != kChannels) {
      return &add_block<V, kVectors, kFilters, 0, kExtra, false, kEnds, Sum>;
    }
  }
  if (kCanAhead && job.prefetches) {
    return &add_block<V, kVectors, kFilters, kChannels, kExtra, kCanAhead, kEnds, Sum>;
  }
  return &add_block<V, kVectors, kFilters, kChannels, kExtra, false, kEnds, Sum>;
}

// Sums up all columns of a tile; the sums of kFilters filters stay in registers. kExtra: so many
// outputs beyond the vectors, for groups whose filters and channels fill a vector's lanes.
template <class V, int kVectors, int kFilters, int kExtra, class T>
void accumulate_filters(ColumnsJob& job) {
  constexpr int kOutputs = kVectors * V::kLanes;
  static_assert(kExtra == 0 || (kFilters == kExtraFilters && V::kLanes == kExtraLanes));
  const bool in_place = kExtra == 0 && std::is_same_v<T, float> && reads_in_place<kOutputs>(job);
  const auto add = add_block_for<V, kVectors, kFilters, kExtra, false, float>(job);
  auto add_last = add;
  if constexpr (kEndsByFilter) {
    if (job.ends) add_last = add_block_for<V, kVectors, kFilters, kExtra, true, float>(job);
  }
  if constexpr (kEndsByFilter && kFilters == 1) {
    if (job.ends && job.sum_type == DType::bfloat16) {
      add_last = add_block_for<V, kVectors, kFilters, kExtra, true, BFloat16>(job);
    } else if (job.ends && job.sum_type == DType::float16) {
      add_last = add_block_for<V, kVectors, kFilters, kExtra, true, Float16>(job);
    }
  }
  const std::uint32_t* rows = job.row_offsets;
  std::int64_t column = 0;
  do {
    const std::int64_t end =
        column + job.block_columns < job.columns ? column + job.block_columns : job.columns;
    Panel panel{static_cast<const float*>(job.tile), 0, job.channel_pitch, nullptr};
    if (!in_place) {
      float* const extra = job.panel + (end - column) * job.group_channels * kOutputs;
      copy_to_panel<V, kVectors, kExtra, T>(job, column, end, extra);
      panel = {job.panel, column, kOutputs, extra};
    }
    BlockAhead ahead(job, end, kOutputs, sizeof(T));
    (end == job.columns ? add_last : add)(job, panel, rows, column == 0, ahead);
    rows += job.block_rows;
    column = end;
  } while (column < job.columns);
  if (kEndsByFilter && job.streams) V::finish_streams();
  job.ran = L1SPARSE_KERNEL_ISA;
}

}  // namespace
}  // namespace l1sparse

// Entries of an instruction set's tables: kVectors of V make the tile, with a lone output besides
// or without, and registers hold the sums of kFilters filters. Code that is to be small reads
// float32 alone: planes are that.
#define L1SPARSE_FILTER_BY_FILTER_TILE(V, kVectors, kFilters, cost) \
  L1SPARSE_FILTERS_TILE_OF(V, kVectors, kFilters, 0, cost)
#define L1SPARSE_FILTER_BY_FILTER_WHOLE(V, kVectors, cost) \
  L1SPARSE_FILTERS_TILE_OF(V, kVectors, kExtraFilters, 1, cost)
#ifdef __OPTIMIZE_SIZE__
#define L1SPARSE_FILTERS_16_BIT(...) nullptr
#else
#define L1SPARSE_FILTERS_16_BIT(...) &accumulate_filters<__VA_ARGS__>
#endif
#define L1SPARSE_FILTERS_TILE_OF(V, kVectors, kFilters, kExtra, cost)       \
  {                                                                         \
    kVectors *V::kLanes + kExtra, cost, {                                   \
      &accumulate_filters<V, kVectors, kFilters, kExtra, float>,            \
          L1SPARSE_FILTERS_16_BIT(V, kVectors, kFilters, kExtra, BFloat16), \
          L1SPARSE_FILTERS_16_BIT(V, kVectors, kFilters, kExtra, Float16)   \
    }                                                                       \
  }
// The last tile of a map, with four more outputs, for float32.
#define L1SPARSE_FILTER_BY_FILTER_LAST(V, kVectors, cost)                         \
  {                                                                               \
    kVectors *V::kLanes + 4, cost, {                                              \
      &accumulate_filters<V, kVectors, kExtraFilters, 4, float>, nullptr, nullptr \
    }                                                                             \
  }
