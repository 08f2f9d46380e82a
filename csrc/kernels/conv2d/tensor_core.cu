// SPDX-License-Identifier: MIT
// Group-sparse convolution on tensor cores: one mma.sync for each kept tile and eight pixels.
// Needs sm_80 or later.
//
// A thread block has one block of filters and kPixels output pixels, and walks the block's columns
// in steps of kColumns. A pipeline of kStages steps in shared memory hides the way from global
// memory: cp.async brings the activations that the columns read (zeros for pixels outside) and the
// columns' tiles, which lie one after another. A warp takes kPixels / 4 of the pixels and all
// strips, so that its sums stay in registers and every warp has the same work whatever the mask.
//
// Weights may be compressed (see CompressedConv2d in gpu.h): then a step brings their kept pieces
// of 16 bytes only, and each warp expands them on their way out of shared memory. ldmatrix makes an
// operand A of 32 rows of 16 bytes and takes an address for each: a kept piece's, or that of zeros.
//
// Activations of a step are [column][pixel][two halves of 16 bytes]. The halves of every second
// four pixels are exchanged: the eight rows that ldmatrix reads at a time are 32 bytes apart and
// would share four of the eight 16-byte banks.
#include "kernels/conv2d/pixels.cuh"
#include "kernels/conv2d/reduce.cuh"

namespace l1sparse {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kColumns = 2;
constexpr int kTileBytes = 512;
constexpr int kPieceBytes = 16;
constexpr int kBankBytes = 128;  // of shared memory, that are read at a time
constexpr int kPixelBytes = 32;  // of a column

// ---- single instructions --------------------------------------------------------------------

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, or zeros without a look at `from`; through the first-level cache, where the next tap
// finds most of the same pixels.
__device__ inline void copy_or_zero(unsigned to, const char* from, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

__device__ inline void copy_weights(unsigned to, const char* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}

__device__ inline void close_step() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

template <int kLater>
__device__ inline void wait_for_all_steps_but() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLater) : "memory");
}

__device__ inline void load_four_matrices(unsigned from, unsigned (&b)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(from)
               : "memory");
}

template <class T>
__device__ void multiply_add(float (&sums)[4], uint4 a, unsigned b0, unsigned b1);

template <>
__device__ inline void multiply_add<__half>(float (&sums)[4], uint4 a, unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&sums)[4], uint4 a, unsigned b0,
                                                   unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply_add<float>(float (&sums)[4], uint4 a, unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// The unit takes TF32 by cutting bits off; rounding first halves the error and has no bias.
template <class T>
__device__ inline void round_operand(unsigned (&b)[4]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(b[i]) : "f"(__uint_as_float(b[i])));
    }
  }
}

// ---- the kernel -----------------------------------------------------------------------------

template <int kStrips, int kPixels, bool kCompressed>
struct Shape {
  static constexpr int kFilters = 16 * kStrips;
  static constexpr int kStages = kStrips == 8 ? 3 : 4;
  static constexpr int kActivationBytes = kColumns * kPixels * kPixelBytes;
  static constexpr int kStageBytes = kActivationBytes + kColumns * kStrips * kTileBytes;
  // Behind the stages: where weights are compressed, zeros for all banks; and the masks of each
  // stage's columns, one of strips or, [column][strip], of pieces.
  static constexpr int kZeros = kStages * kStageBytes;
  static constexpr int kMasks = kZeros + (kCompressed ? kBankBytes : 0);
  static constexpr int kMaskBytes = kColumns * (kCompressed ? kStrips : 1) * 4;  // of a stage
  static constexpr int kSharedBytes = kMasks + kStages * kMaskBytes;
  static constexpr int kMatrices = kPixels / 8 / kWarps;  // of eight pixels, of a warp
  // Sums on their way out, of a warp: [8 pixels][filters], rows four floats apart in the banks.
  static constexpr int kRow = kFilters + 4;
  static_assert(kWarps * 8 * kRow * 4 <= kStages * kStageBytes);
};

