// SPDX-License-Identifier: MIT
// Float lanes of SSE (4), AVX2 (8) and, where the file is compiled for it, AVX-512 (16). The
// meaning of each function is written in simd_scalar.h; the four-lane form has only what gathering
// and accumulating need, since the other steps run on eight.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace l1sparse {
namespace {

// bfloat16 and float16 to float32.
inline __m128 widen(__m128i x, const BFloat16*, __m128) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(x), 16));
}
inline __m256 widen(__m128i x, const BFloat16*, __m256) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline __m128 widen(__m128i x, const Float16*, __m128) { return _mm_cvtph_ps(x); }
inline __m256 widen(__m128i x, const Float16*, __m256) { return _mm256_cvtph_ps(x); }

// And back, rounding to nearest, ties to even.
inline __m128i narrow(__m256 x, const BFloat16*) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 result = _mm256_blendv_ps(_mm256_castsi256_ps(rounded),
                                         _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), nan);
  const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(result), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline __m128i narrow(__m256 x, const Float16*) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

inline __m128i load_half(const void* p, __m128) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(p));
}
inline __m128i load_half(const void* p, __m256) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

// The first n of up to eight 16-bit values.
inline __m128i load_half_partial(const void* p, int n) {
#if defined(__AVX512VL__)
  return _mm_maskz_loadu_epi16(static_cast<__mmask8>((1u << n) - 1), p);
#else
  std::uint16_t values[8] = {};
  std::memcpy(values, p, static_cast<std::size_t>(n) * 2);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
#endif
}
inline void store_half_partial(void* p, __m128i x, int n) {
#if defined(__AVX512VL__)
  _mm_mask_storeu_epi16(p, static_cast<__mmask8>((1u << n) - 1), x);
#else
  std::uint16_t values[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), x);
  std::memcpy(p, values, static_cast<std::size_t>(n) * 2);
#endif
}

// Partial loads and stores, and the blend and shuffle of 128-bit halves. AVX2's forms of these
// reach only half of the 32 registers that AVX-512 has, and one of them in a loop is enough to
// make the compiler keep a sum on the stack; so each has its AVX-512 form.
#if defined(__AVX512VL__)
using Mask = __mmask8;
inline Mask first_lanes(int n) { return static_cast<Mask>((1u << n) - 1); }
inline __m128 load_masked(const float* p, Mask m, __m128) { return _mm_maskz_loadu_ps(m, p); }
inline __m256 load_masked(const float* p, Mask m, __m256) { return _mm256_maskz_loadu_ps(m, p); }
inline void store_masked(float* p, Mask m, __m256 r) { _mm256_mask_storeu_ps(p, m, r); }
using MaskOf8 = __mmask8;
inline MaskOf8 mask_of_bits(std::uint32_t bits) { return static_cast<MaskOf8>(bits); }
inline __m256 load_by_mask(const float* p, MaskOf8 m) { return _mm256_maskz_loadu_ps(m, p); }
inline __m128i load_half_by_mask(const void* p, MaskOf8 m) { return _mm_maskz_loadu_epi16(m, p); }
template <int kFromB>
__m256 blend(__m256 a, __m256 b) {
  return _mm256_mask_blend_ps(kFromB, a, b);
}
inline __m256 high_a_low_b(__m256 a, __m256 b) { return _mm256_shuffle_f32x4(a, b, 1); }
#else
// Loading from 8 - n on gives a mask of n lanes.
alignas(64) constexpr int kLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
using Mask = const int*;
inline Mask first_lanes(int n) { return kLanes + 8 - n; }
inline __m128i wide(Mask m, __m128) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(m)); }
inline __m256i wide(Mask m, __m256) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(m));
}
inline __m128 load_masked(const float* p, Mask m, __m128 r) {
  return _mm_maskload_ps(p, wide(m, r));
}
inline __m256 load_masked(const float* p, Mask m, __m256 r) {
  return _mm256_maskload_ps(p, wide(m, r));
}
inline void store_masked(float* p, Mask m, __m256 r) { _mm256_maskstore_ps(p, wide(m, r), r); }
using MaskOf8 = __m256i;
inline MaskOf8 mask_of_bits(std::uint32_t bits) {
  const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
  return _mm256_cmpeq_epi32(_mm256_and_si256(all, lane_bit), lane_bit);
}
inline __m256 load_by_mask(const float* p, MaskOf8 m) { return _mm256_maskload_ps(p, m); }
inline __m128i load_half_by_mask(const void* p, MaskOf8 m) {
  const int lanes = _mm256_movemask_ps(_mm256_castsi256_ps(m));
  std::uint16_t values[8] = {};
  for (int i = 0; i < 8; ++i) {
    if ((lanes >> i & 1) != 0) values[i] = static_cast<const std::uint16_t*>(p)[i];
  }
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
}
template <int kFromB>
__m256 blend(__m256 a, __m256 b) {
  return _mm256_blend_ps(a, b, kFromB);
}
inline __m256 high_a_low_b(__m256 a, __m256 b) { return _mm256_permute2f128_ps(a, b, 0x21); }
#endif

