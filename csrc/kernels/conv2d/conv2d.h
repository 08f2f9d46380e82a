// SPDX-License-Identifier: MIT
// Group-sparse 2-D convolution; sums are float32.
//
//   output[n, o, y, x] = act( bias[o] + residual[n, o, y, x]
//       + sum over kept groups of filter o, over the group's channels c and its tap (i, j):
//           weight[o, c, i, j]
//           * input[n, g * C + c, y * stride_h + i * dilation_h - pad_top,
//                                 x * stride_w + j * dilation_w - pad_left] )
//
// where g is filter o's convolution group, C the channels of a convolution group, and pixels
// outside the input count as 0. A pruned weight contributes nothing, even where the input is
// infinite or NaN.
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "base/parallel.h"
#include "base/status.h"
#include "format/packed.h"
#include "kernels/conv2d/kernel.h"

namespace l1sparse {

// Element strides of a [N, C, H, W] tensor.
struct Strides4 {
  std::int64_t n, c, h, w;
};

struct Conv2dProblem {
  PackedView weight;
  std::int64_t batch, in_channels, in_h, in_w;
  std::int64_t out_h, out_w;
  std::int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
  DType dtype;  // of input, residual and output
  Activation activation;
  float low, high;         // of Activation::clamp
  Strides4 input_strides;  // any
  // Of output and residual: contiguous, as NCHW, or as NHWC where this says so.
  bool channels_last;
  // What becomes of the output. With one, `output` is its output, NCHW, and there is no residual;
  // the weight is packed for pixels.
  MaxPool pool;
};

struct Conv2dTensors {
  const void* input;
  const float* bias;     // [out_channels], or null
  const void* residual;  // of the output's shape and layout, or null
  void* output;
};

// Checks strides, padding, dilation, groups and channels: what an output size can be computed from.
Status check_conv2d(const Conv2dProblem& problem);

// Checks the pooling but for its output, if there is one.
Status check_pool(const Conv2dProblem& problem);

// Output size of one axis, nn.Conv2d's formula; 0 where the kernel does not fit.
std::int64_t conv_output_size(std::int64_t input, std::int64_t padding_total, std::int64_t kernel,
                              std::int64_t stride, std::int64_t dilation);

// Checks the problem and gives the bytes of scratch memory that conv2d needs for it.
Status conv2d_workspace(const Conv2dProblem& problem, Isa isa, std::int64_t threads,
                        std::int64_t* bytes);

// Computes the convolution. `workspace` has conv2d_workspace's bytes for the same arguments and
// starts at a multiple of 64. `ran`, if not null, is set by the kernel to the instruction set that
// its code was compiled for.
Status conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors, Isa isa,
              const Parallel& parallel, void* workspace, const char** ran);

}  // namespace l1sparse
