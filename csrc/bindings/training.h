// SPDX-License-Identifier: MIT
// Operators for training: the weights of the kept groups are in a tensor of their own.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bindings/tensors.h"

namespace l1sparse::bindings {

Tensor gather_values(const Tensor& weight, const Tensor& pattern,
                     std::vector<int64_t> values_shape);

Tensor scatter_values(const Tensor& values, const Tensor& pattern,
                      std::vector<int64_t> weight_shape);

Tensor values_conv2d(const Tensor& input, const Tensor& values, const Tensor& pattern,
                     std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                     std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t groups, std::optional<Tensor> residual,
                     StringHandle activation);

Tensor conv2d_input_grad(const Tensor& grad, std::optional<Tensor> values, const Tensor& pattern,
                         std::vector<int64_t> weight_shape, int64_t in_h, int64_t in_w,
                         bool channels_last, std::vector<int64_t> stride,
                         std::vector<int64_t> padding, std::vector<int64_t> dilation,
                         int64_t groups);

Tensor conv2d_values_grad(const Tensor& grad, const Tensor& input, const Tensor& pattern,
                          std::vector<int64_t> weight_shape, std::vector<int64_t> values_shape,
                          std::vector<int64_t> stride, std::vector<int64_t> padding,
                          std::vector<int64_t> dilation, int64_t groups);

}  // namespace l1sparse::bindings
