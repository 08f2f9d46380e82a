// SPDX-License-Identifier: MIT
// Pixels on the lanes: input to planes, once for every instruction set. See channels_generic.h for
// why everything is in an anonymous namespace.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/conv2d/finish_generic.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// Bits `from` to `to` - 1, as far as they are bits of a vector.
inline std::uint32_t bits_between(std::int64_t from, std::int64_t to) {
  const std::int64_t low = clamp(from, 0, 31), high = clamp(to, low, 31);
  return static_cast<std::uint32_t>((std::int64_t{1} << high) - (std::int64_t{1} << low));
}

// Which of the coordinates first, first + step, ... (`count` of them) lie in [0, size).
struct Inside {
  std::int64_t begin, end;
};

inline Inside inside_of(std::int64_t first, std::int64_t step, std::int64_t count,
                        std::int64_t size) {
  const std::int64_t begin = clamp(first < 0 ? (-first + step - 1) / step : 0, 0, count);
  const std::int64_t end = clamp(first < size ? (size - first + step - 1) / step : 0, begin, count);
  return {begin, end};
}

// Columns of a plane: every step-th of the input's from the first one on, and which lie inside it.
struct PlaneColumns {
  std::int64_t first, step, count;
  Inside inside;
};

inline PlaneColumns columns_of(const PlanesJob& job, std::int64_t set) {
  const std::int64_t first = job.first_col + job.set_cols[set];
  return {first, job.col_step, job.cols, inside_of(first, job.col_step, job.cols, job.width)};
}

// to[k][i] = from[k][i * step] for the columns i inside the input, else 0, for every column and
// k < lines. What lies `ahead` bytes after what is read is asked for; 0: nothing is.
template <class V>
void copy_columns(const PlaneColumns& columns, std::int64_t lines, const float* from,
                  std::int64_t from_pitch, float* to, std::int64_t to_pitch,
                  std::int64_t ahead = 0) {
  constexpr int kLanes = V::kLanes;
  const auto [begin, end] = columns.inside;
  const std::int64_t step = columns.step, count = columns.count;
  if (step > 2) {
    for (std::int64_t k = 0; k < lines; ++k, from += from_pitch, to += to_pitch) {
      for (std::int64_t i = 0; i < count; ++i) {
        to[i] = i >= begin && i < end ? from[i * step] : 0.0f;
      }
    }
    return;
  }
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const float* line = from + i * step;
    float* chunk = to + i;
    // With step 2 a full vector reads one float past the last that it needs.
    if (i >= begin && i + kLanes + (step - 1) <= end && i + kLanes <= count) {
      for (std::int64_t k = 0; k < lines; ++k, line += from_pitch, chunk += to_pitch) {
        for (std::int64_t v = 0; ahead != 0 && v < step; ++v) prefetch(line + v * kLanes, ahead);
        V::store(chunk, step == 1 ? V::load(line) : V::even(V::load(line), V::load(line + kLanes)));
      }
      continue;
    }
    const int stored = static_cast<int>(clamp(count - i, 0, kLanes));
    const std::int64_t low = step * (begin - i), high = step * (end - i) - (step - 1);
    const auto first = V::lanes_of_bits(bits_between(low, high));
    const auto second = V::lanes_of_bits(bits_between(low - kLanes, high - kLanes));
    for (std::int64_t k = 0; k < lines; ++k, line += from_pitch, chunk += to_pitch) {
      typename V::Reg r = V::load_lanes(line, first);
      if (step == 2) r = V::even(r, V::load_lanes(line + kLanes, second));
      V::store_partial(chunk, r, stored);
    }
  }
}

// Channels whose columns lie side by side, to their planes of every set; `planes` is the first.
template <class V>
void gather_channels(const PlanesJob& job, const float* input, std::int64_t channels,
                     float* planes) {
  for (std::int64_t set = 0; set < job.sets; ++set, planes += job.channels * job.plane_pitch) {
    const PlaneColumns columns = columns_of(job, set);
    // The next channel's, which no prefetcher foresees. All sets read the same lines.
    const std::int64_t ahead = set == 0 ? job.channel_stride * std::int64_t{sizeof(float)} : 0;
    const bool reads = columns.inside.begin < columns.inside.end;
    float* to = planes;
    for (std::int64_t r = 0; r < job.rows.run_count; ++r) {
      const AxisRun& run = job.rows.runs[r];
      const std::int64_t first = job.first_row + run.source;
      const Inside rows = inside_of(first, run.step, reads ? run.count : 0, job.height);
      for (std::int64_t c = 0; c < channels; ++c) {
        float* plane = to + c * job.plane_pitch;
        for (std::int64_t i = 0; i < rows.begin; ++i)
          fill_zero(plane + i * job.row_pitch, job.cols);
        if (rows.begin < rows.end) {  // else there may be no input at all
          const std::int64_t row = first + rows.begin * run.step;
          copy_columns<V>(columns, rows.end - rows.begin,
                          input + c * job.channel_stride + row * job.row_stride + columns.first,
                          run.step * job.row_stride, plane + rows.begin * job.row_pitch,
                          job.row_pitch, ahead);
        }
        for (std::int64_t i = rows.end; i < run.count; ++i) {
          fill_zero(plane + i * job.row_pitch, job.cols);
        }
      }
      to += run.count * job.row_pitch;
    }
  }
}

