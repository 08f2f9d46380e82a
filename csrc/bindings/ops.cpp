// SPDX-License-Identifier: MIT
// The torch operators: thin shells that check what only torch knows (dtypes, ranks, devices), take
// memory from torch, and call the core. Errors of the core come out as its own texts.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"  // in torch's own headers
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#pragma GCC diagnostic pop

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/isa.h"
#include "format/packed.h"
#include "kernels/conv2d/choose.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/conv2d_grad/conv2d_grad.h"
#include "kernels/group_l1/group_l1.h"

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

void check(l1sparse::Status status) {
  if (status.ok()) return;
  char text[256];
  l1sparse::describe(status, text, sizeof(text));
  fail(text);
}

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
  }
  return text + "]";
}

// Types of activations and weights, first of all float32.
constexpr std::array<ScalarType, l1sparse::kDTypeCount> kFloatTypes{
    ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};

bool is_float(ScalarType dtype) {
  return std::find(kFloatTypes.begin(), kFloatTypes.end(), dtype) != kFloatTypes.end();
}

std::string dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    default:
      return "number " + std::to_string(static_cast<int>(dtype));
  }
}

void check_tensor(const char* name, const Tensor& tensor, bool dtype_fits,
                  const std::string& dtype_names, int64_t rank) {
  if (!tensor.is_cpu()) {
    fail(std::string(name) + ": must be on the CPU, where this operator was called");
  }
  if (!dtype_fits) {
    fail(std::string(name) + ": has dtype " + dtype_text(tensor.scalar_type()) + ", expected " +
         dtype_names);
  }
  if (tensor.dim() != rank) {
    fail(std::string(name) + ": has shape " + shape_text(tensor) + ", expected " +
         std::to_string(rank) + " dimensions");
  }
}

std::array<int64_t, 2> pair(const char* name, const std::vector<int64_t>& values) {
  if (values.size() != 2) {
    fail(std::string(name) + ": has " + std::to_string(values.size()) + " numbers, expected 2");
  }
  return {values[0], values[1]};
}

// Whether this process was forked since the operators were loaded. OpenMP's threads stay behind in
// the parent, and GNU's OpenMP waits for them for ever, in torch's own operators as well.
std::atomic<bool> forked{false};
[[maybe_unused]] const int watches_forks =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

l1sparse::Parallel torch_threads() {
  l1sparse::Parallel parallel;
  const bool alone = forked.load(std::memory_order_relaxed);
  parallel.threads = alone ? 1 : torch::stable::get_num_threads();
  parallel.run = [](void*, int64_t count, l1sparse::ParallelBody body, void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(context, i);
    });
  };
  return parallel;
}

// Working memory of one call.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    const size_t rounded = (static_cast<size_t>(bytes) / kAlignment + 1) * kAlignment;
    data_.reset(std::aligned_alloc(kAlignment, rounded));
    if (data_ == nullptr) fail("no memory for " + std::to_string(bytes) + " bytes of scratch");
  }
  void* data() const { return data_.get(); }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
};

