// SPDX-License-Identifier: MIT
// Lanes of two bfloat16 numbers each, 8 or 16 of them (AVX512-BF16): `dot` multiplies the numbers
// of a lane by those of another and adds both products to a float32. Loads take the first numbers
// from one place and the second ones from another, or take 0 for these; as bfloat16, or as float32
// that are bfloat16 numbers exactly.
#pragma once

#include <immintrin.h>

#include "base/simd_x86.h"

namespace l1sparse {
namespace {

// Number i of lanes of two: the i-th of the lower half, then the i-th of the upper one.
alignas(64) constexpr std::uint16_t kHalvesToPairs[32] = {
    0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
alignas(32) constexpr std::uint16_t kHalvesToPairs8[16] = {0, 8,  1, 9,  2, 10, 3, 11,
                                                           4, 12, 5, 13, 6, 14, 7, 15};
// The upper halves of two float32, in every 8 bytes twice.
alignas(16) constexpr std::uint8_t kUpperHalves[16] = {2, 3, 6, 7, 2, 3, 6, 7,
                                                       2, 3, 6, 7, 2, 3, 6, 7};

// Eight weights to four pairs. Through memory, since the ports that shuffle registers multiply too.
inline void narrow_to_pairs(const float* weights, std::uint32_t (&pairs)[4]) {
  const auto narrow = (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(weights));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(pairs), narrow);
  asm("" : "+m"(pairs));  // or the compiler would shuffle after all
}

// What both widths have in common; Self loads halves and makes pairs of them.
template <class Self, class Lanes>
struct PairLoads {
  template <class T>
  static auto load(const T* first, const T* second) {
    return Self::pairs(Self::half(first), Self::half(second));
  }
  template <class T>
  static auto load_lanes(const T* first, const T* second, Lanes lanes) {
    return Self::pairs(Self::half(first, lanes), Self::half(second, lanes));
  }
  template <class T>
  static auto load_first(const T* first, Lanes lanes) {
    return Self::pairs(Self::half(first, lanes), Self::half(first, Lanes{0}));
  }
};

struct BF16PairsX16 : PairLoads<BF16PairsX16, __mmask16> {
  using Reg = __m512i;
  using Lanes = __mmask16;

  static Reg pairs(__m256i first, __m256i second) {
    const Reg halves = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    return _mm512_permutexvar_epi16(_mm512_load_si512(kHalvesToPairs), halves);
  }
  static Reg pairs(__m512 first, __m512 second) {
    return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(first), 16),
                           _mm512_castps_si512(second));
  }
  static __m256i half(const BFloat16* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static __m256i half(const BFloat16* from, Lanes lanes) {
    return _mm256_maskz_loadu_epi16(lanes, from);
  }
  static __m512 half(const float* from) { return _mm512_loadu_ps(from); }
  static __m512 half(const float* from, Lanes lanes) { return _mm512_maskz_loadu_ps(lanes, from); }

  // Two neighbouring weights to all lanes.
  static Reg broadcast(const float* weights) {
    long long both;
    std::memcpy(&both, weights, sizeof(both));
    const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(kUpperHalves));
    return _mm512_shuffle_epi8(_mm512_set1_epi64(both), _mm512_broadcast_i32x4(order));
  }
  static Reg broadcast(std::uint32_t pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
  static __m512 dot(Reg a, Reg b, __m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

struct BF16PairsX8 : PairLoads<BF16PairsX8, __mmask8> {
  using Reg = __m256i;
  using Lanes = __mmask8;

  static Reg pairs(__m128i first, __m128i second) {
    const Reg halves = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    const Reg order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kHalvesToPairs8));
    return _mm256_permutexvar_epi16(order, halves);
  }
  static Reg pairs(__m256 first, __m256 second) {
    return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(first), 16),
                           _mm256_castps_si256(second));
  }
  static __m128i half(const BFloat16* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static __m128i half(const BFloat16* from, Lanes lanes) {
    return _mm_maskz_loadu_epi16(lanes, from);
  }
  static __m256 half(const float* from) { return _mm256_loadu_ps(from); }
  static __m256 half(const float* from, Lanes lanes) { return _mm256_maskz_loadu_ps(lanes, from); }

  static Reg broadcast(const float* weights) {
    long long both;
    std::memcpy(&both, weights, sizeof(both));
    const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(kUpperHalves));
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(both), _mm256_broadcastsi128_si256(order));
  }
  static Reg broadcast(std::uint32_t pair) { return _mm256_set1_epi32(static_cast<int>(pair)); }
  static __m256 dot(Reg a, Reg b, __m256 sum) {
    return _mm256_dpbf16_ps(sum, (__m256bh)a, (__m256bh)b);
  }
};

}  // namespace
}  // namespace l1sparse
