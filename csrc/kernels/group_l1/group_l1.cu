// SPDX-License-Identifier: MIT
// Every weight is read once, 16 bytes a thread where it is aligned, neighbours by neighbours.
//
// Norms of neighbouring taps and channel groups come from one stretch of memory for each filter. A
// thread block copies its stretch into shared memory as float32, and then a thread sums up what
// belongs to its norm, filter by filter; several threads share a norm by taking turns with its
// channels, and their sums are added in order. Threads are dealt out so that a warp's reads fall
// into different banks: the weights of one group to a warp, where a group has several taps or
// there are few groups; else a group to a thread.
#include "base/gpu_vector.cuh"
#include "kernels/group_l1/gpu.h"

namespace l1sparse {
namespace {

constexpr int kThreads = 256;
constexpr int kStretch = 2048;  // weights in shared memory

struct Job {
  GpuGroupL1 problem;
  std::int64_t channel_groups;
  int tiles;  // thread blocks of a row of groups
  int taps;
  int tile_groups;     // channel groups of a thread block
  int chunk_channels;  // of these groups' channels, how many fit into a stretch
  int sharers;         // threads of a norm
  int group_threads;   // that a group has for itself; 1 where neighbouring threads have
                       // neighbouring groups, and a norm's sharers are far apart
  int group_parts;     // in shared memory, from the sums of one group to those of the next
};

// One float more after every 32, so that strides that are powers of two spread over the banks.
__device__ inline int spread(int i) { return i + i / 32; }

template <class T>
__device__ void read_stretch(const T* from, int count, float* to) {
  constexpr int kVector = 16 / sizeof(T);
  const int thread = static_cast<int>(threadIdx.x);
  const bool aligned = reinterpret_cast<std::uintptr_t>(from) % 16 == 0;
  const int vectors = aligned ? count / kVector : 0;
#pragma unroll 2
  for (int i = thread; i < vectors; i += kThreads) {
    float x[kVector];
    Vector<T, kVector>::load(from + i * kVector).to_floats(x);
#pragma unroll
    for (int v = 0; v < kVector; ++v) to[spread(i * kVector + v)] = fabsf(x[v]);
  }
  for (int i = vectors * kVector + thread; i < count; i += kThreads) {
    to[spread(i)] = fabsf(to_float(__ldg(from + i)));
  }
}

// gpu-code: group_l1<*> threads 256 dynamic 0 loads 16x3 warps 75:32 80:40 86:40 90:48 100:48 120:48
template <class T>
__global__ void __launch_bounds__(kThreads) group_l1(const __grid_constant__ Job job) {
  __shared__ float stretch[kStretch + kStretch / 32];
  __shared__ float parts[2 * kThreads];
  const GpuGroupL1& problem = job.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x) / job.tiles;
  const std::int64_t first_group =
      static_cast<std::int64_t>(static_cast<int>(blockIdx.x) - row * job.tiles) * job.tile_groups;
  const int groups = static_cast<int>(
      min(static_cast<std::int64_t>(job.tile_groups), job.channel_groups - first_group));
  const std::int64_t first_channel = first_group * problem.group_channels;
  const std::int64_t channels =
      min(groups * problem.group_channels, problem.in_channels - first_channel);
  const std::int64_t first_filter = row * problem.group_filters;
  const std::int64_t filters = min(problem.group_filters, problem.out_channels - first_filter);

  int group, sharer, tap;
  if (job.group_threads == 1) {
    sharer = thread / job.tile_groups, group = thread - sharer * job.tile_groups, tap = 0;
  } else {
    group = thread / job.group_threads;
    const int within = thread - group * job.group_threads;
    sharer = within / job.taps, tap = within - sharer * job.taps;
  }
  const bool works = group < groups && sharer < job.sharers;
  // Of the norm's own group, in the tile; a tile of several groups is one chunk.
  const std::int64_t group_begin = group * problem.group_channels;
  const std::int64_t group_end = min(group_begin + problem.group_channels, channels);

