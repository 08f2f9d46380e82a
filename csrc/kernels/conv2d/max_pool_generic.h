// SPDX-License-Identifier: MIT
// Max pooling of a convolution's outputs while they are in the caches, once for every instruction
// set. See channels_generic.h for why everything is in an anonymous namespace.
#pragma once

#include <cstdint>

#include "kernels/conv2d/finish_generic.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {
namespace {

// to[x] = the greatest of column x of so many rows.
template <class V>
void max_of_rows(const float* rows, std::int64_t count, std::int64_t width, float* to) {
  constexpr int kLanes = V::kLanes;
  std::int64_t x = 0;
  for (; x + kLanes <= width; x += kLanes) {
    typename V::Reg greatest = V::load(rows + x);
    for (std::int64_t row = 1; row < count; ++row) {
      greatest = V::max_or_nan(greatest, V::load(rows + row * width + x));
    }
    V::store(to + x, greatest);
  }
  if (x == width) return;
  const int left = static_cast<int>(width - x);
  typename V::Reg greatest = V::load_partial(rows + x, left);
  for (std::int64_t row = 1; row < count; ++row) {
    greatest = V::max_or_nan(greatest, V::load_partial(rows + row * width + x, left));
  }
  V::store_partial(to + x, greatest, left);
}

// to[x] = the greatest of line[x * stride] and its kernel - 1 neighbours on the right.
template <class V, int kStride, class T>
void max_of_columns(const float* line, std::int64_t kernel, std::int64_t count, T* to) {
  static_assert(kStride == 1 || kStride == 2);
  constexpr int kLanes = V::kLanes;
  const auto load = [](const float* from) {
    return kStride == 1 ? V::load(from) : V::even(V::load(from), V::load(from + kLanes));
  };
  for (std::int64_t x = 0; x < count; x += kLanes, line += kStride * kLanes) {
    typename V::Reg greatest = load(line);
    for (std::int64_t k = 1; k < kernel; ++k) greatest = V::max_or_nan(greatest, load(line + k));
    if (count - x >= kLanes) {
      V::store(to + x, greatest);
    } else {
      V::store_partial(to + x, greatest, static_cast<int>(count - x));
    }
  }
}

// As above, for any stride.
template <class T>
void max_of_columns(const float* line, std::int64_t kernel, std::int64_t stride, std::int64_t count,
                    T* to) {
  for (std::int64_t x = 0; x < count; ++x, line += stride) {
    float greatest = line[0];
    for (std::int64_t k = 1; k < kernel; ++k) {
      if (!(line[k] <= greatest) && greatest == greatest) greatest = line[k];
    }
    from_float(greatest, to + x);
  }
}

template <class V, class T>
void max_pool(const MaxPoolJob& shared) {
  const MaxPoolJob job = shared;
  const MaxPool& pool = job.pool;
  for (std::int64_t i = 0; i < job.line_floats; ++i) job.line[i] = -__builtin_inff();
  auto* to = static_cast<T*>(job.output);
  for (std::int64_t filter = 0; filter < job.filters; ++filter) {
    const float* rows = job.rows + filter * job.filter_pitch;
    for (std::int64_t y = 0; y < job.out_rows; ++y) {
      const std::int64_t first = job.first_row + y * pool.stride_h;
      const std::int64_t begin = clamp(first, 0, job.height);
      const std::int64_t end = clamp(first + pool.kernel_h, begin, job.height);
      max_of_rows<V>(rows + begin * job.width, end - begin, job.width, job.line + pool.pad_left);
      T* out = to + (filter * pool.out_h + y) * pool.out_w;
      if (pool.stride_w == 1) {
        max_of_columns<V, 1>(job.line, pool.kernel_w, pool.out_w, out);
      } else if (pool.stride_w == 2) {
        max_of_columns<V, 2>(job.line, pool.kernel_w, pool.out_w, out);
      } else {
        max_of_columns(job.line, pool.kernel_w, pool.stride_w, pool.out_w, out);
      }
    }
  }
}

}  // namespace
}  // namespace l1sparse
