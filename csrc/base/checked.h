// SPDX-License-Identifier: MIT
// Sizes that saturate instead of wrapping around: a product or sum that does not fit is
// kTooLarge, and stays so through every further step.
#pragma once

#include <cstdint>

namespace l1sparse {

constexpr std::int64_t kTooLarge = INT64_MAX;

inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  if (a == kTooLarge || b == kTooLarge || __builtin_mul_overflow(a, b, &product)) {
    return kTooLarge;
  }
  return product;
}

inline std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum;
  if (a == kTooLarge || b == kTooLarge || __builtin_add_overflow(a, b, &sum)) return kTooLarge;
  return sum;
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

inline std::int64_t round_up(std::int64_t a, std::int64_t multiple) {
  const std::int64_t count = ceil_div(a, multiple);
  return a == kTooLarge ? kTooLarge : checked_mul(count, multiple);
}

}  // namespace l1sparse
