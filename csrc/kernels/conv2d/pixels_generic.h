// SPDX-License-Identifier: MIT
// Pixels on the lanes: weights times activations, once for every instruction set. See
// channels_generic.h for why everything is in an anonymous namespace.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/conv2d/ahead_generic.h"
#include "kernels/conv2d/extra_outputs_generic.h"
#include "kernels/conv2d/filters_generic.h"
#include "kernels/conv2d/kernel.h"
#include "kernels/conv2d/max_pool_generic.h"
#include "kernels/conv2d/planes_generic.h"

namespace l1sparse {
namespace {

// The entries of a column that are left to do.
struct EntriesWork {
  const std::uint32_t* entry;
  const std::uint32_t* end;
  const float* weight;
  Ahead* ahead;
};

// What is left to do of a column.
template <class T>
struct ColumnWork : EntriesWork {
  const T* activation;
  std::uint64_t inside;
};

// ---- accumulate, with activations in registers --------------------------------------------------

// For every filter that kept the column: `add_products(weight, acc)` adds what its kChannels
// weights and the tile's activations give to its sums. Moves `work` on by these channels. Groups
// have kGroupFilters filters; 0: job.group_filters.
template <class V, class Extra, int kVectors, int kChannels, int kGroupFilters, class T,
          class AddProducts>
L1SPARSE_INLINE void add_to_sums(const ColumnsJob& job, ColumnWork<T>& work,
                                 const AddProducts& add_products) {
  const std::int64_t channel_pitch = job.channel_pitch;
  constexpr int kOutputs = kVectors * V::kLanes;
  const typename Extra::template Activations<kChannels> extra(
      work.activation + kOutputs, channel_pitch,
      Extra::kOutputs > 0 ? work.inside >> kOutputs % 64 : 0);
  const std::int64_t group_filters = kGroupFilters != 0 ? kGroupFilters : job.group_filters;
  const std::int64_t group_channels = job.group_channels;
  float* const lanes_of_zero =
      job.extra_lanes - job.first_filter_group * group_filters * Extra::kLanes;
  const std::int64_t sums_pitch = job.sums_pitch, group_pitch = group_filters * sums_pitch;
  float* const sums_of_zero = job.sums - job.first_filter_group * group_pitch;
  const float* weight = work.weight;
  // `ask` is called with every filter.
  const auto add_to_group = [&](std::uint32_t group,
                                const auto& ask) __attribute__((always_inline)) {
    float* sums = sums_of_zero + group * group_pitch;
    float* lanes = lanes_of_zero + group * group_filters * Extra::kLanes;
    std::int64_t filters = group_filters;
    do {
      // Hides how `weight` moves on. Otherwise GCC 12, when it makes vectors of plain C++ with two
      // channels, reads two weights past the last filter's.
      asm("" : "+r"(weight));
      prefetch(weight, kWeightsAhead);
      ask();
      typename V::Reg acc[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[v] = V::load(sums + v * V::kLanes);
      add_products(weight, acc);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) V::store(sums + v * V::kLanes, acc[v]);
      extra.add_products(weight, lanes);
      lanes += Extra::kLanes;
      weight += group_channels;
      sums += sums_pitch;
    } while (--filters != 0);
  };
  const std::uint32_t* entry = work.entry;
  if constexpr (kAsksByFilter) {  // loops of their own leave the last one as fast as it was
    const auto add_and_ask = [&](Stretches& wanted, auto far) __attribute__((always_inline)) {
      Stretches stretches = wanted;  // a copy that no store can change, as for the job
      const auto ask = [&]() __attribute__((always_inline)) {
        if (kGroupFilters == 1 || stretches.left != 0) {
          stretches.template ask<far()>(kOutputs * sizeof(T));
        }
      };
      for (; entry != work.end && stretches.left != 0; ++entry) add_to_group(*entry, ask);
      wanted.next = stretches.next;
      wanted.left = stretches.left;
    };
    if (work.ahead->far) {
      add_and_ask(work.ahead->activations, std::true_type{});
    } else {
      add_and_ask(work.ahead->activations, std::false_type{});
    }
    add_and_ask(work.ahead->outputs, std::true_type{});
  }
  for (; entry != work.end; ++entry) add_to_group(*entry, [] {});
  work.activation += kChannels * channel_pitch;
  work.weight += kChannels;
}

// acc[v] += weight[c] * x[c][v], summed up in kChains sums that do not wait for each other.
template <class V, int kVectors, int kChannels, int kChains>
L1SPARSE_INLINE void add_kept(const float* weight, const typename V::Reg (&x)[kChannels][kVectors],
                              typename V::Reg (&acc)[kVectors]) {
  typename V::Reg more[kChains][kVectors];  // the first stays unused
#pragma GCC unroll 8
  for (int c = 0; c < kChannels; ++c) {
    const typename V::Reg w = V::broadcast(weight[c]);
    const int chain = c % kChains;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      typename V::Reg& sum = chain == 0 ? acc[v] : more[chain][v];
      sum = chain > 0 && c < kChains ? V::mul(x[c][v], w) : V::fma(x[c][v], w, sum);
    }
  }
#pragma GCC unroll 8
  for (int chain = 1; chain < kChains; ++chain) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[v] = V::add(acc[v], more[chain][v]);
  }
}

