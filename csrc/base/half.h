// SPDX-License-Identifier: MIT
// bfloat16 and IEEE float16 in plain C++: for leftovers, and for processors without instructions.
// In an anonymous namespace, as all that instruction sets' files include; and with the compiler's
// bit cast, since std's would be a function that objects share.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace l1sparse {
namespace {

inline float to_float(float x) { return x; }

inline float to_float(BFloat16 x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16);
}

inline float to_float(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  // Moved to float32's place, the exponent is 112 too small; multiplying sets it right, and makes
  // normal numbers of subnormal ones.
  const float magnitude = __builtin_bit_cast(float, rest << 13) * 0x1p112f;
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, magnitude);
  return __builtin_bit_cast(float, sign | (rest >= 0x7c00u ? bits | 0x7f800000u : bits));
}

inline void from_float(float x, float* to) { *to = x; }

// Both round to nearest, ties to even.
inline void from_float(float x, BFloat16* to) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to->bits = static_cast<std::uint16_t>(nan ? 0x7fc0u : rounded);
}

inline void from_float(float x, Float16* to) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  std::uint32_t half;
  if (rest > 0x7f800000u) {
    half = 0x7e00u;
  } else if (rest >= 0x477ff000u) {  // rounds to 65520 or more
    half = 0x7c00u;
  } else if (rest < 0x38800000u) {
    // Below the smallest normal number: adding 0.5 leaves the rounded multiple of 2^-24 in the low
    // bits.
    half = __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, rest) + 0.5f) - 0x3f000000u;
  } else {
    half = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  }
  to->bits = static_cast<std::uint16_t>(sign | half);
}

}  // namespace
}  // namespace l1sparse
