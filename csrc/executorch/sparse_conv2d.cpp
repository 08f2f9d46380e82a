// SPDX-License-Identifier: MIT
// The operator l1sparse::sparse_conv2d.out for ExecuTorch: a thin shell that takes tensors and
// scratch memory from ExecuTorch and calls the C interface. Loading the library registers it.
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>
#include <l1sparse.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

// The schema's arguments, in its order; l1sparse/convert/executorch.py defines it.
enum Place {
  kInput,
  kPacked,
  kWeightShape,
  kBias,
  kStride,
  kPadding,
  kDilation,
  kGroups,
  kResidual,
  kActivation,
  kClampMin,
  kClampMax,
  kBackend,
  kOut,
  kPlaces
};

// Whether the values are of the schema's types, which a damaged program does not guarantee.
bool have_types(Span<EValue*> values) {
  for (const Place place : {kInput, kPacked, kOut}) {
    if (!values[place]->isTensor()) return false;
  }
  for (const Place place : {kBias, kResidual}) {
    if (!values[place]->isTensor() && !values[place]->isNone()) return false;
  }
  for (const Place place : {kStride, kPadding, kDilation}) {
    if (!values[place]->tryToIntList().ok()) return false;
  }
  return values[kGroups]->isInt() && values[kActivation]->tryToString().ok() &&
         values[kClampMin]->isDouble() && values[kClampMax]->isDouble();
}

void fail(KernelRuntimeContext& context, Error error, const char* text) {
  ET_LOG(Error, "l1sparse::sparse_conv2d: %s", text);
  context.fail(error);
}

bool check(KernelRuntimeContext& context, l1sparse_status status) {
  if (status.code == L1SPARSE_OK) return true;
  char text[160];
  l1sparse_status_text(status, text, sizeof(text));
  fail(context, Error::InvalidArgument, text);
  return false;
}

// Remembers which buffers passed l1sparse_weight_open, whose checksum costs a pass over the weight.
// Memory safety does not rest on it: l1sparse_weight_reopen runs at every call.
bool is_verified(std::uint64_t key, bool insert) {
  static std::atomic<std::uint64_t> slots[1024];
  std::atomic<std::uint64_t>& slot = slots[(key >> 17) % 1024];
  if (insert) slot.store(key, std::memory_order_relaxed);
  return slot.load(std::memory_order_relaxed) == key;
}

l1sparse_status open_weight(const Tensor& packed, l1sparse_weight* weight) {
  const void* data = packed.const_data_ptr();
  const size_t bytes = packed.nbytes();
  std::uint64_t key = reinterpret_cast<std::uintptr_t>(data) ^ std::uint64_t{bytes} << 40;
  if (data != nullptr && bytes >= 64) {
    std::uint64_t checksum;  // the header's last field
    std::memcpy(&checksum, static_cast<const char*>(data) + 56, sizeof(checksum));
    key = ((key * 0x9e3779b97f4a7c15ULL) ^ checksum) | 1;  // never an empty slot's 0
    if (is_verified(key, false)) return l1sparse_weight_reopen(data, bytes, weight);
  }
  const l1sparse_status status = l1sparse_weight_open(data, bytes, weight);
  if (status.code == L1SPARSE_OK) is_verified(key, true);
  return status;
}

bool set_dtype(ScalarType type, l1sparse_conv2d_options* options) {
  switch (type) {
    case ScalarType::Float:
      options->dtype = L1SPARSE_FLOAT32;
      return true;
    case ScalarType::BFloat16:
      options->dtype = L1SPARSE_BFLOAT16;
      return true;
    case ScalarType::Half:
      options->dtype = L1SPARSE_FLOAT16;
      return true;
    default:
      return false;
  }
}

bool set_activation(std::string_view name, double low, double high,
                    l1sparse_conv2d_options* options) {
  options->low = static_cast<float>(name == "clamp" ? low : 0.0);
  options->high = static_cast<float>(name == "clamp" ? high : 6.0);
  if (name == "none") {
    options->activation = L1SPARSE_NONE;
  } else if (name == "relu") {
    options->activation = L1SPARSE_RELU;
  } else if (name == "relu6" || name == "clamp") {
    options->activation = L1SPARSE_CLAMP;
  } else if (name == "hardswish") {
    options->activation = L1SPARSE_HARDSWISH;
  } else {
    return false;
  }
  return true;
}

// Whether `tensor` has this shape, and lies as `format` says.
bool is_output_like(const Tensor& tensor, const std::int64_t (&shape)[4], std::int32_t format) {
  static constexpr int kOrders[2][4] = {{0, 1, 2, 3}, {0, 2, 3, 1}};
  if (tensor.dim() != 4) return false;
  for (int i = 0; i < 4; ++i) {
    if (tensor.size(i) != shape[i] || tensor.dim_order()[i] != kOrders[format][i]) return false;
  }
  return true;
}

// Whether no element lies past the memory of a tensor without gaps.
bool lies_inside(const Tensor& tensor) {
  std::int64_t last = 0;
  for (int i = 0; i < 4; ++i) {
    const std::int64_t size = tensor.size(i), stride = tensor.strides()[i];
    if (size < 1 || stride < 0) return false;
    last += (size - 1) * stride;  // each factor has 31 bits
  }
  return last < tensor.numel();
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto begin_a = reinterpret_cast<std::uintptr_t>(a.const_data_ptr());
  const auto begin_b = reinterpret_cast<std::uintptr_t>(b.const_data_ptr());
  return begin_a < begin_b + b.nbytes() && begin_b < begin_a + a.nbytes();
}