// Not by torch::stable::empty, which takes a microsecond to find the operator by its name.
Tensor empty(const std::vector<int64_t>& size, ScalarType dtype,
             MemoryFormat format = MemoryFormat::Contiguous) {
  std::vector<int64_t> strides(size.size());
  int64_t stride = 1;
  const auto next = [&](size_t i) {
    strides[i] = stride;
    stride *= std::max<int64_t>(size[i], 1);
  };
  if (format == MemoryFormat::ChannelsLast) {
    for (const size_t i : {1, 3, 2, 0}) next(i);
  } else {
    for (size_t i = size.size(); i-- > 0;) next(i);
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(),
                                                  strides.data(), static_cast<int32_t>(dtype),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

void check_float(const char* name, const Tensor& tensor, int64_t rank) {
  check_tensor(name, tensor, is_float(tensor.scalar_type()), "float32, bfloat16 or float16", rank);
}

// As contiguous in a format, without a copy where it is that already.
Tensor as_contiguous(const Tensor& tensor, MemoryFormat format = MemoryFormat::Contiguous) {
  // What torch would find out too, but with the operator looked up by its name.
  if (format == MemoryFormat::Contiguous && tensor.is_contiguous()) return tensor;
  return torch::stable::contiguous(tensor, format);
}

// As contiguous float32, likewise.
Tensor as_float32(const Tensor& tensor) {
  const bool converts = tensor.scalar_type() != ScalarType::Float;
  return as_contiguous(converts ? torch::stable::to(tensor, ScalarType::Float) : tensor);
}

l1sparse::WeightShape weight_shape(const Tensor& weight, const std::vector<int64_t>& group) {
  check_float("weight", weight, 4);
  const auto [filters, channels] = pair("group", group);
  return {weight.size(0), weight.size(1), weight.size(2), weight.size(3), filters, channels};
}

// Remembers which buffers passed l1sparse::verify_packed. Memory safety does not rest on it:
// l1sparse::open_packed runs at every call. So a table that forgets, and a second buffer that is
// taken for one seen before because address, size and checksum agree, do no harm.
class VerifiedBuffers {
 public:
  bool contains(uint64_t key) const { return slot(key).load(std::memory_order_relaxed) == key; }
  void insert(uint64_t key) { slot(key).store(key, std::memory_order_relaxed); }

  static uint64_t key_of(const void* data, int64_t bytes, uint64_t checksum) {
    uint64_t key = reinterpret_cast<std::uintptr_t>(data) ^ (static_cast<uint64_t>(bytes) << 40);
    return ((key * 0x9e3779b97f4a7c15ULL) ^ checksum) | 1;  // never the empty slot's 0
  }

 private:
  static constexpr size_t kSlots = 4096;
  const std::atomic<uint64_t>& slot(uint64_t key) const { return slots_[(key >> 17) % kSlots]; }
  std::atomic<uint64_t>& slot(uint64_t key) { return slots_[(key >> 17) % kSlots]; }
  std::array<std::atomic<uint64_t>, kSlots> slots_{};
};

VerifiedBuffers verified;

l1sparse::PackedView open(const Tensor& packed) {
  check_tensor("packed", packed, packed.scalar_type() == ScalarType::Byte, "uint8", 1);
  if (!packed.is_contiguous()) fail("packed: is not contiguous, expected a result of pack()");
  const void* data = packed.const_data_ptr();
  l1sparse::PackedView view;
  check(l1sparse::open_packed(data, packed.numel(), &view));
  const uint64_t key = VerifiedBuffers::key_of(data, packed.numel(), view.checksum);
  if (!verified.contains(key)) {
    check(l1sparse::verify_packed(data, packed.numel(), view));
    verified.insert(key);
  }
  return view;
}

Tensor group_l1_norm(const Tensor& weight, std::vector<int64_t> group) {
  const l1sparse::WeightShape shape = weight_shape(weight, group);
  l1sparse::GroupGrid grid;
  check(l1sparse::check_shape(shape, &grid));
  const Tensor dense = as_float32(weight);
  Tensor norms = empty({grid.filter_groups, grid.channel_groups, shape.kernel_h, shape.kernel_w},
                       ScalarType::Float);
  check(l1sparse::group_l1_norm(shape, static_cast<const float*>(dense.const_data_ptr()),
                                static_cast<float*>(norms.mutable_data_ptr()),
                                l1sparse::selected_isa(), torch_threads()));
  return norms;
}

// One byte a group, from a bool mask of the group grid's or of the weight's shape.
std::vector<uint8_t> grid_mask_of(const Tensor& mask, const l1sparse::WeightShape& shape,
                                  const l1sparse::GroupGrid& grid) {
  check_tensor("mask", mask, mask.scalar_type() == ScalarType::Bool, "bool", 4);
  const auto has_shape = [&mask](std::array<int64_t, 4> wanted) {
    for (int64_t i = 0; i < 4; ++i) {
      if (mask.size(i) != wanted[static_cast<size_t>(i)]) return false;
    }
    return true;
  };
  const Tensor contiguous = torch::stable::contiguous(mask);
  const auto* bytes = static_cast<const uint8_t*>(contiguous.const_data_ptr());
  if (has_shape({grid.filter_groups, grid.channel_groups, shape.kernel_h, shape.kernel_w})) {
    return {bytes, bytes + grid.groups()};
  }
  if (!has_shape({shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w})) {
    fail("mask: has shape " + shape_text(mask) + ", expected the weight's [" +
         std::to_string(shape.out_channels) + ", " + std::to_string(shape.in_channels) + ", " +
         std::to_string(shape.kernel_h) + ", " + std::to_string(shape.kernel_w) +
         "] or the group grid's [" + std::to_string(grid.filter_groups) + ", " +
         std::to_string(grid.channel_groups) + ", " + std::to_string(shape.kernel_h) + ", " +
         std::to_string(shape.kernel_w) + "]");
  }
  std::vector<uint8_t> grid_mask(static_cast<size_t>(grid.groups()));
  check(l1sparse::mask_to_grid(shape, bytes, grid_mask.data()));
  return grid_mask;
}

// The strategy called `name`; "auto" picks one by the shape.
l1sparse::Strategy strategy_of(const std::string& name, const l1sparse::WeightShape& shape) {
  if (name == "auto") return l1sparse::choose_strategy(shape);
  std::string names = "'auto'";
  for (int i = 0; i < l1sparse::kStrategyCount; ++i) {
    const auto strategy = static_cast<l1sparse::Strategy>(i);
    if (name == l1sparse::strategy_name(strategy)) return strategy;
    names += std::string(", '") + l1sparse::strategy_name(strategy) + "'";
  }
  fail("strategy: got '" + name + "', expected one of " + names);
}

Tensor pack(const Tensor& weight, const Tensor& mask, std::vector<int64_t> group,
            std::string strategy) {
  const l1sparse::WeightShape shape = weight_shape(weight, group);
  l1sparse::GroupGrid grid;
  check(l1sparse::check_shape(shape, &grid));
  const std::vector<uint8_t> grid_mask = grid_mask_of(mask, shape, grid);
  const Tensor dense = as_float32(weight);
  const l1sparse::Strategy chosen = strategy_of(strategy, shape);
  int64_t bytes = 0;
  check(l1sparse::packed_bytes(shape, grid_mask.data(), chosen, &bytes));
  Tensor packed = empty({bytes}, ScalarType::Byte);
  check(l1sparse::pack(shape, static_cast<const float*>(dense.const_data_ptr()), grid_mask.data(),
                       chosen, packed.mutable_data_ptr(), bytes));
  return packed;
}

// A compiler of the caller's program has to know the shape before the bytes exist, so callers state
// it; here it is held against what the bytes say.
l1sparse::PackedView open_as(const Tensor& packed, const std::vector<int64_t>& weight_shape) {
  const l1sparse::PackedView view = open(packed);
  const l1sparse::WeightShape& shape = view.shape;
  const std::vector<int64_t> actual{shape.out_channels, shape.in_channels, shape.kernel_h,
                                    shape.kernel_w};
  if (weight_shape != actual) {
    std::string text = "weight_shape: got [";
    for (size_t i = 0; i < weight_shape.size(); ++i) {
      text += (i == 0 ? "" : ", ") + std::to_string(weight_shape[i]);
    }
    text += "], expected the packed weight's [";
    for (size_t i = 0; i < actual.size(); ++i) {
      text += (i == 0 ? "" : ", ") + std::to_string(actual[i]);
    }
    fail(text + "]");
  }
  return view;
}

std::vector<int64_t> packed_info(const Tensor& packed) {
  const l1sparse::PackedView view = open(packed);
  const l1sparse::WeightShape& shape = view.shape;
  return {shape.out_channels,
          shape.in_channels,
          shape.kernel_h,
          shape.kernel_w,
          shape.group_filters,
          shape.group_channels,
          view.kept_groups,
          l1sparse::kept_weights(view),
          static_cast<int64_t>(view.strategy)};
}

Tensor unpack(const Tensor& packed, std::vector<int64_t> weight_shape) {
  const l1sparse::PackedView view = open_as(packed, weight_shape);
  // Reading everything anyway, it can afford to check everything, each time.
  check(l1sparse::verify_packed(packed.const_data_ptr(), packed.numel(), view));
  const l1sparse::WeightShape& shape = view.shape;
  Tensor weight = empty({shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w},
                        ScalarType::Float);
  l1sparse::unpack(view, static_cast<float*>(weight.mutable_data_ptr()));
  return weight;
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

// What all functions of a convolution are told besides their tensors.
struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

l1sparse::DType dtype_of(const Tensor& tensor) {
  return static_cast<l1sparse::DType>(
      std::find(kFloatTypes.begin(), kFloatTypes.end(), tensor.scalar_type()) -
      kFloatTypes.begin());
}

// All of a problem but dtype, layout and activation, checked, for an input [batch, channels, h, w].
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

std::array<int64_t, 4> sizes_of(const Tensor& tensor) {
  return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
}

l1sparse::Strides4 strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

std::string sizes_text(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  }
  return text + "]";
}

void check_sizes(const char* name, const Tensor& tensor, const std::vector<int64_t>& wanted,
                 const char* whose) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (tensor.size(static_cast<int64_t>(i)) != wanted[i]) {
      fail(std::string(name) + ": has shape " + shape_text(tensor) + ", expected " + whose + " " +
           sizes_text(wanted));
    }
  }
}