// How sums leave through shared memory: of a row, a pixel's filters, each lane takes a run that
// fills 16 bytes of output. Where that are eight filters, their first fours lie one after another
// and then their second fours, so that neighbouring lanes read neighbouring banks.
template <class T, int kFilters>
struct Rows {
  static constexpr int kRun = 16 / static_cast<int>(sizeof(T));
  static constexpr int kQuads = kRun / 4;
  static constexpr int kRuns = kFilters / kRun;  // of a pixel
  static constexpr int kPixels = 32 / kRuns;     // that a warp takes at a time
  static constexpr int kSecondFours = kFilters / 2 + 4;
  static constexpr int kEight = 8 / kQuads;  // from a filter to the eighth after it

  __device__ static int place_of(int filter) {
    return kQuads == 1 ? filter : filter / 8 * 4 + filter / 4 % 2 * kSecondFours + filter % 4;
  }
  __device__ static void read(const float* from, float (&x)[kRun]) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const float4 four = *reinterpret_cast<const float4*>(from + q * kSecondFours);
      x[q * 4] = four.x, x[q * 4 + 1] = four.y, x[q * 4 + 2] = four.z, x[q * 4 + 3] = four.w;
    }
  }
  __device__ static bool aligned(const GpuConv2d& conv) {
    return (reinterpret_cast<std::uintptr_t>(conv.output) |
            reinterpret_cast<std::uintptr_t>(conv.residual)) %
               16 ==
           0;
  }
};

// A step's columns, read one step before they are used.
struct Columns {
  int4 column[kColumns];
  int first;  // in the list
  int first_tile;
};

template <bool kCompressed>
__device__ inline Columns read_columns(const GpuConv2d& conv, int first, int end) {
  Columns columns;
  columns.first = first;
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    columns.column[i] = first + i < end
                            ? __ldg(reinterpret_cast<const int4*>(conv.columns) + first + i)
                            : make_int4(0, 0, 0, 0);
  }
  columns.first_tile = first < end && !kCompressed ? __ldg(conv.tile_offsets + first) : 0;
  return columns;
}

// An operand A, of the pieces that lie from `pieces` on and the 128 bytes of zeros at `zeros`; both
// begin in the first bank. Lane 16 h + r gives the address of row r's half h, the mask's bit. All
// of a matrix's zeros are one, in the bank behind the matrix's own pieces.
__device__ inline uint4 expanded(unsigned mask, unsigned pieces, unsigned zeros) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned before = (1u << lane) - 1, of_matrix = (2u << (lane | 7)) - 1;
  const auto behind = [&](unsigned lanes) {
    return pieces + static_cast<unsigned>(__popc(mask & lanes) * kPieceBytes);
  };
  const bool kept = (mask >> lane & 1) != 0;
  unsigned a[4];
  load_four_matrices(kept ? behind(before) : zeros + behind(of_matrix) % kBankBytes, a);
  return make_uint4(a[0], a[1], a[2], a[3]);
}

