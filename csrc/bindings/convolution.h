// SPDX-License-Identifier: MIT
// Operators that convolve.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/tensors.h"
#include "kernels/conv2d/conv2d.h"

namespace l1sparse::bindings {

// What all functions of a convolution are told besides their tensors.
struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

// All of a problem but dtype, layout and activation, checked, for an input [batch, channels, h, w].
Conv2dProblem make_problem(const PackedView& weight, const Geometry& geometry,
                           std::array<int64_t, 4> input_size);

// Its activation.
void set_activation(const std::string& name, double low, double high, Conv2dProblem& problem);

std::vector<int64_t> output_sizes(const Conv2dProblem& problem);

// Does the convolution; `problem` has its activation, and all that make_problem sets. Without
// `out`, which may be the residual, the output is a new tensor.
Tensor run_conv2d(Conv2dProblem& problem, const Tensor& input, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& residual, Tensor* out);

// Remembers which instruction set a kernel says it was compiled for, unless it says nothing.
void remember_isa(const char* ran);

Tensor sparse_conv2d(const Tensor& input, const Tensor& packed, std::vector<int64_t> weight_shape,
                     std::optional<Tensor> bias, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups,
                     std::optional<Tensor> residual, StringHandle activation, double clamp_min,
                     double clamp_max, StringHandle backend);

// `out` is where the output goes; it may be the residual.
void sparse_conv2d_into(const Tensor& input, const Tensor& packed,
                        std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                        std::vector<int64_t> stride, std::vector<int64_t> padding,
                        std::vector<int64_t> dilation, int64_t groups,
                        std::optional<Tensor> residual, StringHandle activation, double clamp_min,
                        double clamp_max, Tensor out);

// Convolutions one after the other, as sparse_conv2d_into does each. A row of `steps`, int64, has
// where among all tensors, first `written`, then `read`, are input, packed, bias (-1: none),
// residual (-1: none) and out, which is one of `written`; then weight_shape, stride, padding and
// dilation, groups, and the number of the activation. `clamps`, float64, has its bounds.
void sparse_conv2d_sequence(std::vector<Tensor> read, std::vector<Tensor> written,
                            const Tensor& steps, const Tensor& clamps);

// Max pooling of what sparse_conv2d gives, NCHW whatever the input is.
Tensor sparse_conv2d_max_pool(const Tensor& input, const Tensor& packed,
                              std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                              std::vector<int64_t> stride, std::vector<int64_t> padding,
                              std::vector<int64_t> dilation, int64_t groups,
                              StringHandle activation, double clamp_min, double clamp_max,
                              std::vector<int64_t> pool_kernel, std::vector<int64_t> pool_stride,
                              std::vector<int64_t> pool_padding);

// For tests: the instruction set that the last sparse_conv2d's kernel says it was compiled for.
std::string last_isa();

}  // namespace l1sparse::bindings