  float sum = 0.0f;
  const T* const weight = static_cast<const T*>(problem.weight);
  for (std::int64_t filter = first_filter; filter < first_filter + filters; ++filter) {
    for (std::int64_t chunk = 0; chunk < channels; chunk += job.chunk_channels) {
      const int count =
          static_cast<int>(min(static_cast<std::int64_t>(job.chunk_channels), channels - chunk));
      const std::int64_t from = (filter * problem.in_channels + first_channel + chunk) * job.taps;
      __syncthreads();
      read_stretch(weight + from, count * job.taps, stretch);
      __syncthreads();
      if (!works) continue;
      const int begin = static_cast<int>(max(group_begin - chunk, static_cast<std::int64_t>(0)));
      const int end = static_cast<int>(min(group_end - chunk, static_cast<std::int64_t>(count)));
      for (int c = begin + sharer; c < end; c += job.sharers) {
        sum += stretch[spread(c * job.taps + tap)];
      }
    }
  }
  const int next_sharer = job.group_threads == 1 ? job.tile_groups : job.taps;
  if (works) parts[group * job.group_parts + sharer * next_sharer + tap] = sum;
  __syncthreads();
  for (int norm = thread; norm < groups * job.taps; norm += kThreads) {
    const int of = norm / job.taps;
    const float* const part = parts + of * job.group_parts + (norm - of * job.taps);
    float total = part[0];
    for (int i = 1; i < job.sharers; ++i) total += part[i * next_sharer];
    const std::int64_t of_channels =
        min(problem.group_channels, channels - of * problem.group_channels);
    problem.norms[(row * job.channel_groups + first_group) * job.taps + norm] =
        total / static_cast<float>(filters * of_channels);
  }
}

// For kernels of so many taps that neighbouring threads read neighbouring weights anyway.
// gpu-code: group_l1_of_large_kernel<*> threads 256 dynamic 0 loads 16x0 warps 75:32 80:48 86:48 90:48 100:40 120:32
template <class T>
__global__ void __launch_bounds__(kThreads)
    group_l1_of_large_kernel(const __grid_constant__ Job job) {
  const GpuGroupL1& problem = job.problem;
  const std::int64_t norms = (problem.out_channels + problem.group_filters - 1) /
                             problem.group_filters * job.channel_groups * problem.taps;
  const std::int64_t norm =
      static_cast<std::int64_t>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (norm >= norms) return;
  const std::int64_t group = norm / problem.taps, tap = norm - group * problem.taps;
  const std::int64_t row = group / job.channel_groups;
  const std::int64_t first_channel = (group - row * job.channel_groups) * problem.group_channels;
  const std::int64_t end_channel = min(first_channel + problem.group_channels, problem.in_channels);
  const std::int64_t first_filter = row * problem.group_filters;
  const std::int64_t end_filter = min(first_filter + problem.group_filters, problem.out_channels);
  const T* const weight = static_cast<const T*>(problem.weight);
  float sum = 0.0f;
  for (std::int64_t filter = first_filter; filter < end_filter; ++filter) {
    for (std::int64_t channel = first_channel; channel < end_channel; ++channel) {
      sum += fabsf(
          to_float(__ldg(weight + (filter * problem.in_channels + channel) * problem.taps + tap)));
    }
  }
  problem.norms[norm] =
      sum / static_cast<float>((end_filter - first_filter) * (end_channel - first_channel));
}

// ---- launching ------------------------------------------------------------------------------

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <class T>
cudaError_t launch(const GpuGroupL1& problem, cudaStream_t stream) {
  Job job{};
  job.problem = problem;
  job.channel_groups = divide_up(problem.in_channels, problem.group_channels);
  const std::int64_t rows = divide_up(problem.out_channels, problem.group_filters);
  if (problem.taps > kThreads) {
    const std::int64_t grid = divide_up(rows * job.channel_groups * problem.taps, kThreads);
    if (grid > INT32_MAX) return cudaErrorInvalidValue;
    group_l1_of_large_kernel<T><<<static_cast<unsigned>(grid), kThreads, 0, stream>>>(job);
    return cudaGetLastError();
  }
  job.taps = static_cast<int>(problem.taps);
  const std::int64_t fitting = kStretch / problem.taps / problem.group_channels;
  const std::int64_t most = min(max(fitting, static_cast<std::int64_t>(1)), job.channel_groups);
  job.group_threads = job.taps == 1 && most >= 32 ? 1 : (job.taps + 31) / 32 * 32;
  std::int64_t tile = min(most, static_cast<std::int64_t>(kThreads / job.group_threads));
  if (tile > 8) tile -= tile % 8;  // stretches that begin at multiples of 16 bytes
  job.tile_groups = static_cast<int>(tile);
  const std::int64_t sharers =
      job.group_threads == 1 ? kThreads / tile : kThreads / tile / 32 * 32 / job.taps;
  if (job.group_threads != 1) job.group_threads = static_cast<int>(kThreads / tile / 32 * 32);
  job.sharers = static_cast<int>(min(sharers, problem.group_channels));
  // Parts of a norm's neighbours lie in neighbouring banks, across groups too.
  const int used = job.sharers * job.taps;
  job.group_parts = job.group_threads == 1 ? 1 : used + (job.taps + 32 * 8 - used) % 32;
  if (fitting > 0) {
    job.chunk_channels = static_cast<int>(tile * problem.group_channels);
  } else {
    job.chunk_channels = kStretch / job.taps;
    if (job.chunk_channels > 8) job.chunk_channels -= job.chunk_channels % 8;
  }
  const std::int64_t tiles = divide_up(job.channel_groups, job.tile_groups);
  const std::int64_t grid = tiles * rows;
  if (grid > INT32_MAX) return cudaErrorInvalidValue;
  job.tiles = static_cast<int>(tiles);
  group_l1<T><<<static_cast<unsigned>(grid), kThreads, 0, stream>>>(job);
  return cudaGetLastError();
}

}  // namespace

int launch_group_l1(const GpuGroupL1& problem, void* stream) {
  if (problem.out_channels < 1 || problem.in_channels < 1 || problem.taps < 1 ||
      problem.group_filters < 1 || problem.group_channels < 1) {
    return cudaErrorInvalidValue;
  }
  auto* const on = static_cast<cudaStream_t>(stream);
  switch (problem.dtype) {
    case DType::float16:
      return launch<__half>(problem, on);
    case DType::bfloat16:
      return launch<__nv_bfloat16>(problem, on);
    default:
      return launch<float>(problem, on);
  }
}

}  // namespace l1sparse
