// SPDX-License-Identifier: MIT
#include "kernels/conv2d/conv2d.h"

#include <initializer_list>

#include "base/checked.h"
#include "base/isa.h"
#include "capi/arguments.h"

using namespace l1sparse;
using capi::Argument;
using capi::null_argument;

namespace l1sparse::capi {
namespace {

// As in the core: coordinates made of such sizes fit 64 bits.
constexpr std::int64_t kMaxExtent = 0x3fffffff;

static_assert(static_cast<int>(DType::float32) == L1SPARSE_FLOAT32);
static_assert(static_cast<int>(DType::bfloat16) == L1SPARSE_BFLOAT16);
static_assert(static_cast<int>(DType::float16) == L1SPARSE_FLOAT16);
static_assert(static_cast<int>(Activation::none) == L1SPARSE_NONE);
static_assert(static_cast<int>(Activation::relu) == L1SPARSE_RELU);
static_assert(static_cast<int>(Activation::clamp) == L1SPARSE_CLAMP);
static_assert(static_cast<int>(Activation::hardswish) == L1SPARSE_HARDSWISH);
static_assert(kPackedAlignment == L1SPARSE_ALIGNMENT);

struct Range {
  Argument argument;
  std::int64_t value, least, most;
};

l1sparse_status check_ranges(const l1sparse_conv2d_options& options) {
  const Range ranges[] = {
      {Argument::batch, options.batch, 0, kMaxExtent},
      {Argument::in_channels, options.in_channels, 1, kMaxExtent},
      {Argument::in_h, options.in_h, 1, kMaxExtent},
      {Argument::in_w, options.in_w, 1, kMaxExtent},
      {Argument::dtype, options.dtype, 0, kDTypeCount - 1},
      {Argument::format, options.format, L1SPARSE_NCHW, L1SPARSE_NHWC},
      {Argument::activation, options.activation, L1SPARSE_NONE, L1SPARSE_HARDSWISH},
  };
  for (const Range& range : ranges) {
    if (range.value < range.least) return out_of_range(range.argument, range.value, range.least);
    if (range.value > range.most) return out_of_range(range.argument, range.value, range.most);
  }
  return kOk;
}

Strides4 strides_of(const l1sparse_conv2d_options& options) {
  const std::int64_t* strides = options.input_strides;
  if ((strides[0] | strides[1] | strides[2] | strides[3]) != 0) {
    return {strides[0], strides[1], strides[2], strides[3]};
  }
  const std::int64_t channels = options.in_channels, pixels = options.in_h * options.in_w;
  if (options.format == L1SPARSE_NHWC) {
    return {pixels * channels, 1, options.in_w * channels, channels};
  }
  return {pixels * channels, pixels, options.in_w, 1};
}

std::int64_t tensor_bytes(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w,
                          DType dtype) {
  return checked_mul(checked_mul(checked_mul(n, c), checked_mul(h, w)), size_of(dtype));
}

// Elements lie whole in memory: what a file says of its tensors' places may be anything.
l1sparse_status check_alignment(const l1sparse_conv2d_tensors& tensors, DType dtype) {
  const struct {
    Argument argument;
    const void* address;
    std::int64_t alignment;
  } addresses[] = {
      {Argument::input, tensors.input, size_of(dtype)},
      {Argument::bias, tensors.bias, alignof(float)},
      {Argument::residual, tensors.residual, size_of(dtype)},
      {Argument::output, tensors.output, size_of(dtype)},
  };
  for (const auto& [argument, address, alignment] : addresses) {
    const std::int64_t past =
        static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(address)) & (alignment - 1);
    if (past != 0) {
      return {L1SPARSE_UNALIGNED, static_cast<std::int32_t>(argument), past, alignment};
    }
  }
  return kOk;
}

// The core's problem, checked, and the size of its output.
l1sparse_status problem_of(const l1sparse_weight* weight, const l1sparse_conv2d_options* options,
                           Conv2dProblem* problem, std::int64_t* output_bytes) {
  if (weight == nullptr) return null_argument(Argument::weight);
  if (options == nullptr) return null_argument(Argument::options);
  const PackedView* view = view_of(weight);
  if (view == nullptr) return weight_not_open();
  if (options->struct_size != sizeof(*options)) {
    return {L1SPARSE_STRUCT_SIZE, static_cast<std::int32_t>(Argument::options),
            static_cast<std::int64_t>(options->struct_size), sizeof(*options)};
  }
  if (!isa_usable(selected_isa())) return {L1SPARSE_NO_ISA, 0, 0, 0};
  if (l1sparse_status status = check_ranges(*options); status.code != L1SPARSE_OK) return status;
  const bool clamps = options->activation == L1SPARSE_CLAMP;
  if (clamps && !(options->low <= options->high)) return {L1SPARSE_BAD_CLAMP, 0, 0, 0};
  for (const std::int64_t padding : {options->pad_bottom, options->pad_right}) {
    if (padding < 0 || padding > kMaxExtent) return {L1SPARSE_BAD_PADDING, 0, padding, 0};
  }

  *problem = {};
  problem->weight = *view;
  problem->batch = options->batch;
  problem->in_channels = options->in_channels;
  problem->in_h = options->in_h;
  problem->in_w = options->in_w;
  problem->stride_h = options->stride_h;
  problem->stride_w = options->stride_w;
  problem->pad_top = options->pad_top;
  problem->pad_left = options->pad_left;
  problem->dilation_h = options->dilation_h;
  problem->dilation_w = options->dilation_w;
  problem->groups = options->groups;
  problem->dtype = static_cast<DType>(options->dtype);
  problem->activation = static_cast<Activation>(options->activation);
  problem->low = options->low;
  problem->high = options->high;
  if (Status status = check_conv2d(*problem); !status.ok()) return status_of(status);
  const std::int64_t input_bytes = tensor_bytes(options->batch, options->in_channels, options->in_h,
                                                options->in_w, problem->dtype);
  if (!fits_memory(input_bytes)) return status_of({Code::too_large, kTooLarge, 0});
  problem->input_strides = strides_of(*options);
  problem->channels_last = options->format == L1SPARSE_NHWC;
  problem->out_h = conv_output_size(options->in_h, options->pad_top + options->pad_bottom,
                                    view->shape.kernel_h, options->stride_h, options->dilation_h);
  problem->out_w = conv_output_size(options->in_w, options->pad_left + options->pad_right,
                                    view->shape.kernel_w, options->stride_w, options->dilation_w);
  *output_bytes = tensor_bytes(options->batch, view->shape.out_channels, problem->out_h,
                               problem->out_w, problem->dtype);
  if (!fits_memory(*output_bytes)) return status_of({Code::too_large, kTooLarge, 0});
  return kOk;
}

}  // namespace
}  // namespace l1sparse::capi