// sums[filter] += weights * activations, for kChannels channels of one column and every filter that
// kept it; moves `work` on by these channels.
template <class V, class Extra, int kVectors, int kChannels, int kChains, int kGroupFilters,
          class T>
L1SPARSE_INLINE void add_channels(const ColumnsJob& job, ColumnWork<T>& work) {
  constexpr int kOutputs = kVectors * V::kLanes;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kOutputs);
  const std::int64_t channel_pitch = job.channel_pitch;
  typename V::Reg x[kChannels][kVectors];
  // The asm statements hide how `activation` moves on and which lanes these are. Otherwise GCC
  // makes all channels' addresses and the lanes for every column, also where all are inside.
  const T* activation = work.activation;
  if ((work.inside & kAll) == kAll) {
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c, activation += channel_pitch) {
      asm("" : "+r"(activation));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) x[c][v] = V::load(activation + v * V::kLanes);
    }
  } else {
    std::uint64_t inside = work.inside;
    asm volatile("" : "+r"(inside));
    decltype(V::lanes_of_bits(0)) lanes[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      lanes[v] = V::lanes_of_bits(static_cast<std::uint32_t>(inside >> v * V::kLanes));
    }
#pragma GCC unroll 8
    for (int c = 0; c < kChannels; ++c, activation += channel_pitch) {
      asm("" : "+r"(activation));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        x[c][v] = V::load_lanes(activation + v * V::kLanes, lanes[v]);
      }
    }
  }
  add_to_sums<V, Extra, kVectors, kChannels, kGroupFilters>(
      job, work,
      [&](const float* weight, typename V::Reg(&acc)[kVectors]) __attribute__((always_inline)) {
        add_kept<V, kVectors, kChannels, (kChains < kChannels ? kChains : kChannels)>(weight, x,
                                                                                      acc);
      });
}

// The channels that do not fill the registers: a function of its own, so that it takes none from
// the ones that do.
template <class V, class Extra, int kVectors, int kMaxChannels, int kChains, int kGroupFilters,
          class T>
__attribute__((noinline)) void add_last_channels(const ColumnsJob& job, ColumnWork<T> work,
                                                 std::int64_t channels) {
  if constexpr (kMaxChannels > 4) {
    if ((channels & 4) != 0)
      add_channels<V, Extra, kVectors, 4, kChains, kGroupFilters, T>(job, work);
  }
  if ((channels & 2) != 0)
    add_channels<V, Extra, kVectors, 2, kChains, kGroupFilters, T>(job, work);
  if ((channels & 1) != 0)
    add_channels<V, Extra, kVectors, 1, kChains, kGroupFilters, T>(job, work);
}

// A way to add a column: the activations of kMaxChannels channels stay in registers, and an
// output's products are summed up in kChains sums, so that few of them wait for each other.
// kGroupFilters: as for add_to_sums.
template <class V, class Extra, int kVectors, int kMaxChannels, int kChains, int kGroupFilters = 0>
struct KeepActivations {
  template <class T>
  L1SPARSE_INLINE static void add_column(const ColumnsJob& job, ColumnWork<T> work,
                                         std::int64_t channels) {
    for (; channels >= kMaxChannels; channels -= kMaxChannels) {
      add_channels<V, Extra, kVectors, kMaxChannels, kChains, kGroupFilters, T>(job, work);
    }
    if (channels != 0) {
      add_last_channels<V, Extra, kVectors, kMaxChannels, kChains, kGroupFilters, T>(job, work,
                                                                                     channels);
    }
  }
};