void run_on_threads(void*, std::int64_t count, void (*body)(void*, std::int64_t), void* context) {
  executorch::extension::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(context, i);
  });
}

void sparse_conv2d(KernelRuntimeContext& context, Span<EValue*> values) {
  if (values.size() < kPlaces || !have_types(values)) {
    return fail(context, Error::InvalidArgument, "the program was written for another version");
  }
  const Tensor& input = values[kInput]->toTensor();
  const Tensor& packed = values[kPacked]->toTensor();
  Tensor& out = values[kOut]->toTensor();
  const auto stride = values[kStride]->toIntList(), padding = values[kPadding]->toIntList();
  const auto dilation = values[kDilation]->toIntList();
  if (input.dim() != 4 || stride.size() != 2 || padding.size() != 2 || dilation.size() != 2) {
    return fail(context, Error::InvalidArgument,
                "input, stride, padding or dilation: another rank, expected 4, 2, 2 and 2");
  }
  if (!lies_inside(input)) {
    return fail(context, Error::InvalidArgument,
                "input: is empty, or its strides leave its memory");
  }
  l1sparse_weight weight;
  l1sparse_shape shape;
  if (!check(context, open_weight(packed, &weight))) return;
  if (!check(context, l1sparse_weight_shape(&weight, &shape))) return;

  l1sparse_conv2d_options options;
  l1sparse_conv2d_init(&options, input.size(0), input.size(1), input.size(2), input.size(3));
  for (int i = 0; i < 4; ++i) options.input_strides[i] = input.strides()[i];
  options.stride_h = stride[0];
  options.stride_w = stride[1];
  options.pad_top = options.pad_bottom = padding[0];
  options.pad_left = options.pad_right = padding[1];
  options.dilation_h = dilation[0];
  options.dilation_w = dilation[1];
  options.groups = values[kGroups]->toInt();
  options.format = out.dim() == 4 && out.dim_order()[1] == 2 ? L1SPARSE_NHWC : L1SPARSE_NCHW;
  if (!set_dtype(input.scalar_type(), &options) || out.scalar_type() != input.scalar_type()) {
    return fail(context, Error::InvalidArgument,
                "input: expected float32, bfloat16 or float16, and an output of the same type");
  }
  if (!set_activation(values[kActivation]->toString(), values[kClampMin]->toDouble(),
                      values[kClampMax]->toDouble(), &options)) {
    return fail(context, Error::InvalidArgument, "activation: unknown");
  }

  l1sparse_threads threads = {run_on_threads, nullptr, executorch::extension::get_thread_count()};
  l1sparse_conv2d_sizes sizes;
  if (!check(context, l1sparse_conv2d_query(&weight, &options, threads.count, &sizes))) return;
  const std::int64_t out_shape[4] = {options.batch, shape.out_channels, sizes.out_h, sizes.out_w};
  executorch::aten::SizesType out_sizes[4];
  for (int i = 0; i < 4; ++i) {
    out_sizes[i] = static_cast<executorch::aten::SizesType>(out_shape[i]);
  }
  if (executorch::runtime::resize_tensor(out, {out_sizes, 4}) != Error::Ok ||
      !is_output_like(out, out_shape, options.format)) {
    return fail(context, Error::InvalidArgument, "out: another shape or memory format");
  }
  if (overlap(out, input) || overlap(out, packed)) {
    return fail(context, Error::InvalidArgument, "out: lies where input or packed lies");
  }
  l1sparse_conv2d_tensors tensors = {input.const_data_ptr(), nullptr, nullptr,
                                     out.mutable_data_ptr()};
  if (!values[kBias]->isNone()) {
    const Tensor& bias = values[kBias]->toTensor();
    if (bias.scalar_type() != ScalarType::Float || bias.numel() != shape.out_channels ||
        bias.const_data_ptr() == nullptr) {
      return fail(context, Error::InvalidArgument,
                  "bias: expected float32, a value for each output channel");
    }
    tensors.bias = bias.const_data_ptr<float>();
  }
  if (!values[kResidual]->isNone()) {
    const Tensor& residual = values[kResidual]->toTensor();
    if (residual.scalar_type() != input.scalar_type() ||
        !is_output_like(residual, out_shape, options.format)) {
      return fail(context, Error::InvalidArgument,
                  "residual: expected the output's shape, type and memory format");
    }
    tensors.residual = residual.const_data_ptr();
  }
  void* workspace = nullptr;
  if (sizes.workspace_bytes > 0) {
    const auto memory = context.allocate_temp(sizes.workspace_bytes, L1SPARSE_ALIGNMENT);
    if (!memory.ok()) return fail(context, memory.error(), "no temporary memory");
    workspace = memory.get();
  }
  check(context,
        l1sparse_conv2d(&weight, &options, &tensors, &threads, workspace, sizes.workspace_bytes));
}

const executorch::runtime::Kernel kKernel("l1sparse::sparse_conv2d.out", &sparse_conv2d);
[[maybe_unused]] const Error kRegistered =
    executorch::runtime::register_kernels(Span<const executorch::runtime::Kernel>(&kKernel, 1));

}  // namespace