// `piece_masks` is read where weights are compressed.
template <class T, int kStrips, int kPixels, bool kCompressed>
__device__ __forceinline__ void convolve(const GpuConv2d& conv, const int* piece_masks) {
  using S = Shape<kStrips, kPixels, kCompressed>;
  extern __shared__ __align__(128) char shared[];
  auto* const masks = reinterpret_cast<int*>(shared + S::kMasks);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;

  // Blocks of filters first: those that run together share activations in the second-level cache.
  const int pixel_tile = static_cast<int>(blockIdx.x) / conv.blocks;
  const int block = static_cast<int>(blockIdx.x) - pixel_tile * conv.blocks;
  const int split = static_cast<int>(blockIdx.y);
  const std::int64_t first_pixel = static_cast<std::int64_t>(pixel_tile) * kPixels;
  const int first_of_block = __ldg(conv.block_offsets + block);
  const std::int64_t of_block = __ldg(conv.block_offsets + block + 1) - first_of_block;
  const int begin = first_of_block + static_cast<int>(of_block * split / conv.splits);
  const int end = first_of_block + static_cast<int>(of_block * (split + 1) / conv.splits);
  const int steps = (end - begin + kColumns - 1) / kColumns;

  // Two threads bring the two halves of a pixel: 32 bytes, a whole sector, in one instruction.
  constexpr int kCopies = kPixels / (kThreads / 2);
  const int half = thread % 2;
  const std::int64_t row_bytes = static_cast<std::int64_t>(conv.in_channels) * sizeof(T);
  int corner_y[kCopies], corner_x[kCopies];
  const char* from_corner[kCopies];  // outside the input, it may be: then nothing is read there
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const Corner corner = corner_of(conv, first_pixel + thread / 2 + i * (kThreads / 2));
    corner_y[i] = corner.y;
    corner_x[i] = corner.x;
    from_corner[i] = static_cast<const char*>(conv.input) + half * 16 +
                     static_cast<int>(corner.pixel) * row_bytes;
  }
  const unsigned copy_to =
      shared_address(shared) +
      static_cast<unsigned>(thread / 2 * kPixelBytes + ((half ^ (thread / 8 % 2)) * 16));
  const char* const from_tiles = static_cast<const char*>(conv.tiles) + thread * 16;
  const unsigned tiles_to =
      shared_address(shared) + static_cast<unsigned>(S::kActivationBytes + thread * 16);

  // Where weights are compressed: the first piece of the step to be started, and what copies masks.
  int next_piece = 0;
  const char* from_piece_masks = nullptr;
  unsigned piece_masks_to = 0;
  if constexpr (kCompressed) {
    next_piece = begin < end ? __ldg(conv.tile_offsets + begin) : 0;
    from_piece_masks = reinterpret_cast<const char*>(piece_masks) + thread * 16;
    piece_masks_to = shared_address(shared + S::kMasks + thread * 16);
    if (thread < kBankBytes / 4) reinterpret_cast<int*>(shared + S::kZeros)[thread] = 0;
  }

  const auto start_step = [&](int slot, const Columns& columns) {
    const unsigned stage = static_cast<unsigned>(slot * S::kStageBytes);
    int tiles = 0, pieces = 0;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int4 column = columns.column[c];
      if (thread == c && !kCompressed) masks[slot * kColumns + c] = column.w;
      if (column.w == 0) continue;
      tiles += kCompressed ? 0 : __popc(column.w);
      pieces += kCompressed ? column.w : 0;
      const int dy = column.x * conv.dilation_h, dx = column.y * conv.dilation_w;
      const std::int64_t way =
          (dy * conv.in_w + dx) * row_bytes + column.z * static_cast<std::int64_t>(sizeof(T));
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const bool inside =
            static_cast<unsigned>(corner_y[i] + dy) < static_cast<unsigned>(conv.in_h) &&
            static_cast<unsigned>(corner_x[i] + dx) < static_cast<unsigned>(conv.in_w);
        copy_or_zero(copy_to + stage +
                         static_cast<unsigned>((c * kPixels + i * (kThreads / 2)) * kPixelBytes),
                     from_corner[i] + way, inside);
      }
    }
    const char* from;
    int weight_bytes;
    if constexpr (kCompressed) {
      from = from_tiles + static_cast<std::int64_t>(next_piece) * kPieceBytes;
      weight_bytes = pieces * kPieceBytes;
      next_piece += pieces;
      constexpr int kOfColumn = kStrips * 4 / 16;  // copies
      if (thread < kColumns * kOfColumn) {         // zeros for a column that there is none of
        copy_or_zero(piece_masks_to + static_cast<unsigned>(slot * S::kMaskBytes),
                     from_piece_masks + static_cast<std::int64_t>(columns.first) * kStrips * 4,
                     columns.first + thread / kOfColumn < end);
      }
    } else {
      from = from_tiles + static_cast<std::int64_t>(columns.first_tile) * kTileBytes;
      weight_bytes = tiles * kTileBytes;
    }
