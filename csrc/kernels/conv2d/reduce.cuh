// SPDX-License-Identifier: MIT
// The second kernel of a convolution whose columns are split: adds the splits' sums, always in the
// same order, and finishes them.
#pragma once

#include "kernels/conv2d/epilogue.cuh"

namespace l1sparse {
namespace {

constexpr int kReduceThreads = 256;

// A thread has four filters of one pixel; neighbouring threads have neighbouring filters.
// gpu-code: reduce_splits<*> threads 256 dynamic 0 loads 16x30 warps 75:32 80:48 86:48 90:48 100:48 120:40
template <class T, int kBlockFilters>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_splits(const __grid_constant__ GpuConv2d conv) {
  constexpr int kQuads = kBlockFilters / 4;
  const std::int64_t pixels = static_cast<std::int64_t>(conv.batch) * conv.out_h * conv.out_w;
  const std::int64_t quads_of_split = pixels * conv.blocks * kQuads;
  const std::int64_t quad =
      static_cast<std::int64_t>(blockIdx.x) * kReduceThreads + static_cast<int>(threadIdx.x);
  if (quad >= quads_of_split) return;
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int split = 0; split < conv.splits; ++split) {
    float more[4];
    Vector<float, 4>::load(conv.partial + (split * quads_of_split + quad) * 4).to_floats(more);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += more[i];
  }
  const std::int64_t row = quad / kQuads;  // pixel * blocks + block
  const std::int64_t pixel = row / conv.blocks;
  const int block = static_cast<int>(row - pixel * conv.blocks);
  const BlockFilters filters = filters_of_block<kBlockFilters>(conv, block);
  const int first = static_cast<int>(quad - row * kQuads) * 4;
  finish_quad<T>(conv, quad_of(conv, filters, first), pixel, sums);
}

template <class T, int kBlockFilters>
cudaError_t launch_reduce(const GpuConv2d& conv, cudaStream_t stream) {
  const std::int64_t quads = static_cast<std::int64_t>(conv.batch) * conv.out_h * conv.out_w *
                             conv.blocks * (kBlockFilters / 4);
  const std::int64_t grid = (quads + kReduceThreads - 1) / kReduceThreads;
  if (grid > INT32_MAX) return cudaErrorInvalidValue;
  reduce_splits<T, kBlockFilters><<<static_cast<unsigned>(grid), kReduceThreads, 0, stream>>>(conv);
  return cudaGetLastError();
}

}  // namespace
}  // namespace l1sparse
