// SPDX-License-Identifier: MIT
// Where a thread block's output pixels read the input, and what launchers check of sizes.
#pragma once

#include <cuda_runtime.h>

#include "kernels/conv2d/gpu.h"

namespace l1sparse {

// The top left corner of what one output pixel reads, tap (0, 0); may lie outside the input.
struct Corner {
  int y, x;
  unsigned pixel;  // of the whole input, modulo 2^32: right again once a tap inside is added

  // The input pixel at (dy, dx) from the corner; `inside` says whether there is one.
  __device__ unsigned at(const GpuConv2d& conv, int dy, int dx, bool* inside) const {
    *inside = static_cast<unsigned>(y + dy) < static_cast<unsigned>(conv.in_h) &&
              static_cast<unsigned>(x + dx) < static_cast<unsigned>(conv.in_w);
    return pixel + static_cast<unsigned>(dy) * static_cast<unsigned>(conv.in_w) +
           static_cast<unsigned>(dx);
  }
};

// Of output pixel `pixel` of the whole batch; nothing is inside for one past the last.
__device__ inline Corner corner_of(const GpuConv2d& conv, std::int64_t pixel) {
  const int of_image = conv.out_h * conv.out_w;
  if (pixel >= static_cast<std::int64_t>(conv.batch) * of_image) return {INT32_MIN, 0, 0};
  const int image = static_cast<int>(pixel) / of_image;
  const int within = static_cast<int>(pixel) - image * of_image;
  const int row = within / conv.out_w;
  const int y = row * conv.stride_h - conv.pad_top;
  const int x = (within - row * conv.out_w) * conv.stride_w - conv.pad_left;
  const auto input_row = static_cast<unsigned>(image * conv.in_h) + static_cast<unsigned>(y);
  return {y, x, input_row * static_cast<unsigned>(conv.in_w) + static_cast<unsigned>(x)};
}

// Output pixels, or -1 where a size is out of what the kernels' arithmetic takes.
inline std::int64_t checked_pixels(const GpuConv2d& conv) {
  const auto product = [](std::int64_t a, std::int64_t b, std::int64_t c) {
    return a <= 0 || b <= 0 || c <= 0 || a * b > INT32_MAX || a * b * c > INT32_MAX ? -1
                                                                                    : a * b * c;
  };
  const std::int64_t pixels = product(conv.batch, conv.out_h, conv.out_w);
  const bool fits = product(conv.batch, conv.in_h, conv.in_w) > 0 && pixels > 0 &&
                    conv.in_channels > 0 && conv.in_channels <= INT32_MAX / 4 &&
                    conv.out_channels > 0 && conv.groups > 0 &&
                    conv.in_channels % conv.groups == 0 && conv.out_channels % conv.groups == 0 &&
                    conv.blocks > 0 && conv.splits > 0 &&
                    (conv.splits == 1 || conv.partial != nullptr) && conv.splits <= 65535;
  return fits ? pixels : -1;
}

}  // namespace l1sparse