#pragma unroll
    for (int i = 0; i < kColumns * kStrips * kTileBytes; i += kThreads * 16) {
      if (i + thread * 16 < weight_bytes) {
        copy_weights(tiles_to + stage + static_cast<unsigned>(i), from + i);
      }
    }
  };

  float sums[kStrips][S::kMatrices][4];
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
#pragma unroll
    for (int m = 0; m < S::kMatrices; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[s][m][i] = 0.0f;
    }
  }

  // ldmatrix takes addresses of rows: eight pixels' first half, their second, eight more pixels'.
  const int matrix_row = warp * 8 * S::kMatrices + lane / 16 * 8 + lane % 8;
  const unsigned read_from =
      shared_address(shared) +
      static_cast<unsigned>(matrix_row * kPixelBytes + ((lane / 8 % 2) ^ (lane / 4 % 2)) * 16);

  const auto compute_step = [&](int slot) {
    unsigned activations = read_from + static_cast<unsigned>(slot * S::kStageBytes);
    const char* tile = shared + slot * S::kStageBytes + S::kActivationBytes + lane * 16;
    unsigned piece = shared_address(shared + slot * S::kStageBytes + S::kActivationBytes);
    const auto* const piece_masks_of_step =
        reinterpret_cast<const uint4*>(shared + S::kMasks + slot * S::kMaskBytes);
#pragma unroll
    for (int c = 0; c < kColumns; ++c, activations += kPixels * kPixelBytes) {
      unsigned kept[kStrips];  // of each strip: whether it kept the column, or which pieces of it
      unsigned any = 0;
      if constexpr (kCompressed) {
#pragma unroll
        for (int s = 0; s < kStrips; s += 4) {
          const uint4 four = piece_masks_of_step[(c * kStrips + s) / 4];
          kept[s] = four.x, kept[s + 1] = four.y, kept[s + 2] = four.z, kept[s + 3] = four.w;
          any |= four.x | four.y | four.z | four.w;
        }
      } else {
        any = static_cast<unsigned>(masks[slot * kColumns + c]);
#pragma unroll
        for (int s = 0; s < kStrips; ++s) kept[s] = any >> s & 1;
      }
      if (any == 0) continue;
      unsigned b[S::kMatrices / 2][4];
#pragma unroll
      for (int m = 0; m < S::kMatrices / 2; ++m) {
        load_four_matrices(activations + static_cast<unsigned>(m * 16 * kPixelBytes), b[m]);
        round_operand<T>(b[m]);
      }
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        if (kept[s] == 0) continue;
        uint4 a;
        if constexpr (kCompressed) {
          a = expanded(kept[s], piece, shared_address(shared + S::kZeros));
          piece += static_cast<unsigned>(__popc(kept[s]) * kPieceBytes);
        } else {
          a = *reinterpret_cast<const uint4*>(tile);
          tile += kTileBytes;
        }
#pragma unroll
        for (int m = 0; m < S::kMatrices; ++m) {
          multiply_add<T>(sums[s][m], a, b[m / 2][m % 2 * 2], b[m / 2][m % 2 * 2 + 1]);
        }
      }
    }
  };

  int started = 0;
  for (; started < S::kStages - 1; ++started) {
    if (started < steps) {
      start_step(started, read_columns<kCompressed>(conv, begin + started * kColumns, end));
    }
    close_step();
  }
  Columns next = read_columns<kCompressed>(conv, begin + started * kColumns, end);
  int slot = 0, free_slot = S::kStages - 1;
  for (int step = 0; step < steps; ++step, ++started) {
    wait_for_all_steps_but<S::kStages - 2>();
    __syncthreads();  // the step's data is there for all, and the free slot's is used up
    if (started < steps) {
      start_step(free_slot, next);
      next = read_columns<kCompressed>(conv, begin + (started + 1) * kColumns, end);
    }
    close_step();  // empty ones too: the waits count them
    compute_step(slot);
    free_slot = slot;
    slot = slot + 1 == S::kStages ? 0 : slot + 1;
  }
  wait_for_all_steps_but<0>();
  __syncthreads();

  // Eight pixels at a time through shared memory, so that a row of filters is written together: 16
  // bytes a lane, which has the same run of filters of every pixel.
  auto* const rows = reinterpret_cast<float*>(shared) + warp * 8 * S::kRow;
  const BlockFilters filters = filters_of_block<S::kFilters>(conv, block);
  const std::int64_t pixels = static_cast<std::int64_t>(conv.batch) * conv.out_h * conv.out_w;
  using R = Rows<T, S::kFilters>;
  const int run = lane % R::kRuns, lane_row = lane / R::kRuns;
  const bool whole = conv.splits == 1 && moves_together(conv, R::kRun) && R::aligned(conv);
  float bias[R::kRun] = {};
  if (whole && conv.bias != nullptr) {
#pragma unroll
    for (int f = lane; f < S::kFilters; f += 32) {
      rows[R::place_of(f)] = f < filters.count ? __ldg(conv.bias + filters.first + f) : 0.0f;
    }
    __syncwarp();
    R::read(rows + run * 4, bias);
  }
  // Where this lane's sums of a strip go, and how far behind those of the next eight filters.
  const int own_place = conv.splits == 1 ? R::place_of(lane / 4) : lane / 4;
  const int eight = conv.splits == 1 ? R::kEight : 8;
  // Of this lane's first pixel; and how many pixels of the warp there are from there on.
  const std::int64_t own_pixel = first_pixel + warp * S::kMatrices * 8 + lane_row;
  std::int64_t at = own_pixel * conv.out_channels + filters.first + run * R::kRun;
  const int step = R::kPixels * conv.out_channels;
  const int left = run * R::kRun < filters.count
                       ? static_cast<int>(min(pixels - own_pixel, std::int64_t{kPixels}))
                       : 0;