// ---- accumulate, with the sums of several filters in registers --------------------------------
//
// For instruction sets with so few registers that a group's activations do not fit: the sums of
// kFilters filters are what stays, and every activation that is loaded serves all of them. Groups
// have one filter.

// Some channels of a column, and the weights and sums of the filters that are left to do.
struct SharedChannels {
  const float* activation;
  std::int64_t channel_pitch, channels;
  const float* weight;
  std::int64_t weight_pitch;  // from one filter's weights to the next's
  const std::uint32_t* entry;
  float* sums_of_zero;
  std::int64_t sums_pitch;
};

// Adds the channels' products to the sums of the next kFilters filters. With kEight channels and
// weight_pitch are 8: then nothing is left to compute but addresses.
template <class V, int kVectors, int kFilters, bool kEight>
L1SPARSE_INLINE void add_to_next_filters(SharedChannels& shared) {
  const std::int64_t weight_pitch = kEight ? 8 : shared.weight_pitch;
  float* sums[kFilters];
  typename V::Reg acc[kFilters][kVectors];
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    sums[f] = shared.sums_of_zero + *shared.entry++ * shared.sums_pitch;
    prefetch(shared.weight + f * weight_pitch, kWeightsAhead);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[f][v] = V::load(sums[f] + v * V::kLanes);
  }
  const float* activation = shared.activation;
  const float* weight = shared.weight;
  std::int64_t left = kEight ? 8 : shared.channels;
  for (; left >= 8; left -= 8, activation += 8 * shared.channel_pitch, weight += 8) {
    add_shared<V, kVectors, kFilters, 8>(activation, shared.channel_pitch, weight, weight_pitch,
                                         acc);
  }
  for (; left > 0; --left, activation += shared.channel_pitch, ++weight) {
    add_shared<V, kVectors, kFilters, 1>(activation, shared.channel_pitch, weight, weight_pitch,
                                         acc);
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) V::store(sums[f] + v * V::kLanes, acc[f][v]);
  }
  shared.weight += kFilters * weight_pitch;
}

// A function of its own, so that it shares its registers with nothing.
template <class V, int kVectors, int kFilters, bool kEight, class T>
__attribute__((noinline)) void add_to_all_filters(const ColumnsJob& job, const EntriesWork& work,
                                                  const float* activation,
                                                  std::int64_t channel_pitch,
                                                  std::int64_t channels) {
  static_assert(kFilters <= 3, "the filters that are left over are done by two and by one");
  SharedChannels shared{activation,
                        channel_pitch,
                        channels,
                        work.weight,
                        job.group_channels,
                        work.entry,
                        job.sums - job.first_filter_group * job.sums_pitch,
                        job.sums_pitch};
  std::int64_t filters = work.end - work.entry;
  if constexpr (kAsksByFilter) {  // a loop of its own, as above
    const auto add_and_ask = [&](Stretches& wanted, auto far) __attribute__((always_inline)) {
      Stretches stretches = wanted;
      for (; filters >= kFilters && stretches.left != 0; filters -= kFilters) {
        for (int f = 0; f < kFilters && stretches.left != 0; ++f) {
          stretches.template ask<far()>(kVectors * V::kLanes * sizeof(T));
        }
        add_to_next_filters<V, kVectors, kFilters, kEight>(shared);
      }
      wanted.next = stretches.next;
      wanted.left = stretches.left;
    };
    if (work.ahead->far) {
      add_and_ask(work.ahead->activations, std::true_type{});
    } else {
      add_and_ask(work.ahead->activations, std::false_type{});
    }
    add_and_ask(work.ahead->outputs, std::true_type{});
  }
  for (; filters >= kFilters; filters -= kFilters) {
    add_to_next_filters<V, kVectors, kFilters, kEight>(shared);
  }
  if (filters == 2) add_to_next_filters<V, kVectors, 2, kEight>(shared);
  if (filters == 1) add_to_next_filters<V, kVectors, 1, kEight>(shared);
}

