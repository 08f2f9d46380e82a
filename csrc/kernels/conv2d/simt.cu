// SPDX-License-Identifier: MIT
// Group-sparse convolution with ordinary arithmetic: any group shape, channels and activation type.
//
// A thread block has 64 filters and 128 output pixels, and walks the columns of its filters in
// steps of 16 channels. A step's activations are put into shared memory once, as float32, for all
// filters, and so are its tiles; while it is computed on, the next one is on its way in registers.
// A warp has 16 of the filters and all pixels, four a lane: a column's activations are read once
// and then used for every filter of the warp that kept the column, by its bit in the mask; the
// branches are the same for all lanes, and which sums they add to is known when it is compiled.
//
// Activations of a step are [16 channels][128 pixels]. kVector channels of a pixel are loaded at
// once, so neighbouring lanes write rows kVector apart, which lie in the same bank; the pixels of
// a row are therefore exchanged (by an exclusive or) in runs that keep four pixels together.
#include "kernels/conv2d/pixels.cuh"
#include "kernels/conv2d/reduce.cuh"

namespace l1sparse {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kFilters = 64;
constexpr int kWarpFilters = kFilters / kWarps;
constexpr int kPixels = 128;
constexpr int kLanePixels = kPixels / 32;
constexpr int kStepChannels = 16;

struct SimtArguments {
  GpuConv2d conv;
  const int* filter_masks;
  const int* block_order;
};

struct Step {
  float activations[kStepChannels][kPixels];
  float tiles[kFilters * kStepChannels];
  int masks[kStepChannels][kFilters / 32];  // of as many columns as there are
};

// Loads kVector channels of a pixel at once; 1 where alignment allows no more.
template <class T, int kChunk, int kVector>
struct Loads {
  static constexpr int kColumns = kStepChannels / kChunk;   // of a step
  static constexpr int kParts = kStepChannels / kVector;    // of a pixel
  static constexpr int kLanes = kVector == 1 ? 1 : kParts;  // side by side, for one pixel
  static constexpr int kExchange = kVector == 1 ? 0 : 32 / kParts;
  static constexpr int kTileWords = kChunk < 4 ? 1 : 4;  // loaded at once
  static constexpr int kTileLoads = kFilters * kStepChannels / kTileWords / kThreads;

  Vector<T, kVector> activations[kParts];
  Vector<float, kTileWords> tiles[kTileLoads];
  int mask;