struct F32x4 {
  static constexpr int kLanes = 4;
  static constexpr int kBatch = 4;
  using Sums = F32x4;
  using Reg = __m128;

  static Reg zero() { return _mm_setzero_ps(); }
  static Reg load(const float* from) { return _mm_loadu_ps(from); }
  static Reg load_partial(const float* from, int n) {
    return load_masked(from, first_lanes(n), zero());
  }
  template <class T>
  static Reg load(const T* from) {
    return widen(load_half(from, zero()), from, zero());
  }
  template <class T>
  static Reg load_partial(const T* from, int n) {
    return widen(load_half_partial(from, n), from, zero());
  }
  static void store(float* to, Reg r) { _mm_storeu_ps(to, r); }
  static Reg add(Reg a, Reg b) { return _mm_add_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm_fmadd_ps(a, b, c); }
  // a0+a2 a1+a3 | b0+b2 b1+b3
  static Reg fold_halves(Reg a, Reg b) {
    return _mm_add_ps(_mm_shuffle_ps(a, b, 0x44), _mm_shuffle_ps(a, b, 0xEE));
  }
  static Reg sum_lanes(const Reg* r) {
    const Reg a = fold_halves(r[0], r[1]), b = fold_halves(r[2], r[3]);
    return _mm_add_ps(_mm_shuffle_ps(a, b, 0x88), _mm_shuffle_ps(a, b, 0xDD));
  }
  static void transpose(Reg (&r)[4]) { _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]); }
};