// sums[filter] += weights * activations, for one column and every filter that kept it.
template <class V, int kVectors, int kFilters, class T>
L1SPARSE_INLINE void add_column_to_filters(const ColumnsJob& job, ColumnWork<T>& work,
                                           std::int64_t channels) {
  constexpr int kOutputs = kVectors * V::kLanes;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kOutputs);
  const auto add = [&](const float* activation, std::int64_t channel_pitch, std::int64_t count) {
    if (count == 8 && job.group_channels == 8) {
      add_to_all_filters<V, kVectors, kFilters, true, T>(job, work, activation, channel_pitch,
                                                         count);
    } else {
      add_to_all_filters<V, kVectors, kFilters, false, T>(job, work, activation, channel_pitch,
                                                          count);
    }
  };
  if constexpr (std::is_same_v<T, float>) {
    if ((work.inside & kAll) == kAll) {
      add(work.activation, job.channel_pitch, channels);
      return;
    }
  }
  // What has to be masked or widened is so once for all filters.
  constexpr std::int64_t kCopied = 16;
  alignas(64) float copy[kCopied * kOutputs];
  while (channels != 0) {
    const std::int64_t count = channels < kCopied ? channels : kCopied;
    for (int v = 0; v < kVectors; ++v) {
      const auto lanes = V::lanes_of_bits(static_cast<std::uint32_t>(work.inside >> v * V::kLanes));
      for (std::int64_t c = 0; c < count; ++c) {
        V::store(copy + c * kOutputs + v * V::kLanes,
                 V::load_lanes(work.activation + c * job.channel_pitch + v * V::kLanes, lanes));
      }
    }
    add(copy, kOutputs, count);
    work.activation += count * job.channel_pitch;
    work.weight += count;
    channels -= count;
  }
}

// A way to add a column: the sums of kFilters filters stay in registers.
template <class V, int kVectors, int kFilters>
struct KeepSums {
  template <class T>
  L1SPARSE_INLINE static void add_column(const ColumnsJob& job, ColumnWork<T> work,
                                         std::int64_t channels) {
    add_column_to_filters<V, kVectors, kFilters>(job, work, channels);
  }
};

// ---- all columns of a tile ------------------------------------------------------------------

// By a way to add one of them.
template <class V, class Extra, int kVectors, class Way, class T>
void accumulate_columns(ColumnsJob& shared) {
  // A copy that no store can change, so that its members stay in registers.
  const ColumnsJob job = shared;
  const std::int64_t begin = job.first_filter, end = job.end_filter;
  constexpr std::int64_t kOutputs = kVectors * V::kLanes, kFloat = sizeof(float);
  for (std::int64_t i = begin; i < end; ++i) {
    const typename V::Reg bias = V::broadcast(bias_of(job, i));
    float* const sums = job.sums + i * job.sums_pitch;
    if (job.sums_are_far) {
      const std::int64_t ahead = kOutputFiltersAhead * job.sums_pitch * kFloat;
      for (std::int64_t byte = 0; byte < kOutputs * kFloat; byte += kCacheLine) {
        prefetch_to_write(sums, ahead + byte);
      }
    }
    for (int v = 0; v < kVectors; ++v) V::store(sums + v * V::kLanes, bias);
  }
  Extra::clear(job);
  const std::int64_t group_size = job.group_filters * job.group_channels;
  AheadByColumn ahead(job, kOutputs, sizeof(T));
  const std::uint64_t all_inside = ~std::uint64_t{0};
  const std::uint64_t* const inside = job.inside == nullptr ? &all_inside : job.inside;
  const std::int64_t masks = job.inside == nullptr ? 1 : job.taps;
  std::int64_t mask = 0, column = 0;
  // All channel groups but the last, which may have fewer channels; then that one.
  std::int64_t channels = job.group_channels;
  for (std::int64_t end_column = job.columns - job.taps; column < job.columns;
       end_column = job.columns) {
    for (; column < end_column; ++column) {
      ColumnWork<T> work;
      work.ahead = ahead.at_column(job, column, kOutputs, sizeof(T));
      work.inside = inside[mask];
      if (++mask == masks) mask = 0;
      work.entry = job.filter_groups + job.entries_begin[column];
      work.end = job.filter_groups + job.entries_end[column];
      if (work.entry == work.end) continue;
      work.weight = job.values + (work.entry - job.filter_groups) * group_size;
      work.activation = static_cast<const T*>(job.tile) + job.column_offset[column];
      Way::template add_column<T>(job, work, channels);
    }
    channels = job.last_channels;
  }
  Extra::finish(job, kOutputs);
  shared.ran = L1SPARSE_KERNEL_ISA;
}

