// SPDX-License-Identifier: MIT
// Mean absolute weight of every channel group on a GPU: the formula of group_l1.h.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace l1sparse {

struct GpuGroupL1 {
  std::int64_t out_channels, in_channels, taps;  // taps = kernel height * width
  std::int64_t group_filters, group_channels;
  DType dtype;         // of the weight
  const void* weight;  // [out_channels, in_channels, taps], contiguous
  float* norms;        // [ceil(filters / group's), ceil(channels / group's), taps], contiguous
};

// Launches on `stream` and returns a cudaError_t, 0 for success; waits for nothing. Sums are
// float32 and always in the same order.
int launch_group_l1(const GpuGroupL1& problem, void* stream);

}  // namespace l1sparse