struct F32x8 {
  static constexpr int kLanes = 8;
  static constexpr int kBatch = 8;
  using Sums = F32x8;
  using Reg = __m256;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg broadcast(float x) { return _mm256_set1_ps(x); }
  static Reg load(const float* from) { return _mm256_loadu_ps(from); }
  static Reg load_partial(const float* from, int n) {
    return load_masked(from, first_lanes(n), zero());
  }
  template <class T>
  static Reg load(const T* from) {
    return widen(load_half(from, zero()), from, zero());
  }
  template <class T>
  static Reg load_partial(const T* from, int n) {
    return widen(load_half_partial(from, n), from, zero());
  }
  static Reg even(Reg a, Reg b) {
    const __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xD8));
  }
  static void store(float* to, Reg r) { _mm256_storeu_ps(to, r); }
  static void stream(float* to, Reg r) { _mm256_stream_ps(to, r); }
  static void finish_streams() { _mm_sfence(); }
  static void store_partial(float* to, Reg r, int n) { store_masked(to, first_lanes(n), r); }
  template <class T>
  static void store(T* to, Reg r) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow(r, to));
  }
  template <class T>
  static void store_partial(T* to, Reg r, int n) {
    store_half_partial(to, narrow(r, to), n);
  }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  // The second operand is what comes out when one of the two is NaN.
  static Reg max(Reg bound, Reg x) { return _mm256_max_ps(bound, x); }
  static Reg max_or_nan(Reg a, Reg b) {
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static Reg min(Reg bound, Reg x) { return _mm256_min_ps(bound, x); }
  static Reg abs(Reg a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  using Lanes = MaskOf8;
  static Lanes lanes_of_bits(std::uint32_t bits) { return mask_of_bits(bits); }
  static Reg load_lanes(const float* from, Lanes lanes) { return load_by_mask(from, lanes); }
  template <class T>
  static Reg load_lanes(const T* from, Lanes lanes) {
    return widen(load_half_by_mask(from, lanes), from, zero());
  }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  // Each step adds the halves of two registers into one; a blend, which every vector port can do,
  // stands in for one of the two shuffles.
  static Reg fold_128(Reg a, Reg b) { return _mm256_add_ps(blend<0xF0>(a, b), high_a_low_b(a, b)); }
  static Reg fold_64(Reg a, Reg b) {
    return _mm256_add_ps(blend<0xCC>(a, b), _mm256_shuffle_ps(a, b, 0x4E));
  }
  static Reg fold_32(Reg a, Reg b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
  }
  static Reg sum_lanes(const Reg* r) {
    const Reg a = fold_64(fold_128(r[0], r[4]), fold_128(r[1], r[5]));
    const Reg b = fold_64(fold_128(r[2], r[6]), fold_128(r[3], r[7]));
    return fold_32(a, b);
  }
  static void transpose(Reg (&r)[8]) {
    Reg t[8];
    for (int i = 0; i < 4; ++i) {
      t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    Reg u[8];
    for (int i = 0; i < 2; ++i) {
      u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
      u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
  }
};

#if defined(__AVX512F__)
inline __m512 widen(__m256i x, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline __m512 widen(__m256i x, const Float16*) { return _mm512_cvtph_ps(x); }
inline __m256i narrow(__m512 x, const BFloat16*) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
}
inline __m256i narrow(__m512 x, const Float16*) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

struct F32x16 {
  static constexpr int kLanes = 16;
  static constexpr int kBatch = 8;
  using Sums = F32x8;
  using Reg = __m512;

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg broadcast(float x) { return _mm512_set1_ps(x); }
  static void store(float* to, Reg r) { _mm512_storeu_ps(to, r); }
  static void stream(float* to, Reg r) { _mm512_stream_ps(to, r); }
  static void finish_streams() { _mm_sfence(); }
  static Reg load(const float* from) { return _mm512_loadu_ps(from); }
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Reg load_partial(const float* from, int n) {
    return _mm512_maskz_loadu_ps(first(n), from);
  }
  static void store_partial(float* to, Reg r, int n) { _mm512_mask_storeu_ps(to, first(n), r); }
  template <class T>
  static Reg load(const T* from) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), from);
  }
  template <class T>
  static Reg load_lanes(const T* from, __mmask16 lanes) {
    return widen(_mm256_maskz_loadu_epi16(lanes, from), from);
  }
  template <class T>
  static Reg load_partial(const T* from, int n) {
    return load_lanes(from, first(n));
  }
  template <class T>
  static void store(T* to, Reg r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow(r, to));
  }
  template <class T>
  static void store_partial(T* to, Reg r, int n) {
    _mm256_mask_storeu_epi16(to, first(n), narrow(r, to));
  }
  static Reg even(Reg a, Reg b) {
    const __m512i lanes =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, lanes, b);
  }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg abs(Reg a) { return _mm512_abs_ps(a); }
  static Reg max(Reg bound, Reg x) { return _mm512_max_ps(bound, x); }
  static Reg max_or_nan(Reg a, Reg b) {
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  static Reg min(Reg bound, Reg x) { return _mm512_min_ps(bound, x); }
  using Lanes = __mmask16;
  static Lanes lanes_of_bits(std::uint32_t bits) { return static_cast<Lanes>(bits); }
  static Reg load_lanes(const float* from, Lanes lanes) {
    return _mm512_maskz_loadu_ps(lanes, from);
  }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static void transpose(Reg (&r)[16]) {
    // Four by four within the quarters of four registers, then quarters between registers.
    for (int i = 0; i < 16; i += 4) {
      const Reg a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
      const Reg c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]);
      const Reg d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
      r[i] = _mm512_shuffle_ps(a, c, 0x44);
      r[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
      r[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      r[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
      const Reg a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
      const Reg b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
      const Reg c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
      const Reg d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
      r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
  }
  // Lane 4 * i + j: element i of row j, where bit i is set, of so many rows, at most four.
  static Reg load_columns(const float* from, std::int64_t row_pitch, int rows, std::uint32_t bits) {
    const auto row = [&](int j) {
      return _mm_maskz_loadu_ps(static_cast<__mmask8>(j < rows ? bits & 15 : 0),
                                from + (j < rows ? j * row_pitch : 0));
    };
    Reg r = _mm512_castps128_ps512(row(0));
    r = _mm512_insertf32x4(r, row(1), 1);
    r = _mm512_insertf32x4(r, row(2), 2);
    r = _mm512_insertf32x4(r, row(3), 3);
    const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(lanes, r);
  }
  // Lane 4 * i + j: element j of the first n, at most four; 0 beyond them.
  static Reg repeat(const float* from, int n) {
    return _mm512_broadcast_f32x4(
        n == 4 ? _mm_loadu_ps(from)
               : _mm_maskz_loadu_ps(static_cast<__mmask8>((1 << n) - 1), from));
  }
  // Stores the sums of four neighbouring lanes.
  static void store_sums_of_four(float* to, Reg r) {
    r = _mm512_add_ps(r, _mm512_permute_ps(r, 0xB1));
    r = _mm512_add_ps(r, _mm512_permute_ps(r, 0x4E));
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, r)));
  }
  // Lane 4 * i + j: the sum of the lanes 4 * i .. 4 * i + 3 of r[j].
  static Reg sums_of_fours(const Reg (&r)[4]) {
    const Reg a = add(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
    const Reg b = add(_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
    return add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
  }
  static __m256 sum_lanes(const Reg* r) {
    __m256 halves[8];
    for (int i = 0; i < 8; ++i) {
      halves[i] = _mm256_add_ps(_mm512_castps512_ps256(r[i]), _mm512_extractf32x8_ps(r[i], 1));
    }
    return F32x8::sum_lanes(halves);
  }
};
#endif

}  // namespace
}  // namespace l1sparse
