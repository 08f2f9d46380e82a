// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace l1sparse {

// What is done to an output last. Each gives NaN for NaN.
enum class Activation : std::int32_t {
  none,
  relu,
  clamp,      // to low .. high
  hardswish,  // x * clamp(x + 3, 0, 6) / 6
};

}  // namespace l1sparse