// The columns [low, high) of an input row, `channels` <= V::kLanes channels of it, to lines.
template <class V, class T>
void gather_lines(const PlanesJob& job, const T* row, int channels, std::int64_t low,
                  std::int64_t high, float* lines, std::int64_t line_pitch) {
  constexpr int kLanes = V::kLanes;
  if (job.col_stride == 1) {
    for (int c = 0; c < channels; ++c) {
      const T* from = row + c * job.channel_stride;
      float* to = lines + c * line_pitch - low;
      std::int64_t at = low;
      for (; at + kLanes <= high; at += kLanes) V::store(to + at, V::load(from + at));
      if (at < high) {
        const int left = static_cast<int>(high - at);
        V::store_partial(to + at, V::load_partial(from + at, left), left);
      }
    }
    return;
  }
  if (job.channel_stride == 1) {
    for (std::int64_t at = low; at < high; at += kLanes) {
      const int pixels = high - at < kLanes ? static_cast<int>(high - at) : kLanes;
      const T* pixel = row + at * job.col_stride;
      float* to = lines + at - low;
      typename V::Reg r[kLanes];
      if (channels == kLanes && pixels == kLanes) {
        for (int i = 0; i < kLanes; ++i) {
          r[i] = V::load(pixel + i * job.col_stride);
          // The channels that come next, in the pixel's next cache line.
          prefetch(pixel + i * job.col_stride, kCacheLine);
        }
        V::transpose(r);
        for (int c = 0; c < kLanes; ++c) V::store(to + c * line_pitch, r[c]);
      } else {
        for (int i = 0; i < kLanes; ++i) {
          r[i] = i < pixels ? V::load_partial(pixel + i * job.col_stride, channels) : V::zero();
        }
        V::transpose(r);
        for (int c = 0; c < channels; ++c) V::store_partial(to + c * line_pitch, r[c], pixels);
      }
    }
    return;
  }
  for (int c = 0; c < channels; ++c) {
    for (std::int64_t i = low; i < high; ++i) {
      lines[c * line_pitch + i - low] = to_float(row[c * job.channel_stride + i * job.col_stride]);
    }
  }
}

// One input row of some channels to the planes of every set.
template <class V, class T>
void gather_plane_rows(const PlanesJob& job, const T* row, std::int64_t channel, int channels,
                       std::int64_t panel_row) {
  const auto plane_row = [&](std::int64_t set) {
    return job.planes + (set * job.channels + channel) * job.plane_pitch +
           panel_row * job.row_pitch;
  };
  const std::int64_t only = job.first_col + job.set_cols[0];
  if (job.sets == 1 && job.col_step == 1 && only >= 0 && only + job.cols <= job.width) {
    gather_lines<V>(job, row, channels, only, only + job.cols, plane_row(0), job.plane_pitch);
    return;
  }
  std::int64_t low = job.width, high = 0;
  for (std::int64_t set = 0; set < job.sets; ++set) {
    const std::int64_t first = job.first_col + job.set_cols[set];
    const std::int64_t last = first + (job.cols - 1) * job.col_step;
    low = first < low ? first : low;
    high = last + 1 > high ? last + 1 : high;
  }
  low = clamp(low, 0, job.width);
  high = clamp(high, low, job.width);
  gather_lines<V>(job, row, channels, low, high, job.lines, job.line_pitch);
  for (std::int64_t set = 0; set < job.sets; ++set) {
    const PlaneColumns columns = columns_of(job, set);
    copy_columns<V>(columns, channels, job.lines - low + columns.first, job.line_pitch,
                    plane_row(set), job.plane_pitch);
  }
}

// Wide goes along rows, V (which has to be transposed) across channels.
template <class Wide, class V, class T>
void gather_planes(const PlanesJob& shared) {
  const PlanesJob job = shared;
  constexpr int kLanes = V::kLanes;
  static_assert(kLanes <= kPlaneLines);
  // With channels_last, a cache line of the input brings this many channels of a pixel. Otherwise
  // as many fit a near cache, and what is computed once for them is little beside the copying.
  constexpr std::int64_t kTogether = 64 / sizeof(T);
  const T* input = static_cast<const T*>(job.input);
  for (std::int64_t block = 0; block < job.channels; block += kTogether) {
    const std::int64_t block_end = clamp(block + kTogether, 0, job.channels);
    if constexpr (std::is_same_v<T, float>) {
      if (job.col_stride == 1) {
        gather_channels<Wide>(job, input + block * job.channel_stride, block_end - block,
                              job.planes + block * job.plane_pitch);
        continue;
      }
    }
    std::int64_t panel_row = 0;
    for (std::int64_t k = 0; k < job.rows.run_count; ++k) {
      const AxisRun& run = job.rows.runs[k];
      for (std::int64_t i = 0; i < run.count; ++i, ++panel_row) {
        const std::int64_t row = job.first_row + run.source + i * run.step;
        const bool inside = row >= 0 && row < job.height;
        for (std::int64_t channel = block; channel < block_end; channel += kLanes) {
          const int channels = static_cast<int>(clamp(block_end - channel, 0, kLanes));
          if (inside) {
            gather_plane_rows<V, T>(job,
                                    input + channel * job.channel_stride + row * job.row_stride,
                                    channel, channels, panel_row);
            continue;
          }
          for (std::int64_t set = 0; set < job.sets; ++set) {
            for (int c = 0; c < channels; ++c) {
              fill_zero(job.planes + (set * job.channels + channel + c) * job.plane_pitch +
                            panel_row * job.row_pitch,
                        job.cols);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace l1sparse