// ---- all columns of a tile, where nothing is pruned ---------------------------------------------

// sums[f] = weights * activations for kFilters filters from `filter` on, which stay in registers.
template <class V, int kVectors, int kFilters>
L1SPARSE_INLINE void accumulate_unpruned_filters(const ColumnsJob& job, std::int64_t filter) {
  constexpr int kOutputs = kVectors * V::kLanes;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kOutputs);
  const std::int64_t weight_pitch = job.group_channels, channel_pitch = job.channel_pitch;
  typename V::Reg acc[kFilters][kVectors];
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    const typename V::Reg bias = V::broadcast(bias_of(job, filter + f));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[f][v] = bias;
  }
  const auto add = [&](const float* weight, const typename V::Reg(&x)[kVectors])
                       __attribute__((always_inline)) {
#pragma GCC unroll 8
                         for (int f = 0; f < kFilters; ++f) {
                           const typename V::Reg w = V::broadcast(weight[f * weight_pitch]);
#pragma GCC unroll 8
                           for (int v = 0; v < kVectors; ++v)
                             acc[f][v] = V::fma(x[v], w, acc[f][v]);
                         }
                       };
  // Columns follow one another, with as many groups each.
  const std::uint32_t* const entries = job.entries_begin;
  const float* column_weight = job.values + (entries[0] + filter) * weight_pitch;
  const std::int64_t column_pitch = job.columns > 1 ? (entries[1] - entries[0]) * weight_pitch : 0;
  std::int64_t tap = 0;
  for (std::int64_t column = 0; column < job.columns; ++column, column_weight += column_pitch) {
    const std::uint64_t inside = job.inside == nullptr ? kAll : job.inside[tap] & kAll;
    if (++tap == job.taps) tap = 0;
    const float* weight = column_weight;
    const float* activation = static_cast<const float*>(job.tile) + job.column_offset[column];
    std::int64_t channels =
        column >= job.columns - job.taps ? job.last_channels : job.group_channels;
    typename V::Reg x[kVectors];
    if (inside == kAll) {
      for (; channels != 0; --channels, activation += channel_pitch, ++weight) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) x[v] = V::load(activation + v * V::kLanes);
        add(weight, x);
      }
    } else {
      for (; channels != 0; --channels, activation += channel_pitch, ++weight) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const auto bits = static_cast<std::uint32_t>(inside >> v * V::kLanes);
          x[v] = V::load_lanes(activation + v * V::kLanes, V::lanes_of_bits(bits));
        }
        add(weight, x);
      }
    }
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    float* sums = job.sums + (filter + f) * job.sums_pitch;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) V::store(sums + v * V::kLanes, acc[f][v]);
  }
}

// As accumulate_columns, for groups of one filter of which none is pruned.
template <class V, int kVectors, int kFilters>
void accumulate_unpruned(ColumnsJob& shared) {
  const ColumnsJob job = shared;
  std::int64_t filter = job.first_filter;
  for (; filter + kFilters <= job.end_filter; filter += kFilters) {
    accumulate_unpruned_filters<V, kVectors, kFilters>(job, filter);
  }
  for (; filter < job.end_filter; ++filter) {
    accumulate_unpruned_filters<V, kVectors, 1>(job, filter);
  }
  shared.ran = L1SPARSE_KERNEL_ISA;
}

}  // namespace
}  // namespace l1sparse

// Entries of an instruction set's tables: kVectors of V make the tile, with Extra outputs besides,
// and registers hold the activations of kMaxChannels channels and kChains sums of every output.
#define L1SPARSE_PIXEL_TILE(V, Extra, kVectors, kMaxChannels, kChains, cost) \
  L1SPARSE_TILE_OF(V, Extra, kVectors, cost,                                 \
                   KeepActivations<V, Extra, kVectors, kMaxChannels, kChains>)
