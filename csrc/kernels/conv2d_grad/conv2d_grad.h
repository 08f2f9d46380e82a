// SPDX-License-Identifier: MIT
// Gradients of the group-sparse convolution, on its pattern: pruned weights cost nothing here
// either. With the names of kernels/conv2d/conv2d.h, and grad = d loss / d (sums of the output):
//
//   input_grad[n, g * C + c, y * stride_h + i * dilation_h - pad_top,
//                            x * stride_w + j * dilation_w - pad_left]
//       = sum over the kept weights of filters o of convolution group g, over (y, x):
//           weight[o, c, i, j] * grad[n, o, y, x]
//   weight_grad[o, c, i, j], for kept weights only, = sum over n, y, x:
//           grad[n, o, y, x] * input[n, g * C + c, y * stride_h + i * dilation_h - pad_top,
//                                                  x * stride_w + j * dilation_w - pad_left]
//
// Sums are float32. Results do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "base/parallel.h"
#include "base/status.h"
#include "kernels/conv2d/conv2d.h"

namespace l1sparse {

struct Conv2dGradProblem {
  // The convolution. `dtype` is that of input, grad and input_grad; `channels_last` says how
  // input_grad lies; `weight.values` may be replaced, see format/packed.h. Activation: none.
  Conv2dProblem conv;
  Strides4 grad_strides;  // of grad, [batch, out_channels, out_h, out_w]; any; for input_grad only
};

// Checks the problem and gives the bytes of scratch memory that the other function needs.
Status input_grad_workspace(const Conv2dGradProblem& problem, Isa isa, std::int64_t threads,
                            std::int64_t* bytes);

// Writes input_grad, contiguous [batch, in_channels, in_h, in_w]. `workspace` has
// input_grad_workspace's bytes for the same arguments and starts at a multiple of 64. `ran`, if not
// null, is set by the kernel to the instruction set that its code was compiled for.
Status input_grad(const Conv2dGradProblem& problem, const void* grad, void* input_grad, Isa isa,
                  const Parallel& parallel, void* workspace, const char** ran);

Status weight_grad_workspace(const Conv2dGradProblem& problem, Isa isa, std::int64_t threads,
                             std::int64_t* bytes);

// Writes float[kept_groups][filters][channels] in the order of the packed weight; what a last group
// has beyond the weight gets 0. `grad` is contiguous float32 [batch, out_channels, out_h, out_w].
Status weight_grad(const Conv2dGradProblem& problem, const float* grad, const void* input,
                   float* values_grad, Isa isa, const Parallel& parallel, void* workspace,
                   const char** ran);

}  // namespace l1sparse