#pragma unroll
  for (int m = 0; m < S::kMatrices; ++m) {
    __syncwarp();
    float* to = rows + lane % 4 * 2 * S::kRow + own_place;
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      to[0] = sums[s][m][0];
      to[S::kRow] = sums[s][m][1];
      to += eight;
      to[0] = sums[s][m][2];
      to[S::kRow] = sums[s][m][3];
      to += eight;
    }
    __syncwarp();
    const float* const from = rows + lane_row * S::kRow + run * 4;
    if (conv.splits != 1) {  // fours of filters, a last block's missing ones too
      constexpr int kFours = S::kFilters / 4;
      const int four = lane % kFours;
#pragma unroll
      for (int i = 0; i < 8; i += 32 / kFours) {
        const int row = i + lane / kFours;
        const std::int64_t pixel = first_pixel + (warp * S::kMatrices + m) * 8 + row;
        if (pixel >= pixels) continue;
        const std::int64_t to = ((split * pixels + pixel) * conv.blocks + block) * kFours + four;
        reinterpret_cast<float4*>(conv.partial)[to] =
            *reinterpret_cast<const float4*>(rows + row * S::kRow + four * 4);
      }
      continue;
    }
    if (whole) {
#pragma unroll
      for (int row = 0; row < 8; row += R::kPixels, at += step) {
        if (m * 8 + row >= left) continue;
        float x[R::kRun];
        R::read(from + row * S::kRow, x);
#pragma unroll
        for (int i = 0; i < R::kRun; ++i) x[i] += bias[i];
        finish<T>(conv, at, x);
      }
      continue;
    }
#pragma unroll
    for (int q = 0; q < R::kQuads; ++q) {
      const int filter = run * R::kRun + q * 4;
      const Quad quad = quad_of(conv, filters, filter);
#pragma unroll 1
      for (int row = 0; row < 8; row += R::kPixels) {
        if (m * 8 + row >= left) continue;
        const float4 x =
            *reinterpret_cast<const float4*>(from + row * S::kRow + q * R::kSecondFours);
        const float four[4] = {x.x, x.y, x.z, x.w};
        finish_quad<T>(conv, quad, own_pixel + m * 8 + row, four);
      }
    }
  }
}

// gpu-code: tensor_core_conv2d<*, 4, 64> threads 128 dynamic 32800 loads 16x27 uses HMMA LDGSTS LDSM warps 80:16 86:12 90:20 100:16 120:12
// gpu-code: tensor_core_conv2d<*, 4, 128> threads 128 dynamic 49184 loads 16x35 uses HMMA LDGSTS LDSM warps 80:12 86:8 90:16 100:16 120:8
// gpu-code: tensor_core_conv2d<*, 8, 128> threads 128 dynamic 49176 loads 16x33 uses HMMA LDGSTS LDSM warps 80:8 86:8 90:8 100:8 120:8
static_assert(Shape<4, 64, false>::kSharedBytes == 32800);
static_assert(Shape<4, 128, false>::kSharedBytes == 49184);
static_assert(Shape<8, 128, false>::kSharedBytes == 49176);

template <class T, int kStrips, int kPixels>
__global__ void __launch_bounds__(kThreads, kStrips == 8 ? 2 : 4)
    tensor_core_conv2d(const __grid_constant__ GpuConv2d conv) {
  convolve<T, kStrips, kPixels, false>(conv, nullptr);
}

