// SPDX-License-Identifier: MIT
// Checks, and the way to the strategy that the weight was packed for.
#include "kernels/conv2d/conv2d.h"

#include <initializer_list>

#include "kernels/conv2d/plan.h"

namespace l1sparse {
namespace {

// Strides and the like stay below this, so that coordinates fit 64 bits.
constexpr std::int64_t kMaxParameter = 0x3fffffff;

Status check_range(Code code, std::int64_t least, std::int64_t a, std::int64_t b) {
  if (a < least || a > kMaxParameter) return {code, a, least};
  if (b < least || b > kMaxParameter) return {code, b, least};
  return {};
}

// A 1x1 convolution that moves by single pixels sees an image as one long row.
Conv2dProblem flattened(const Conv2dProblem& problem) {
  const WeightShape& shape = problem.weight.shape;
  Conv2dProblem flat = problem;
  if (problem.pool.kernel_h == 0 && shape.kernel_h * shape.kernel_w == 1 && problem.stride_h == 1 &&
      problem.stride_w == 1 && problem.out_h == problem.in_h && problem.out_w == problem.in_w &&
      problem.input_strides.h == problem.in_w * problem.input_strides.w) {
    flat.in_w = flat.out_w = problem.in_h * problem.in_w;
    flat.in_h = flat.out_h = 1;
  }
  return flat;
}

Status check_with_output(const Conv2dProblem& problem) {
  if (Status status = check_conv2d(problem); !status.ok()) return status;
  if (Status status = check_pool(problem); !status.ok()) return status;
  const MaxPool& pool = problem.pool;
  std::int64_t least = smaller(problem.out_h, problem.out_w);
  if (pool.kernel_h != 0) least = smaller(least, smaller(pool.out_h, pool.out_w));
  return least < 1 ? Status{Code::empty_output, least, 1} : Status{};
}

}  // namespace

Status check_conv2d(const Conv2dProblem& problem) {
  const WeightShape& shape = problem.weight.shape;
  for (const Status status : {
           check_range(Code::bad_stride, 1, problem.stride_h, problem.stride_w),
           check_range(Code::bad_padding, 0, problem.pad_top, problem.pad_left),
           check_range(Code::bad_dilation, 1, problem.dilation_h, problem.dilation_w),
           check_range(Code::bad_groups, 1, problem.groups, problem.groups),
       }) {
    if (!status.ok()) return status;
  }
  if (shape.out_channels % problem.groups != 0) {
    return {Code::groups_mismatch, problem.groups, shape.out_channels};
  }
  if (problem.in_channels != checked_mul(shape.in_channels, problem.groups)) {
    return {Code::channels_mismatch, problem.in_channels,
            checked_mul(shape.in_channels, problem.groups)};
  }
  return {};
}

Status check_pool(const Conv2dProblem& problem) {
  const MaxPool& pool = problem.pool;
  if (pool.kernel_h == 0) return {};
  for (const Status status : {
           check_range(Code::bad_pool_kernel, 1, pool.kernel_h, pool.kernel_w),
           check_range(Code::bad_pool_stride, 1, pool.stride_h, pool.stride_w),
       }) {
    if (!status.ok()) return status;
  }
  // Torch's bound. A window then reaches at least one output.
  const auto bad = [](std::int64_t pad, std::int64_t kernel) {
    return pad < 0 || pad > kernel / 2;
  };
  if (bad(pool.pad_top, pool.kernel_h)) {
    return {Code::bad_pool_padding, pool.pad_top, pool.kernel_h / 2};
  }
  if (bad(pool.pad_left, pool.kernel_w)) {
    return {Code::bad_pool_padding, pool.pad_left, pool.kernel_w / 2};
  }
  if (problem.weight.strategy == Strategy::channels) {
    return {Code::pool_strategy, static_cast<int>(problem.weight.strategy),
            static_cast<int>(Strategy::pixels)};
  }
  return {};
}

std::int64_t conv_output_size(std::int64_t input, std::int64_t padding_total, std::int64_t kernel,
                              std::int64_t stride, std::int64_t dilation) {
  const std::int64_t span = checked_add(checked_mul(dilation, kernel - 1), 1);
  const std::int64_t room = checked_add(input, padding_total) - span;
  return room < 0 ? 0 : room / stride + 1;
}

Status conv2d_workspace(const Conv2dProblem& problem, Isa isa, std::int64_t threads,
                        std::int64_t* bytes) {
  if (Status status = check_with_output(problem); !status.ok()) return status;
  const Conv2dProblem flat = flattened(problem);
  switch (problem.weight.strategy) {
#define L1SPARSE_STRATEGY(name) \
  case Strategy::name:          \
    return name##_workspace(flat, isa, threads, bytes);
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY
  }
  return {Code::packed_strategy, static_cast<int>(problem.weight.strategy), kStrategyCount - 1};
}

Status conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors, Isa isa,
              const Parallel& parallel, void* workspace, const char** ran) {
  if (Status status = check_with_output(problem); !status.ok()) return status;
  const Conv2dProblem flat = flattened(problem);
  switch (problem.weight.strategy) {
#define L1SPARSE_STRATEGY(name) \
  case Strategy::name:          \
    return name##_conv2d(flat, tensors, isa, parallel, workspace, ran);
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY
  }
  return {Code::packed_strategy, static_cast<int>(problem.weight.strategy), kStrategyCount - 1};
}

}  // namespace l1sparse