std::vector<int64_t> output_sizes(const l1sparse::Conv2dProblem& problem) {
  return {problem.batch, problem.weight.shape.out_channels, problem.out_h, problem.out_w};
}

// Does the convolution; `problem` has its activation, and all that make_problem sets. Without
// `out`, which may be the residual, the output is a new tensor.
Tensor run_conv2d(l1sparse::Conv2dProblem& problem, const Tensor& input,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                  Tensor* out = nullptr) {
  const l1sparse::WeightShape& shape = problem.weight.shape;
  problem.dtype = dtype_of(input);
  problem.input_strides = strides_of(input);
  problem.channels_last = is_channels_last(input);

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
  const Scratch workspace(workspace_bytes);
  tensors.input = input.const_data_ptr();
  tensors.output = output.mutable_data_ptr();
  const char* ran = nullptr;
  check(l1sparse::conv2d(problem, tensors, isa, parallel, workspace.data(), &ran));
  if (ran != nullptr) last_conv2d_isa.store(ran, std::memory_order_relaxed);
  if (out != nullptr && output.const_data_ptr() != out->const_data_ptr()) {
    torch::stable::copy_(*out, output);
  }
  return output;
}

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

Tensor sparse_conv2d(const Tensor& input, const Tensor& packed, std::vector<int64_t> weight_shape,
                     std::optional<Tensor> bias, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups,
                     std::optional<Tensor> residual, std::string activation, double clamp_min,
                     double clamp_max, std::string backend) {
  if (backend != "auto") {
    fail("backend: got '" + backend + "', expected 'auto' for tensors on the CPU");
  }
  check_float("input", input, 4);
  l1sparse::Conv2dProblem problem = make_problem(
      open_as(packed, weight_shape), {stride, padding, dilation, groups}, sizes_of(input));
  set_activation(activation, clamp_min, clamp_max, problem);
  return run_conv2d(problem, input, bias, residual);
}