  // Row of the i-th load's first channel, and its pixel of the thread block.
  __device__ static int part(int i) {
    return kVector == 1 ? i : static_cast<int>(threadIdx.x) % kLanes;
  }
  __device__ static int pixel(int i) {
    return kVector == 1 ? static_cast<int>(threadIdx.x)
                        : static_cast<int>(threadIdx.x) / kLanes + i * (kThreads / kLanes);
  }
};

// gpu-code: simt_conv2d<float, [48], 4> threads 128 dynamic 0 loads 16x20 warps 75:8 80:12 86:12 90:12 100:12 120:12
// gpu-code: simt_conv2d<*, 8, 8> threads 128 dynamic 0 loads 16x12 warps 75:8 80:12 86:12 90:12 100:12 120:12
// gpu-code: simt_conv2d<__*, 4, 4> threads 128 dynamic 0 loads 8x12 warps 75:8 80:12 86:12 90:12 100:12 120:12
// gpu-code: simt_conv2d<*, [48], 1> threads 128 dynamic 0 loads 16x9 warps 75:8 80:12 86:12 90:12 100:12 120:12
// gpu-code: simt_conv2d<*, 1, 1> threads 128 dynamic 0 loads 16x32 warps 75:8 80:12 86:12 90:12 100:12 120:12
template <class T, int kChunk, int kVector>
__global__ void __launch_bounds__(kThreads, 3)
    simt_conv2d(const __grid_constant__ SimtArguments arguments) {
  using L = Loads<T, kChunk, kVector>;
  const GpuConv2d& conv = arguments.conv;
  __shared__ __align__(16) Step buffers[2];
  __shared__ __align__(16) int4 corners[kPixels];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;

  const int pixel_tile = static_cast<int>(blockIdx.x) / conv.blocks;
  const int block =
      __ldg(arguments.block_order + static_cast<int>(blockIdx.x) - pixel_tile * conv.blocks);
  const int split = static_cast<int>(blockIdx.y);
  const std::int64_t first_pixel = static_cast<std::int64_t>(pixel_tile) * kPixels;
  const int first_of_block = __ldg(conv.block_offsets + block);
  const std::int64_t steps = (__ldg(conv.block_offsets + block + 1) - first_of_block) / L::kColumns;
  const int begin = first_of_block + static_cast<int>(steps * split / conv.splits) * L::kColumns;
  const int end =
      first_of_block + static_cast<int>(steps * (split + 1) / conv.splits) * L::kColumns;
  const auto* const columns = reinterpret_cast<const int4*>(conv.columns);

  {
    const Corner corner = corner_of(conv, first_pixel + thread);
    corners[thread] = make_int4(corner.y, corner.x, static_cast<int>(corner.pixel), 0);
  }
  __syncthreads();

  // The column of this thread's loads, where it is the same for all of them.
  const auto own_column = [&](int first) {
    return first < end ? __ldg(columns + first + L::part(0) * kVector / kChunk)
                       : make_int4(0, 0, 0, 0);
  };

  // Returns how many numbers of tiles there are, and steps `next_tile` on behind them.
  int next_tile = begin < end ? __ldg(conv.tile_offsets + begin) : 0;
  const auto load_step = [&](int first, int4 own, L& loads) {
    const auto* const input = static_cast<const T*>(conv.input);
#pragma unroll
    for (int i = 0; i < L::kParts; ++i) {
      const int channel = L::part(i) * kVector;  // of the step
      const int4 column = kVector == 1 ? __ldg(columns + first + channel / kChunk) : own;
      const int4 at = corners[L::pixel(i)];
      const Corner corner{at.x, at.y, static_cast<unsigned>(at.z)};
      bool inside;
      const unsigned pixel =
          corner.at(conv, column.x * conv.dilation_h, column.y * conv.dilation_w, &inside);
      inside = inside && channel % kChunk < column.w;
      loads.activations[i] = Vector<T, kVector>::zero();
      if (inside) {
        loads.activations[i] =
            Vector<T, kVector>::load(input + static_cast<std::int64_t>(pixel) * conv.in_channels +
                                     column.z + channel % kChunk);
      }
    }
    const auto* const tiles =
        static_cast<const float*>(conv.tiles) + static_cast<std::int64_t>(next_tile) * kChunk;
    const int first_tile = next_tile;
    next_tile = __ldg(conv.tile_offsets + first + L::kColumns);
    const int values = (next_tile - first_tile) * kChunk;
#pragma unroll
    for (int i = 0; i < L::kTileLoads; ++i) {
      const int at = (i * kThreads + thread) * L::kTileWords;
      if (at < values) loads.tiles[i] = Vector<float, L::kTileWords>::load(tiles + at);
    }
    if (thread < L::kColumns * 2) {
      loads.mask = __ldg(arguments.filter_masks + static_cast<std::int64_t>(first) * 2 + thread);
    }
    return values;
  };

  const auto store_step = [&](const L& loads, int values, Step& to) {
#pragma unroll
    for (int i = 0; i < L::kParts; ++i) {
      float x[kVector];
      loads.activations[i].to_floats(x);
      const int pixel = L::pixel(i) ^ (L::part(i) * L::kExchange);
#pragma unroll
      for (int v = 0; v < kVector; ++v) to.activations[L::part(i) * kVector + v][pixel] = x[v];
    }
#pragma unroll
    for (int i = 0; i < L::kTileLoads; ++i) {
      const int at = (i * kThreads + thread) * L::kTileWords;
      if (at < values) {
        float x[L::kTileWords];
        loads.tiles[i].to_floats(x);
        Vector<float, L::kTileWords>::from_floats(x).store(to.tiles + at);
      }
    }
    if (thread < L::kColumns * 2) to.masks[thread / 2][thread % 2] = loads.mask;
  };

  float sums[kWarpFilters][kLanePixels];
#pragma unroll
  for (int f = 0; f < kWarpFilters; ++f) {
#pragma unroll
    for (int p = 0; p < kLanePixels; ++p) sums[f][p] = 0.0f;
  }

  const auto compute_step = [&](const Step& from) {
    int first_tile = 0;  // of the column
#pragma unroll 1
    for (int c = 0; c < L::kColumns; ++c) {
      const unsigned low = static_cast<unsigned>(from.masks[c][0]);
      const unsigned high = static_cast<unsigned>(from.masks[c][1]);
      const unsigned word = warp < 2 ? low : high;
      const unsigned bits = word >> (warp % 2 * kWarpFilters) & 0xffffu;
      const unsigned before = word & (warp % 2 == 0 ? 0u : 0xffffu);
      int tile = first_tile + __popc(before) + (warp < 2 ? 0 : __popc(low));
      first_tile += __popc(low) + __popc(high);
      if (bits == 0) continue;
      float x[kChunk][kLanePixels];
#pragma unroll
      for (int k = 0; k < kChunk; ++k) {
        const int row = c * kChunk + k;
        const int pixel = (lane * kLanePixels) ^ (row / kVector * L::kExchange);
        const float4 four = *reinterpret_cast<const float4*>(&from.activations[row][pixel]);
        x[k][0] = four.x, x[k][1] = four.y, x[k][2] = four.z, x[k][3] = four.w;
      }
#pragma unroll
      for (int f = 0; f < kWarpFilters; ++f) {
        if ((bits >> f & 1) == 0) continue;
        const float* const weights = from.tiles + tile * kChunk;
        ++tile;
        float w[kChunk];
        if constexpr (kChunk == 1) {
          w[0] = weights[0];
        } else {
#pragma unroll
          for (int k = 0; k < kChunk; k += 4) {
            const float4 four = *reinterpret_cast<const float4*>(weights + k);
            w[k] = four.x, w[k + 1] = four.y, w[k + 2] = four.z, w[k + 3] = four.w;
          }
        }
#pragma unroll
        for (int k = 0; k < kChunk; ++k) {
#pragma unroll
          for (int p = 0; p < kLanePixels; ++p) sums[f][p] = fmaf(w[k], x[k][p], sums[f][p]);
        }
      }
    }
  };

  L loads;
  int now = 0;
  if (begin < end) {
    const int values = load_step(begin, own_column(begin), loads);
    store_step(loads, values, buffers[0]);
  }
  int4 own = own_column(begin + L::kColumns);
  for (int first = begin; first < end; first += L::kColumns) {
    __syncthreads();  // the step's data is there for all, and the other buffer's is used up
    const int following = first + L::kColumns;
    int values = 0;
    if (following < end) {
      values = load_step(following, own, loads);
      own = own_column(following + L::kColumns);
    }
    compute_step(buffers[now]);
    now ^= 1;
    if (following < end) store_step(loads, values, buffers[now]);
  }
  __syncthreads();

  // 32 pixels at a time through shared memory, so that the warp's 16 filters of a pixel are
  // written together: [32 pixels][four quads of filters], quads exchanged against bank conflicts.
  auto* const rows = reinterpret_cast<float4*>(&buffers[0]) + warp * 32 * (kWarpFilters / 4);
  static_assert(sizeof(buffers) >= kFilters * 32 * sizeof(float));
  const BlockFilters filters = filters_of_block<kFilters>(conv, block);
  const std::int64_t pixels = static_cast<std::int64_t>(conv.batch) * conv.out_h * conv.out_w;
  const int first_filter = warp * kWarpFilters + lane % 4 * 4;
  const Quad quad_filters = quad_of(conv, filters, first_filter);
#pragma unroll
  for (int p = 0; p < kLanePixels; ++p) {
    __syncwarp();
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      rows[lane * 4 + (q ^ (lane / 2 % 4))] =
          make_float4(sums[q * 4][p], sums[q * 4 + 1][p], sums[q * 4 + 2][p], sums[q * 4 + 3][p]);
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      const int row = i * 8 + lane / 4, q = lane % 4;
      const std::int64_t pixel = first_pixel + row * kLanePixels + p;
      if (pixel >= pixels) continue;
      const float4 quad = rows[row * 4 + (q ^ (row / 2 % 4))];
      const float four[4] = {quad.x, quad.y, quad.z, quad.w};
      put_quad<T, kFilters>(conv, quad_filters, block, split, pixel, pixels, first_filter, four);
    }
  }
}

