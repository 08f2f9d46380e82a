// SPDX-License-Identifier: MIT
// Channels on the lanes: the steps of kernel.h, once for every instruction set. Everything is in an
// anonymous namespace and nothing here calls a shared inline function: the linker must never pick a
// copy that was compiled for a better processor than the one it runs on.
#pragma once

#include <cstdint>

#include "kernels/conv2d/finish_generic.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// ---- gather ---------------------------------------------------------------------------------

// Copies `count` pixels of `channels` <= V::kLanes channels to lanes of consecutive panel pixels;
// lanes from `channels` on become 0.
template <class V, class T>
void gather_pixels(const T* from, std::int64_t channel_stride, std::int64_t pixel_stride,
                   int channels, std::int64_t count, float* to, std::int64_t to_pitch) {
  constexpr int kLanes = V::kLanes;
  std::int64_t i = 0;
  if (channel_stride == 1) {
    for (; i < count; ++i) {
      const T* pixel = from + i * pixel_stride;
      V::store(to + i * to_pitch,
               channels == kLanes ? V::load(pixel) : V::load_partial(pixel, channels));
    }
  } else if (pixel_stride == 1) {
    for (; i < count; i += kLanes) {
      const int pixels = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
      typename V::Reg r[kLanes];
      for (int c = 0; c < kLanes; ++c) {
        const T* channel = from + c * channel_stride + i;
        if (c >= channels) {
          r[c] = V::zero();
        } else if (pixels == kLanes) {
          r[c] = V::load(channel);
        } else {
          r[c] = V::load_partial(channel, pixels);
        }
      }
      V::transpose(r);
      for (int p = 0; p < pixels; ++p) V::store(to + (i + p) * to_pitch, r[p]);
    }
  } else {
    for (; i < count; ++i) {
      const T* pixel = from + i * pixel_stride;
      float* lanes = to + i * to_pitch;
      int c = 0;
      for (; c < channels; ++c) lanes[c] = to_float(pixel[c * channel_stride]);
      for (; c < kLanes; ++c) lanes[c] = 0.0f;
    }
  }
}

// One panel row of one plane. V may have fewer lanes than the plane: then it takes several rounds.
template <class V, class T>
void gather_row(const GatherJob& job, const T* input_row, int channels, float* to) {
  for (std::int64_t k = 0; k < job.cols.run_count; ++k) {
    const AxisRun& run = job.cols.runs[k];
    const std::int64_t first = job.first_col + run.source;
    // The stretch of the run that lies inside the input.
    const std::int64_t low =
        clamp(first < 0 ? (-first + run.step - 1) / run.step : 0, 0, run.count);
    const std::int64_t high = clamp(
        first < job.width ? (job.width - first + run.step - 1) / run.step : 0, low, run.count);
    float* run_to = to + run.start * job.lanes;
    fill_zero(run_to, low * job.lanes);
    fill_zero(run_to + high * job.lanes, (run.count - high) * job.lanes);
    for (int lane = 0; lane < job.lanes; lane += V::kLanes) {
      const int some = channels - lane;
      const int valid = some < 0 ? 0 : some < V::kLanes ? some : V::kLanes;
      gather_pixels<V, T>(
          input_row + (first + low * run.step) * job.col_stride + lane * job.channel_stride,
          job.channel_stride, run.step * job.col_stride, valid, high - low,
          run_to + low * job.lanes + lane, job.lanes);
    }
  }
}

template <class V, class T>
void gather(const GatherJob& job) {
  const T* input = static_cast<const T*>(job.input);
  const std::int64_t row_floats = job.cols.extent * job.lanes;
  float* to = job.panel;
  for (std::int64_t group = 0; group < job.channel_groups; ++group) {
    for (std::int64_t chunk = 0; chunk < job.chunks; ++chunk) {
      // A plane's channels end with its channel group or with the input, whichever comes first.
      const std::int64_t in_group = job.group_channels - chunk * job.lanes;
      const std::int64_t channel = group * job.group_channels + chunk * job.lanes;
      const std::int64_t left = job.channels - channel;
      const int channels = static_cast<int>(clamp(in_group < left ? in_group : left, 0, job.lanes));
      for (std::int64_t k = 0; k < job.rows.run_count; ++k) {
        const AxisRun& run = job.rows.runs[k];
        for (std::int64_t i = 0; i < run.count; ++i) {
          const std::int64_t row = job.first_row + run.source + i * run.step;
          if (row < 0 || row >= job.height || channels == 0) {
            fill_zero(to, row_floats);
          } else {
            gather_row<V, T>(job, input + channel * job.channel_stride + row * job.row_stride,
                             channels, to);
          }
          to += row_floats;
        }
      }
    }
  }
}