// Whether two tensors of one type and shape are the same elements.
bool same_elements(const Tensor& a, const Tensor& b) {
  bool same = a.const_data_ptr() == b.const_data_ptr();
  for (int64_t i = 0; i < a.dim(); ++i) same = same && a.stride(i) == b.stride(i);
  return same;
}

void sparse_conv2d_into(const Tensor& input, const Tensor& packed,
                        std::vector<int64_t> weight_shape, std::optional<Tensor> bias,
                        std::vector<int64_t> stride, std::vector<int64_t> padding,
                        std::vector<int64_t> dilation, int64_t groups,
                        std::optional<Tensor> residual, std::string activation, double clamp_min,
                        double clamp_max, Tensor out) {
  check_float("input", input, 4);
  l1sparse::Conv2dProblem problem = make_problem(
      open_as(packed, weight_shape), {stride, padding, dilation, groups}, sizes_of(input));
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

// ---- training: the weights of the kept groups in a tensor of their own --------------------------

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
                     std::string activation) {
  check_float("input", input, 4);
  if (activation != "none" && activation != "relu") {
    fail("activation: got '" + activation +
         "', expected 'none' or 'relu'; apply others to the output");
  }
  Tensor held = values;
  const l1sparse::PackedView view = with_values(open_as(pattern, weight_shape), values, held);
  l1sparse::Conv2dProblem problem =
      make_problem(view, {stride, padding, dilation, groups}, sizes_of(input));
  set_activation(activation, 0.0, 0.0, problem);
  return run_conv2d(problem, input, bias, residual);
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
  if (ran != nullptr) last_conv2d_isa.store(ran, std::memory_order_relaxed);
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
  if (ran != nullptr) last_conv2d_isa.store(ran, std::memory_order_relaxed);
  return result;
}