// For groups of one filter; float32, for which it pays, goes without the loop over a group's
// filters and has kFloatChains sums of every output.
#define L1SPARSE_ONE_FILTER_TILE(V, Extra, kVectors, kMaxChannels, kChains, kFloatChains, cost)    \
  {                                                                                                \
    kVectors *V::kLanes + Extra::kOutputs, cost, {                                                 \
      &accumulate_columns<V, Extra, kVectors,                                                      \
                          KeepActivations<V, Extra, kVectors, kMaxChannels, kFloatChains, 1>,      \
                          float>,                                                                  \
          &accumulate_columns<V, Extra, kVectors,                                                  \
                              KeepActivations<V, Extra, kVectors, kMaxChannels, kChains>,          \
                              BFloat16>,                                                           \
          &accumulate_columns<V, Extra, kVectors,                                                  \
                              KeepActivations<V, Extra, kVectors, kMaxChannels, kChains>, Float16> \
    }                                                                                              \
  }
// The last tile of a map, for float32; groups have kGroupFilters filters, 0: any number.
#define L1SPARSE_LAST_TILE(V, Extra, kVectors, kMaxChannels, kChains, kGroupFilters, cost)   \
  {                                                                                          \
    kVectors *V::kLanes + Extra::kOutputs, cost, {                                           \
      &accumulate_columns<                                                                   \
          V, Extra, kVectors,                                                                \
          KeepActivations<V, Extra, kVectors, kMaxChannels, kChains, kGroupFilters>, float>, \
          nullptr, nullptr                                                                   \
    }                                                                                        \
  }
// Registers hold the sums of kFilters filters.
#define L1SPARSE_FILTERS_TILE(V, kVectors, kFilters, cost) \
  L1SPARSE_TILE_OF(V, NoExtraOutputs, kVectors, cost, KeepSums<V, kVectors, kFilters>)
// The last argument is the way, whose name has commas.
#define L1SPARSE_TILE_OF(V, Extra, kVectors, cost, ...)                   \
  {                                                                       \
    kVectors *V::kLanes + Extra::kOutputs, cost, {                        \
      &accumulate_columns<V, Extra, kVectors, __VA_ARGS__, float>,        \
          &accumulate_columns<V, Extra, kVectors, __VA_ARGS__, BFloat16>, \
          &accumulate_columns<V, Extra, kVectors, __VA_ARGS__, Float16>   \
    }                                                                     \
  }

// A tile of kVectors of V, for the tables of what is not pruned, which are for float32; registers
// hold the sums of kFilters filters.
#define L1SPARSE_UNPRUNED_TILE(V, kVectors, kFilters, cost)                                      \
  {                                                                                              \
    kVectors *V::kLanes, cost, { &accumulate_unpruned<V, kVectors, kFilters>, nullptr, nullptr } \
  }

#define L1SPARSE_PIXEL_TILES(array, whole, last) \
  {array, sizeof(array) / sizeof(array[0]), whole, last}

// An instruction set's table; Wide is its widest vector, V one that it can transpose; last come
// masks_are_cheap, a value a type.
#define L1SPARSE_CONV2D_KERNELS(Wide, V, tiles, one_filter_tiles, two_sums_tiles, pixel_tiles, \
                                narrow_tiles, filter_by_filter_tiles, one_by_one_tiles,        \
                                unpruned_tiles, ...)                                           \
  {                                                                                            \
    tiles, sizeof(tiles) / sizeof(tiles[0]), one_filter_tiles, two_sums_tiles, pixel_tiles,    \
        narrow_tiles, filter_by_filter_tiles, one_by_one_tiles, unpruned_tiles, {__VA_ARGS__}, \
        {&gather_planes<Wide, V, float>, &gather_planes<Wide, V, BFloat16>,                    \
         &gather_planes<Wide, V, Float16>},                                                    \
        {&finish<Wide, V, float>, &finish<Wide, V, BFloat16>, &finish<Wide, V, Float16>}, {    \
      &max_pool<Wide, float>, &max_pool<Wide, BFloat16>, &max_pool<Wide, Float16>              \
    }                                                                                          \
  }
