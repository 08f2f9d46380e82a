// SPDX-License-Identifier: MIT
// Types of activations. Weights, sums and biases are float32 whatever the activations are.
#pragma once

#include <cstdint>

namespace l1sparse {

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

enum class DType : std::int32_t { float32, bfloat16, float16 };
constexpr int kDTypeCount = 3;

constexpr std::int64_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

}  // namespace l1sparse