// ---- accumulate -----------------------------------------------------------------------------

// acc[r][c] += weight * activation of output (r, c), lane by lane.
template <class V, int kRows, int kCols>
L1SPARSE_INLINE void multiply(typename V::Reg (&acc)[kRows * kCols], typename V::Reg weight,
                              const float* activation, std::int64_t row_pitch) {
#pragma GCC unroll 28
  for (int r = 0; r < kRows; ++r) {
    const float* row = activation + r * row_pitch;
    // Hides where `row` came from. Otherwise GCC precomputes all kRows * kCols distances, which do
    // not fit the registers, and reloads them from the stack in the innermost loop.
    asm("" : "+r"(row));
#pragma GCC unroll 28
    for (int c = 0; c < kCols; ++c) {
      acc[r * kCols + c] = V::fma(weight, V::load(row + c * V::kLanes), acc[r * kCols + c]);
    }
  }
}

// Sums the lanes of every accumulator into `sums`, one float an output.
template <class V, int kCount>
L1SPARSE_INLINE void store_sums(const typename V::Reg (&acc)[kCount], bool add, float* sums) {
#pragma GCC unroll 28
  for (int first = 0; first < kCount; first += V::kBatch) {
    typename V::Reg batch[V::kBatch];
#pragma GCC unroll 28
    for (int i = 0; i < V::kBatch; ++i) batch[i] = first + i < kCount ? acc[first + i] : V::zero();
    typename V::Sums::Reg total = V::sum_lanes(batch);
    if (add) total = V::Sums::add(total, V::Sums::load(sums + first));
    V::Sums::store(sums + first, total);
  }
}

// kExact: a group's channels fill one vector, the method's own case. A function of its own, since
// with both loops in one the compiler keeps sums on the stack.
template <class V, int kRows, int kCols, bool kExact>
void accumulate(AccumulateJob& job) {
  constexpr int kOutputs = kRows * kCols;
  constexpr int kLanes = V::kLanes;
  constexpr std::int64_t kPitch = sums_pitch(kRows, kCols);
  const std::int64_t channels = kExact ? kLanes : job.group_channels;
  const std::int64_t group_size = job.group_filters * channels;
  const std::int64_t row_pitch = job.row_pitch;
  const float* const tile = job.tile;
  const std::int64_t* const column_offset = job.column_offset;
  float* sums = job.sums;
  for (std::int64_t filter = job.first_filter; filter < job.end_filter; ++filter) {
    const std::int64_t row = filter / job.group_filters;
    const std::uint32_t* column = job.columns + job.row_offsets[row];
    const std::uint32_t* const end = job.columns + job.row_offsets[row + 1];
    const float* weight =
        job.values + job.row_offsets[row] * group_size + filter % job.group_filters * channels;
    typename V::Reg acc[kOutputs];
#pragma GCC unroll 28
    for (int i = 0; i < kOutputs; ++i) acc[i] = V::zero();
    for (; column != end; ++column, weight += group_size) {
      const float* activation = tile + column_offset[*column];
      if constexpr (kExact) {
        multiply<V, kRows, kCols>(acc, V::load(weight), activation, row_pitch);
      } else {
        for (std::int64_t at = 0; at < channels; at += kLanes, activation += job.plane_pitch) {
          const std::int64_t left = channels - at;
          const typename V::Reg chunk = left < kLanes
                                            ? V::load_partial(weight + at, static_cast<int>(left))
                                            : V::load(weight + at);
          multiply<V, kRows, kCols>(acc, chunk, activation, row_pitch);
        }
      }
    }
    store_sums<V, kOutputs>(acc, job.add, sums);
    sums += kPitch;
  }
  job.ran = L1SPARSE_KERNEL_ISA;
}

}  // namespace
}  // namespace l1sparse

// One entry of an instruction set's table: kGatherV brings the input into V's lanes.
#define L1SPARSE_TILE(V, kGatherV, kRows, kCols)                                        \
  {                                                                                     \
    V::kLanes, kRows, kCols, &accumulate<V, kRows, kCols, true>,                        \
        &accumulate<V, kRows, kCols, false>, {                                          \
      &gather<kGatherV, float>, &gather<kGatherV, BFloat16>, &gather<kGatherV, Float16> \
    }                                                                                   \
  }
