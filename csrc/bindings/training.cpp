// SPDX-License-Identifier: MIT
#include "bindings/training.h"

#include "base/isa.h"
#include "bindings/convolution.h"
#include "bindings/weights.h"
#include "kernels/conv2d_grad/conv2d_grad.h"

namespace l1sparse::bindings {
namespace {

std::vector<int64_t> values_sizes(const l1sparse::PackedView& view) {
  return {view.kept_groups, view.grid.filters, view.grid.channels};
}

// The pattern with these values; `held` keeps them alive.
l1sparse::PackedView with_values(l1sparse::PackedView view, const Tensor& values, Tensor& held) {
  check_tensor("values", values, values.scalar_type() == ScalarType::Float, "float32", 3);
  check_sizes("values", values, values_sizes(view), "the pattern's");
  held = torch::stable::contiguous(values);
  view.values = static_cast<const float*>(held.const_data_ptr());
  view.bfloat16_values = false;
  return view;
}

void check_values_shape(const l1sparse::PackedView& view, const std::vector<int64_t>& shape) {
  if (shape != values_sizes(view)) {
    fail("values_shape: got " + sizes_text(shape) + ", expected the pattern's " +
         sizes_text(values_sizes(view)));
  }
}

}  // namespace

Tensor gather_values(const Tensor& weight, const Tensor& pattern,
                     std::vector<int64_t> values_shape) {
  check_float("weight", weight, 4);
  const l1sparse::PackedView view = open(pattern);
  check_values_shape(view, values_shape);
  const l1sparse::WeightShape& shape = view.shape;
  check_sizes("weight", weight,
              {shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w},
              "the pattern's");
  const Tensor dense = as_float32(weight);
  Tensor values = empty(values_shape, ScalarType::Float);
  const int64_t numbers = l1sparse::gather_scratch(view);
  const Scratch scratch(numbers * static_cast<int64_t>(sizeof(std::uint32_t)));
  l1sparse::gather_values(view, static_cast<const float*>(dense.const_data_ptr()),
                          static_cast<float*>(values.mutable_data_ptr()),
                          static_cast<std::uint32_t*>(scratch.data()));
  return values;
}

Tensor scatter_values(const Tensor& values, const Tensor& pattern,
                      std::vector<int64_t> weight_shape) {
  Tensor held = values;
  const l1sparse::PackedView view = with_values(open_as(pattern, weight_shape), values, held);
  Tensor weight = empty(weight_shape, ScalarType::Float);
  l1sparse::unpack(view, static_cast<float*>(weight.mutable_data_ptr()));
  return weight;
}

Tensor values_conv2d(const Tensor& input, const Tensor& values, const Tensor& pattern,
                     std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                     std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t groups, std::optional<Tensor> residual,
                     StringHandle activation) {
  const std::string activation_name = take_string(activation);
  check_float("input", input, 4);
  if (activation_name != "none" && activation_name != "relu") {
    fail("activation: got '" + activation_name +
         "', expected 'none' or 'relu'; apply others to the output");
  }
  Tensor held = values;
  const l1sparse::PackedView view = with_values(open_as(pattern, weight_shape), values, held);
  l1sparse::Conv2dProblem problem =
      make_problem(view, {stride, padding, dilation, groups}, sizes_of(input));
  set_activation(activation_name, 0.0, 0.0, problem);
  return run_conv2d(problem, input, bias, residual, nullptr);
}

Tensor conv2d_input_grad(const Tensor& grad, std::optional<Tensor> values, const Tensor& pattern,
                         std::vector<int64_t> weight_shape, int64_t in_h, int64_t in_w,
                         bool channels_last, std::vector<int64_t> stride,
                         std::vector<int64_t> padding, std::vector<int64_t> dilation,
                         int64_t groups) {
  check_float("grad", grad, 4);
  l1sparse::PackedView view = open_as(pattern, weight_shape);
  Tensor held = grad;
  if (values.has_value()) view = with_values(view, *values, held);
  for (const int64_t size : {in_h, in_w}) {
    if (size < 0) fail("in_h, in_w: got " + std::to_string(size) + ", expected at least 0");
  }
  if (groups < 1) fail("groups: got " + std::to_string(groups) + ", expected at least 1");
  // Channels of the packed weight stay below 2^30, and groups of one that can be divided by them.
  const int64_t channels = view.shape.out_channels % groups == 0 ? view.shape.in_channels * groups
                                                                 : view.shape.in_channels;
  l1sparse::Conv2dGradProblem problem{};
  problem.conv =
      make_problem(view, {stride, padding, dilation, groups}, {grad.size(0), channels, in_h, in_w});
  problem.conv.dtype = dtype_of(grad);
  problem.conv.channels_last = channels_last;
  problem.grad_strides = strides_of(grad);
  check_sizes("grad", grad, output_sizes(problem.conv), "the output's");
  const l1sparse::Isa isa = l1sparse::selected_isa();
  const l1sparse::Parallel parallel = torch_threads();
  int64_t bytes = 0;
  check(l1sparse::input_grad_workspace(problem, isa, parallel.threads, &bytes));
  const Scratch workspace(bytes);
  const std::vector<int64_t> size{grad.size(0), channels, in_h, in_w};
  Tensor result = empty(size, grad.scalar_type(),
                        channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const char* ran = nullptr;
  check(l1sparse::input_grad(problem, grad.const_data_ptr(), result.mutable_data_ptr(), isa,
                             parallel, workspace.data(), &ran));
  remember_isa(ran);
  return result;
}

Tensor conv2d_values_grad(const Tensor& grad, const Tensor& input, const Tensor& pattern,
                          std::vector<int64_t> weight_shape, std::vector<int64_t> values_shape,
                          std::vector<int64_t> stride, std::vector<int64_t> padding,
                          std::vector<int64_t> dilation, int64_t groups) {
  check_float("grad", grad, 4);
  check_float("input", input, 4);
  const l1sparse::PackedView view = open_as(pattern, weight_shape);
  check_values_shape(view, values_shape);
  l1sparse::Conv2dGradProblem problem{};
  problem.conv = make_problem(view, {stride, padding, dilation, groups}, sizes_of(input));
  problem.conv.dtype = dtype_of(input);
  problem.conv.input_strides = strides_of(input);
  check_sizes("grad", grad, output_sizes(problem.conv), "the output's");
  const l1sparse::Isa isa = l1sparse::selected_isa();
  const l1sparse::Parallel parallel = torch_threads();
  int64_t bytes = 0;
  check(l1sparse::weight_grad_workspace(problem, isa, parallel.threads, &bytes));
  const Scratch workspace(bytes);
  const Tensor dense = as_float32(grad);
  Tensor result = empty(values_shape, ScalarType::Float);
  const char* ran = nullptr;
  check(l1sparse::weight_grad(
      problem, static_cast<const float*>(dense.const_data_ptr()), input.const_data_ptr(),
      static_cast<float*>(result.mutable_data_ptr()), isa, parallel, workspace.data(), &ran));
  remember_isa(ran);
  return result;
}

}  // namespace l1sparse::bindings