// ---- launching ------------------------------------------------------------------------------

template <class T, int kChunk, int kVector>
cudaError_t launch(const SimtConv2d& problem, std::int64_t pixels, cudaStream_t stream) {
  const GpuConv2d& conv = problem.conv;
  const std::int64_t grid = (pixels + kPixels - 1) / kPixels * conv.blocks;
  if (grid > INT32_MAX) return cudaErrorInvalidValue;
  const dim3 blocks(static_cast<unsigned>(grid), static_cast<unsigned>(conv.splits));
  simt_conv2d<T, kChunk, kVector><<<blocks, kThreads, 0, stream>>>(
      SimtArguments{conv, problem.filter_masks, problem.block_order});
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess || conv.splits == 1) return error;
  return launch_reduce<T, kFilters>(conv, stream);
}

// Whether `channels` of every column can be loaded at once.
bool loads_at_once(const GpuConv2d& conv, int channels) {
  return conv.in_channels / conv.groups % channels == 0 &&
         reinterpret_cast<std::uintptr_t>(conv.input) % 16 == 0;
}

template <class T>
cudaError_t launch_chunk(const SimtConv2d& problem, std::int64_t pixels, cudaStream_t stream) {
  constexpr int kOfEight = 16 / sizeof(T) < 8 ? 16 / sizeof(T) : 8;
  switch (problem.chunk) {
    case 8:
      return loads_at_once(problem.conv, kOfEight) ? launch<T, 8, kOfEight>(problem, pixels, stream)
                                                   : launch<T, 8, 1>(problem, pixels, stream);
    case 4:
      return loads_at_once(problem.conv, 4) ? launch<T, 4, 4>(problem, pixels, stream)
                                            : launch<T, 4, 1>(problem, pixels, stream);
    case 1:
      return launch<T, 1, 1>(problem, pixels, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

int launch_simt_conv2d(const SimtConv2d& problem, void* stream) {
  const std::int64_t pixels = checked_pixels(problem.conv);
  if (pixels < 0) return cudaErrorInvalidValue;
  auto* const on = static_cast<cudaStream_t>(stream);
  switch (problem.conv.dtype) {
    case DType::float16:
      return launch_chunk<__half>(problem, pixels, on);
    case DType::bfloat16:
      return launch_chunk<__nv_bfloat16>(problem, pixels, on);
    default:
      return launch_chunk<float>(problem, pixels, on);
  }
}

}  // namespace l1sparse
