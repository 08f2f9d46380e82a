// SPDX-License-Identifier: MIT
#include "kernels/conv2d/plan.h"

namespace l1sparse {

const Conv2dKernels& kernels_for(Isa isa) {
  static constexpr const Conv2dKernels* kTables[] = {
#define L1SPARSE_ISA(name, kernels) &conv2d_##kernels,
#include "base/isa.inc"
#undef L1SPARSE_ISA
  };
  return *kTables[static_cast<int>(isa)];
}

const PixelTiles* pair_tiles_for([[maybe_unused]] Isa isa) {
  L1SPARSE_PAIRS(if (isa == Isa::avx512_bf16) return &conv2d_pairs_avx512_bf16;)
  return nullptr;
}

const PixelTiles& one_filter_tiles_for(Isa isa) {
  L1SPARSE_PAIRS(if (isa == Isa::avx512_bf16) return kernels_for(isa).two_sums_tiles;)
  return kernels_for(isa).one_filter_tiles;
}

PanelAxis plan_axis(std::int64_t outputs, std::int64_t stride, std::int64_t kernel,
                    std::int64_t dilation, AxisRun* runs, std::int64_t* tap_start) {
  // In units of one phase: tap k of output t reads element t + k * dilation / stride.
  std::int64_t run_count = 0;
  for (std::int64_t k = 0; k < kernel; ++k) {
    const std::int64_t phase = k * dilation % stride, step = k * dilation / stride;
    AxisRun* run = nullptr;
    for (std::int64_t i = run_count - 1; i >= 0 && run == nullptr; --i) {
      const std::int64_t first = runs[i].source / stride;
      if (runs[i].source % stride == phase && step - first <= runs[i].count) run = runs + i;
    }
    if (run == nullptr) {
      run = runs + run_count++;
      *run = {0, 0, phase + step * stride, stride};
    }
    run->count = larger(run->count, step - run->source / stride + outputs);
  }
  std::int64_t extent = 0;
  for (std::int64_t i = 0; i < run_count; ++i) {
    runs[i].start = extent;
    extent += runs[i].count;
  }
  for (std::int64_t k = 0; k < kernel; ++k) {
    const std::int64_t phase = k * dilation % stride, step = k * dilation / stride;
    for (std::int64_t i = 0; i < run_count; ++i) {
      const std::int64_t at = step - runs[i].source / stride;
      if (runs[i].source % stride == phase && at >= 0 && at + outputs <= runs[i].count) {
        tap_start[k] = runs[i].start + at;
      }
    }
  }
  return {runs, run_count, extent};
}

std::int64_t axis_extent_bound(std::int64_t outputs, std::int64_t kernel, std::int64_t dilation,
                               std::int64_t stride) {
  const std::int64_t by_tap = checked_mul(outputs, kernel);
  const std::int64_t phases = smaller(stride, kernel);
  if (dilation == 1) return checked_add(checked_mul(outputs, phases), kernel - phases);
  const std::int64_t span = checked_mul(
      checked_add(checked_add(checked_mul(kernel - 1, dilation) / stride, 1), outputs), phases);
  return smaller(by_tap, span);
}

FinishJob last_step(const Conv2dProblem& problem, const Conv2dTensors& tensors,
                    std::int64_t filter) {
  FinishJob job{};
  job.bias = tensors.bias == nullptr ? nullptr : tensors.bias + filter;
  job.activation = problem.activation;
  job.low = problem.low;
  job.high = problem.high;
  return job;
}

FinishJob finish_job(const Conv2dProblem& problem, const Conv2dTensors& tensors, std::int64_t image,
                     std::int64_t filter, std::int64_t out_y, std::int64_t out_x) {
  const std::int64_t channels = problem.weight.shape.out_channels;
  const std::int64_t pixels = problem.out_h * problem.out_w;
  const Strides4 strides = problem.channels_last
                               ? Strides4{pixels * channels, 1, problem.out_w * channels, channels}
                               : Strides4{pixels * channels, pixels, problem.out_w, 1};
  const std::int64_t position =
      image * strides.n + filter * strides.c + out_y * strides.h + out_x * strides.w;
  FinishJob job = last_step(problem, tensors, filter);
  const std::int64_t bytes = position * size_of(problem.dtype);
  if (tensors.residual != nullptr)
    job.residual = static_cast<const char*>(tensors.residual) + bytes;
  job.output = static_cast<char*>(tensors.output) + bytes;
  job.filter_stride = strides.c;
  job.row_stride = strides.h;
  job.col_stride = strides.w;
  return job;
}

}  // namespace l1sparse