// Its layers have few pixels.
constexpr int kCompressedStrips = 4, kCompressedPixels = 64;
using CompressedShape = Shape<kCompressedStrips, kCompressedPixels, true>;

// gpu-code: compressed_conv2d<*> threads 128 dynamic 33024 loads 16x31 uses HMMA LDGSTS LDSM warps 80:16 86:12 90:20 100:16 120:12
static_assert(CompressedShape::kSharedBytes == 33024);

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    compressed_conv2d(const __grid_constant__ CompressedConv2d problem) {
  convolve<T, kCompressedStrips, kCompressedPixels, true>(problem.conv, problem.piece_masks);
}

// ---- launching ------------------------------------------------------------------------------

// Whether activations and weights can be copied 16 bytes at a time.
bool copies_whole(const GpuConv2d& conv) {
  const int column_channels = kPixelBytes / static_cast<int>(size_of(conv.dtype));
  return conv.in_channels / conv.groups % column_channels == 0 &&
         reinterpret_cast<std::uintptr_t>(conv.input) % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(conv.tiles) % 16 == 0;
}

// Launches `kernel`, which takes `argument`, and what adds up splits.
template <class T, class S, class Argument>
cudaError_t launch(void (*kernel)(Argument), const Argument& argument, const GpuConv2d& conv,
                   int pixels_of_block, cudaStream_t stream) {
  const std::int64_t pixels = checked_pixels(conv);
  if (pixels < 0 || !copies_whole(conv)) return cudaErrorInvalidValue;
  const std::int64_t grid = (pixels + pixels_of_block - 1) / pixels_of_block * conv.blocks;
  if (grid > INT32_MAX) return cudaErrorInvalidValue;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  const dim3 blocks(static_cast<unsigned>(grid), static_cast<unsigned>(conv.splits));
  kernel<<<blocks, kThreads, S::kSharedBytes, stream>>>(argument);
  error = cudaGetLastError();
  if (error != cudaSuccess || conv.splits == 1) return error;
  return launch_reduce<T, S::kFilters>(conv, stream);
}

template <class T, int kStrips, int kPixels>
cudaError_t launch_tiles(const GpuConv2d& conv, cudaStream_t stream) {
  return launch<T, Shape<kStrips, kPixels, false>, GpuConv2d>(
      tensor_core_conv2d<T, kStrips, kPixels>, conv, conv, kPixels, stream);
}

template <class T>
cudaError_t launch_tiles(const TensorCoreConv2d& problem, cudaStream_t stream) {
  if (problem.strips == 4 && problem.pixels == 64) {
    return launch_tiles<T, 4, 64>(problem.conv, stream);
  }
  if (problem.strips == 4 && problem.pixels == 128) {
    return launch_tiles<T, 4, 128>(problem.conv, stream);
  }
  if (problem.strips == 8 && problem.pixels == 128) {
    return launch_tiles<T, 8, 128>(problem.conv, stream);
  }
  return cudaErrorInvalidValue;
}

template <class T>
cudaError_t launch_pieces(const CompressedConv2d& problem, cudaStream_t stream) {
  return launch<T, CompressedShape, CompressedConv2d>(compressed_conv2d<T>, problem, problem.conv,
                                                      kCompressedPixels, stream);
}

}  // namespace

int launch_tensor_core_conv2d(const TensorCoreConv2d& problem, void* stream) {
  auto* const on = static_cast<cudaStream_t>(stream);
  switch (problem.conv.dtype) {
    case DType::float16:
      return launch_tiles<__half>(problem, on);
    case DType::bfloat16:
      return launch_tiles<__nv_bfloat16>(problem, on);
    default:
      return launch_tiles<float>(problem, on);
  }
}

int launch_compressed_conv2d(const CompressedConv2d& problem, void* stream) {
  if (reinterpret_cast<std::uintptr_t>(problem.piece_masks) % 16 != 0) return cudaErrorInvalidValue;
  auto* const on = static_cast<cudaStream_t>(stream);
  switch (problem.conv.dtype) {
    case DType::float16:
      return launch_pieces<__half>(problem, on);
    case DType::bfloat16:
      return launch_pieces<__nv_bfloat16>(problem, on);
    default:
      return launch_pieces<float>(problem, on);
  }
}

}  // namespace l1sparse