// For tests: the instruction set that the last sparse_conv2d's kernel says it was compiled for.
std::string last_isa() { return last_conv2d_isa.load(std::memory_order_relaxed); }

}  // namespace

STABLE_TORCH_LIBRARY(l1sparse, m) {
  m.def("group_l1_norm(Tensor weight, int[] group) -> Tensor");
  m.def("pack(Tensor weight, Tensor mask, int[] group, str strategy='auto') -> Tensor");
  m.def("packed_info(Tensor packed) -> int[]");
  m.def("unpack(Tensor packed, int[] weight_shape) -> Tensor");
  m.def(
      "sparse_conv2d(Tensor input, Tensor packed, int[] weight_shape, Tensor? bias=None, "
      "int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], int groups=1, Tensor? "
      "residual=None, "
      "str activation='none', float clamp_min=0.0, float clamp_max=6.0, str backend='auto') -> "
      "Tensor");
  // `out` is where the output goes; it may be the residual.
  m.def(
      "sparse_conv2d_into(Tensor input, Tensor packed, int[] weight_shape, Tensor? bias, int[] "
      "stride, int[] padding, int[] dilation, int groups, Tensor? residual, str activation, float "
      "clamp_min, float clamp_max, Tensor(a!) out) -> ()");
  m.def("gather_values(Tensor weight, Tensor pattern, int[] values_shape) -> Tensor");
  m.def("scatter_values(Tensor values, Tensor pattern, int[] weight_shape) -> Tensor");
  m.def(
      "values_conv2d(Tensor input, Tensor values, Tensor pattern, int[] weight_shape, Tensor? "
      "bias=None, int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], int groups=1, "
      "Tensor? residual=None, str activation='none') -> Tensor");
  m.def(
      "conv2d_input_grad(Tensor grad, Tensor? values, Tensor pattern, int[] weight_shape, SymInt "
      "in_h, SymInt in_w, bool channels_last, int[] stride, int[] padding, int[] dilation, int "
      "groups) -> Tensor");
  m.def(
      "conv2d_values_grad(Tensor grad, Tensor input, Tensor pattern, int[] weight_shape, int[] "
      "values_shape, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def("_last_conv2d_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(l1sparse, CPU, m) {
  m.impl("group_l1_norm", TORCH_BOX(&group_l1_norm));
  m.impl("pack", TORCH_BOX(&pack));
  m.impl("packed_info", TORCH_BOX(&packed_info));
  m.impl("unpack", TORCH_BOX(&unpack));
  m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d));
  m.impl("sparse_conv2d_into", TORCH_BOX(&sparse_conv2d_into));
  m.impl("gather_values", TORCH_BOX(&gather_values));
  m.impl("scatter_values", TORCH_BOX(&scatter_values));
  m.impl("values_conv2d", TORCH_BOX(&values_conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&conv2d_input_grad));
  m.impl("conv2d_values_grad", TORCH_BOX(&conv2d_values_grad));
}

STABLE_TORCH_LIBRARY_IMPL(l1sparse, CompositeExplicitAutograd, m) {
  m.impl("_last_conv2d_isa", TORCH_BOX(&last_isa));
}
