// SPDX-License-Identifier: MIT
#include "bindings/convolution.h"

#include <atomic>
#include <utility>

#include "base/isa.h"
#include "bindings/weights.h"

namespace l1sparse::bindings {
namespace {

// Whether the channels of a pixel, and not the pixels of a channel, lie side by side. A tensor
// that could be read either way counts as NCHW, as in torch's suggest_memory_format.
bool is_channels_last(const Tensor& x) {
  if (x.stride(1) != 1) return false;
  const int64_t channels = x.size(1), width = x.size(3), height = x.size(2);
  const bool dense = x.stride(3) == channels && x.stride(2) == channels * width &&
                     (x.size(0) <= 1 || x.stride(0) == channels * width * height);
  return dense && !x.is_contiguous();
}

std::atomic<const char*> last_conv2d_isa{""};

// Working memory that stays with a thread from call to call, and so in its caches, up to so many
// bytes for each thread that takes part. Allocated anew, it takes turns with new outputs at several
// places, more than a second-level cache holds.
thread_local Scratch kept_scratch;
constexpr int64_t kKeptBytes = 2 * 1024 * 1024;

// Whether two tensors' first and last elements span the same memory.
bool overlap(const Tensor& a, const Tensor& b) {
  const auto span = [](const Tensor& tensor) {
    const auto begin = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
    int64_t last = 0;
    for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
    return std::pair(begin, begin + static_cast<size_t>(last + 1) * tensor.element_size());
  };
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto [a_begin, a_end] = span(a);
  const auto [b_begin, b_end] = span(b);
  return a_begin < b_end && b_begin < a_end;
}

// Whether two tensors of one type and shape are the same elements.
bool same_elements(const Tensor& a, const Tensor& b) {
  bool same = a.const_data_ptr() == b.const_data_ptr();
  for (int64_t i = 0; i < a.dim(); ++i) same = same && a.stride(i) == b.stride(i);
  return same;
}

}  // namespace

l1sparse::Conv2dProblem make_problem(const l1sparse::PackedView& weight, const Geometry& geometry,
                                     std::array<int64_t, 4> input_size) {
  l1sparse::Conv2dProblem problem{};
  problem.weight = weight;
  const l1sparse::WeightShape& shape = weight.shape;
  const auto [stride_h, stride_w] = pair("stride", geometry.stride);
  const auto [pad_h, pad_w] = pair("padding", geometry.padding);
  const auto [dilation_h, dilation_w] = pair("dilation", geometry.dilation);
  problem.batch = input_size[0];
  problem.in_channels = input_size[1];
  problem.in_h = input_size[2];
  problem.in_w = input_size[3];
  problem.stride_h = stride_h;
  problem.stride_w = stride_w;
  problem.pad_top = pad_h;
  problem.pad_left = pad_w;
  problem.dilation_h = dilation_h;
  problem.dilation_w = dilation_w;
  problem.groups = geometry.groups;
  check(l1sparse::check_conv2d(problem));
  problem.out_h =
      l1sparse::conv_output_size(problem.in_h, 2 * pad_h, shape.kernel_h, stride_h, dilation_h);
  problem.out_w =
      l1sparse::conv_output_size(problem.in_w, 2 * pad_w, shape.kernel_w, stride_w, dilation_w);
  return problem;
}

void set_activation(const std::string& name, double low, double high,
                    l1sparse::Conv2dProblem& problem) {
  using l1sparse::Activation;
  if (name == "none") {
    problem.activation = Activation::none;
  } else if (name == "relu") {
    problem.activation = Activation::relu;
  } else if (name == "hardswish") {
    problem.activation = Activation::hardswish;
  } else if (name == "relu6" || name == "clamp") {
    problem.activation = Activation::clamp;
    problem.low = name == "clamp" ? static_cast<float>(low) : 0.0f;
    problem.high = name == "clamp" ? static_cast<float>(high) : 6.0f;
    if (!(problem.low <= problem.high)) {
      fail("clamp_min: " + std::to_string(low) + " is not usable, expected at most clamp_max, " +
           std::to_string(high));
    }
  } else {
    fail("activation: '" + name +
         "' is unknown, expected 'none', 'relu', 'relu6', 'clamp' or 'hardswish'");
  }
}

std::vector<int64_t> output_sizes(const l1sparse::Conv2dProblem& problem) {
  const l1sparse::MaxPool& pool = problem.pool;
  if (pool.kernel_h != 0) {
    return {problem.batch, problem.weight.shape.out_channels, pool.out_h, pool.out_w};
  }
  return {problem.batch, problem.weight.shape.out_channels, problem.out_h, problem.out_w};
}

Tensor run_conv2d(l1sparse::Conv2dProblem& problem, const Tensor& input,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                  Tensor* out) {
  const l1sparse::WeightShape& shape = problem.weight.shape;
  problem.dtype = dtype_of(input);
  problem.input_strides = strides_of(input);
  problem.channels_last = problem.pool.kernel_h == 0 && is_channels_last(input);

  l1sparse::Conv2dTensors tensors{};
  const MemoryFormat format =
      problem.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const std::vector<int64_t> out_size = output_sizes(problem);
  std::optional<Tensor> dense_bias, dense_residual;
  if (bias.has_value()) {
    check_float("bias", *bias, 1);
    if (bias->size(0) != shape.out_channels) {
      fail("bias: has " + std::to_string(bias->size(0)) + " values, expected " +
           std::to_string(shape.out_channels) + " (the packed weight's output channels)");
    }
    dense_bias = as_float32(*bias);
    tensors.bias = static_cast<const float*>(dense_bias->const_data_ptr());
  }
  if (residual.has_value()) {
    check_tensor("residual", *residual, residual->scalar_type() == input.scalar_type(),
                 dtype_text(input.scalar_type()) + ", the input's", 4);
    check_sizes("residual", *residual, out_size, "the output's");
    dense_residual = as_contiguous(*residual, format);
    tensors.residual = dense_residual->const_data_ptr();
  }

  const l1sparse::Isa isa = l1sparse::selected_isa();
  const l1sparse::Parallel parallel = torch_threads();
  int64_t workspace_bytes = 0;
  check(l1sparse::conv2d_workspace(problem, isa, parallel.threads, &workspace_bytes));
  Tensor output =
      out != nullptr ? as_contiguous(*out, format) : empty(out_size, input.scalar_type(), format);
  Scratch own;
  Scratch& workspace = workspace_bytes <= kKeptBytes * parallel.threads ? kept_scratch : own;
  workspace.reserve(workspace_bytes);
  tensors.input = input.const_data_ptr();
  tensors.output = output.mutable_data_ptr();
  const char* ran = nullptr;
  check(l1sparse::conv2d(problem, tensors, isa, parallel, workspace.data(), &ran));
  remember_isa(ran);
  if (out != nullptr && output.const_data_ptr() != out->const_data_ptr()) {
    torch::stable::copy_(*out, output);
  }
  return output;
}

void remember_isa(const char* ran) {
  if (ran != nullptr) last_conv2d_isa.store(ran, std::memory_order_relaxed);
}

Tensor sparse_conv2d(const Tensor& input, const Tensor& packed, std::vector<int64_t> weight_shape,
                     std::optional<Tensor> bias, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups,
                     std::optional<Tensor> residual, StringHandle activation, double clamp_min,
                     double clamp_max, StringHandle backend) {
  const std::string activation_name = take_string(activation);
  const std::string backend_name = take_string(backend);
  if (backend_name != "auto") {
    fail("backend: got '" + backend_name + "', expected 'auto' for tensors on the CPU");
  }
  check_float("input", input, 4);
  l1sparse::Conv2dProblem problem = make_problem(
      open_as(packed, weight_shape), {stride, padding, dilation, groups}, sizes_of(input));
  set_activation(activation_name, clamp_min, clamp_max, problem);
  return run_conv2d(problem, input, bias, residual, nullptr);
}

namespace {

void convolve_into(const Tensor& input, const Tensor& packed,
                   const std::vector<int64_t>& weight_shape, const std::optional<Tensor>& bias,
                   const Geometry& geometry, const std::optional<Tensor>& residual,
                   const std::string& activation, double clamp_min, double clamp_max, Tensor& out) {
  check_float("input", input, 4);
  l1sparse::Conv2dProblem problem =
      make_problem(open_as(packed, weight_shape), geometry, sizes_of(input));
  set_activation(activation, clamp_min, clamp_max, problem);
  check_tensor("out", out, out.scalar_type() == input.scalar_type(),
               dtype_text(input.scalar_type()) + ", the input's", 4);
  check_sizes("out", out, output_sizes(problem), "the output's");
  // What is read must not change on the way: a packed weight was checked before.
  for (const Tensor& read : {input, packed, bias.value_or(input)}) {
    if (overlap(out, read)) {
      fail("out: shares memory with input, packed or bias, expected a tensor of its own");
    }
  }
  const bool shares = residual.has_value() && overlap(out, *residual);
  if (shares && !(residual->dim() == 4 && same_elements(out, *residual))) {
    fail("out: shares memory with residual, expected the residual itself or a tensor of its own");
  }
  run_conv2d(problem, input, bias, residual, &out);
}

}  // namespace

void sparse_conv2d_into(const Tensor& input, const Tensor& packed,
                        std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                        std::vector<int64_t> stride, std::vector<int64_t> padding,
                        std::vector<int64_t> dilation, int64_t groups,
                        std::optional<Tensor> residual, StringHandle activation, double clamp_min,
                        double clamp_max, Tensor out) {
  const std::string activation_name = take_string(activation);
  convolve_into(input, packed, weight_shape, bias, {stride, padding, dilation, groups}, residual,
                activation_name, clamp_min, clamp_max, out);
}

void sparse_conv2d_sequence(std::vector<Tensor> read, std::vector<Tensor> written,
                            const Tensor& steps, const Tensor& clamps) {
  enum { kInput, kPacked, kBias, kResidual, kOut, kWeightShape };
  constexpr int64_t kNumbers = kWeightShape + 4 + 2 + 2 + 2 + 2;
  constexpr const char* kActivations[] = {"none", "relu", "relu6", "clamp", "hardswish"};
  check_tensor("steps", steps, steps.scalar_type() == ScalarType::Long, "int64", 2);
  const int64_t count = steps.size(0);
  check_sizes("steps", steps, {count, kNumbers}, "one row a convolution");
  check_tensor("clamps", clamps, clamps.scalar_type() == ScalarType::Double, "float64", 2);
  check_sizes("clamps", clamps, {count, 2}, "a least and a greatest output for each of `steps`");
  const Tensor all_steps = as_contiguous(steps), all_clamps = as_contiguous(clamps);
  const auto* step = static_cast<const int64_t*>(all_steps.const_data_ptr());
  const auto* clamp = static_cast<const double*>(all_clamps.const_data_ptr());
  const auto total = static_cast<int64_t>(written.size() + read.size());
  const auto number_of = [&](int column, int64_t least, int64_t end) {
    const int64_t number = step[column];
    if (number < least || number >= end) {
      fail("steps: column " + std::to_string(column) + " holds " + std::to_string(number) +
           ", expected " + std::to_string(least) + " to " + std::to_string(end - 1));
    }
    return number;
  };
  const auto tensor_of = [&](int column) -> const Tensor& {
    const auto at = static_cast<size_t>(number_of(column, 0, total));
    return at < written.size() ? written[at] : read[at - written.size()];
  };
  const auto optional_of = [&](int column) -> std::optional<Tensor> {
    if (step[column] == -1) return {};
    return tensor_of(column);
  };
  for (int64_t i = 0; i < count; ++i, step += kNumbers, clamp += 2) {
    const int64_t* numbers = step + kWeightShape;
    const auto next = [&numbers](int64_t size) {
      numbers += size;
      return std::vector<int64_t>(numbers - size, numbers);
    };
    std::vector<int64_t> shape = next(4), stride = next(2), padding = next(2), dilation = next(2);
    const int64_t groups = numbers[0];
    const int64_t activation = number_of(kNumbers - 1, 0, std::size(kActivations));
    const auto out = static_cast<size_t>(number_of(kOut, 0, static_cast<int64_t>(written.size())));
    convolve_into(tensor_of(kInput), tensor_of(kPacked), shape, optional_of(kBias),
                  {stride, padding, dilation, groups}, optional_of(kResidual),
                  kActivations[activation], clamp[0], clamp[1], written[out]);
  }
}

Tensor sparse_conv2d_max_pool(const Tensor& input, const Tensor& packed,
                              std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                              std::vector<int64_t> stride, std::vector<int64_t> padding,
                              std::vector<int64_t> dilation, int64_t groups,
                              StringHandle activation, double clamp_min, double clamp_max,
                              std::vector<int64_t> pool_kernel, std::vector<int64_t> pool_stride,
                              std::vector<int64_t> pool_padding) {
  const std::string activation_name = take_string(activation);
  check_float("input", input, 4);
  l1sparse::Conv2dProblem problem = make_problem(
      open_as(packed, weight_shape), {stride, padding, dilation, groups}, sizes_of(input));
  set_activation(activation_name, clamp_min, clamp_max, problem);
  l1sparse::MaxPool& pool = problem.pool;
  const auto [kernel_h, kernel_w] = pair("pool_kernel", pool_kernel);
  const auto [stride_h, stride_w] = pair("pool_stride", pool_stride);
  const auto [pad_top, pad_left] = pair("pool_padding", pool_padding);
  pool = {kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, 0, 0};
  if (kernel_h == 0) check({l1sparse::Code::bad_pool_kernel, 0, 1});  // the core's word for none
  check(l1sparse::check_pool(problem));
  pool.out_h =
      l1sparse::conv_output_size(problem.out_h, 2 * pool.pad_top, pool.kernel_h, pool.stride_h, 1);
  pool.out_w =
      l1sparse::conv_output_size(problem.out_w, 2 * pool.pad_left, pool.kernel_w, pool.stride_w, 1);
  return run_conv2d(problem, input, bias, {}, nullptr);
}

std::string last_isa() { return last_conv2d_isa.load(std::memory_order_relaxed); }

}  // namespace l1sparse::bindings
