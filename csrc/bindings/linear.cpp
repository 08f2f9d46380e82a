// SPDX-License-Identifier: MIT
#include "bindings/linear.h"

#include "base/isa.h"
#include "kernels/linear/linear.h"

namespace l1sparse::bindings {
namespace {

void check_float32(const char* name, const Tensor& tensor, int64_t rank) {
  check_tensor(name, tensor, tensor.scalar_type() == ScalarType::Float, "float32", rank);
}

}  // namespace

Tensor linear(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias) {
  check_float32("input", input, input.dim() == 4 ? 4 : 2);
  check_float32("weight", weight, 2);
  LinearProblem problem{input.size(0), input.size(1), weight.size(0), 1};
  if (input.dim() == 4) problem.pixels = input.size(2) * input.size(3);
  check_sizes("weight", weight, {problem.out_features, problem.in_features},
              "output features and the input's");
  if (problem.pixels == 0) {
    fail("input: has shape " + shape_text(input) + ", expected pixels to take the average of");
  }
  const Tensor dense_input = as_contiguous(input), dense_weight = as_contiguous(weight);
  LinearTensors tensors{};
  std::optional<Tensor> dense_bias;
  if (bias.has_value()) {
    check_float32("bias", *bias, 1);
    check_sizes("bias", *bias, {problem.out_features}, "the weight's output features");
    dense_bias = as_contiguous(*bias);
    tensors.bias = static_cast<const float*>(dense_bias->const_data_ptr());
  }
  Tensor output = empty({problem.batch, problem.out_features}, ScalarType::Float);
  int64_t bytes = 0;
  check(linear_workspace(problem, &bytes));
  const Scratch workspace(bytes);
  tensors.input = static_cast<const float*>(dense_input.const_data_ptr());
  tensors.weight = static_cast<const float*>(dense_weight.const_data_ptr());
  tensors.output = static_cast<float*>(output.mutable_data_ptr());
  check(l1sparse::linear(problem, tensors, selected_isa(), torch_threads(), workspace.data()));
  return output;
}

}  // namespace l1sparse::bindings