void l1sparse_conv2d_init(l1sparse_conv2d_options* options, int64_t batch, int64_t in_channels,
                          int64_t in_h, int64_t in_w) {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof(*options);
  options->batch = batch;
  options->in_channels = in_channels;
  options->in_h = in_h;
  options->in_w = in_w;
  options->stride_h = options->stride_w = 1;
  options->dilation_h = options->dilation_w = 1;
  options->groups = 1;
  options->high = 6.0f;
}

l1sparse_status l1sparse_conv2d_query(const l1sparse_weight* weight,
                                      const l1sparse_conv2d_options* options, int64_t threads,
                                      l1sparse_conv2d_sizes* sizes) {
  if (sizes == nullptr) return null_argument(Argument::sizes);
  *sizes = {};
  if (l1sparse_status status = capi::check_threads(threads); status.code != 0) return status;
  Conv2dProblem problem;
  std::int64_t output_bytes = 0, workspace_bytes = 0;
  if (l1sparse_status status = capi::problem_of(weight, options, &problem, &output_bytes);
      status.code != L1SPARSE_OK) {
    return status;
  }
  if (Status status = conv2d_workspace(problem, selected_isa(), threads, &workspace_bytes);
      !status.ok()) {
    return capi::status_of(status);
  }
  if (!capi::fits_memory(workspace_bytes)) {
    return capi::status_of({Code::too_large, kTooLarge, 0});
  }
  *sizes = {problem.out_h, problem.out_w, static_cast<size_t>(output_bytes),
            static_cast<size_t>(workspace_bytes)};
  return capi::kOk;
}

l1sparse_status l1sparse_conv2d(const l1sparse_weight* weight,
                                const l1sparse_conv2d_options* options,
                                const l1sparse_conv2d_tensors* tensors,
                                const l1sparse_threads* threads, void* workspace,
                                size_t workspace_bytes) {
  if (tensors == nullptr) return null_argument(Argument::tensors);
  Conv2dProblem problem;
  std::int64_t output_bytes = 0, needed = 0;
  if (l1sparse_status status = capi::problem_of(weight, options, &problem, &output_bytes);
      status.code != L1SPARSE_OK) {
    return status;
  }
  Parallel parallel;
  if (l1sparse_status status = capi::parallel_of(threads, &parallel); status.code != L1SPARSE_OK) {
    return status;
  }
  const Isa isa = selected_isa();
  if (Status status = conv2d_workspace(problem, isa, parallel.threads, &needed); !status.ok()) {
    return capi::status_of(status);
  }
  if (problem.batch == 0) return capi::kOk;
  if (tensors->input == nullptr) return null_argument(Argument::input);
  if (tensors->output == nullptr) return null_argument(Argument::output);
  if (l1sparse_status status = capi::check_alignment(*tensors, problem.dtype);
      status.code != L1SPARSE_OK) {
    return status;
  }
  if (static_cast<std::uint64_t>(workspace_bytes) < static_cast<std::uint64_t>(needed)) {
    return {L1SPARSE_WORKSPACE_TOO_SMALL, static_cast<std::int32_t>(Argument::workspace),
            static_cast<std::int64_t>(workspace_bytes), needed};
  }
  if (needed > 0 && workspace == nullptr) return null_argument(Argument::workspace);
  const auto past = reinterpret_cast<std::uintptr_t>(workspace) % L1SPARSE_ALIGNMENT;
  if (past != 0) {
    return {L1SPARSE_UNALIGNED, static_cast<std::int32_t>(Argument::workspace),
            static_cast<std::int64_t>(past), L1SPARSE_ALIGNMENT};
  }
  const Conv2dTensors core{tensors->input, tensors->bias, tensors->residual, tensors->output};
  return capi::status_of(conv2d(problem, core, isa, parallel, workspace, nullptr));
}
