// SPDX-License-Identifier: MIT
#include "bindings/tensors.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>

namespace l1sparse::bindings {
namespace {

// Types of activations and weights, first of all float32.
constexpr std::array<ScalarType, l1sparse::kDTypeCount> kFloatTypes{
    ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};

// Whether this process was forked since the operators were loaded. OpenMP's threads stay behind in
// the parent, and GNU's OpenMP waits for them for ever, in torch's own operators as well.
std::atomic<bool> forked{false};
[[maybe_unused]] const int watches_forks =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

}  // namespace

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

void check(l1sparse::Status status) {
  if (status.ok()) return;
  char text[256];
  l1sparse::describe(status, text, sizeof(text));
  fail(text);
}

std::string take_string(StringHandle argument) {
  const std::unique_ptr<StringOpaque, decltype(&torch_delete_string)> owner(argument,
                                                                            &torch_delete_string);
  const char* text = nullptr;
  size_t length = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(argument, &text));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(argument, &length));
  return {text, length};
}

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
  }
  return text + "]";
}

std::string sizes_text(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  }
  return text + "]";
}

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

l1sparse::DType dtype_of(const Tensor& tensor) {
  return static_cast<l1sparse::DType>(
      std::find(kFloatTypes.begin(), kFloatTypes.end(), tensor.scalar_type()) -
      kFloatTypes.begin());
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

void check_float(const char* name, const Tensor& tensor, int64_t rank) {
  check_tensor(name, tensor, is_float(tensor.scalar_type()), "float32, bfloat16 or float16", rank);
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

std::array<int64_t, 2> pair(const char* name, const std::vector<int64_t>& values) {
  if (values.size() != 2) {
    fail(std::string(name) + ": has " + std::to_string(values.size()) + " numbers, expected 2");
  }
  return {values[0], values[1]};
}

std::array<int64_t, 4> sizes_of(const Tensor& tensor) {
  return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
}

l1sparse::Strides4 strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

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

Tensor empty(const std::vector<int64_t>& size, ScalarType dtype, MemoryFormat format) {
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

Tensor as_contiguous(const Tensor& tensor, MemoryFormat format) {
  // What torch would find out too, but with the operator looked up by its name.
  if (format == MemoryFormat::Contiguous && tensor.is_contiguous()) return tensor;
  return torch::stable::contiguous(tensor, format);
}

Tensor as_float32(const Tensor& tensor) {
  const bool converts = tensor.scalar_type() != ScalarType::Float;
  return as_contiguous(converts ? torch::stable::to(tensor, ScalarType::Float) : tensor);
}

}  // namespace l1sparse::bindings
