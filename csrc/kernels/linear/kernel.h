// SPDX-License-Identifier: MIT
// What an instruction set supplies: the average of pixels, and some rows of a weight times inputs.
#pragma once

#include <cstdint>

namespace l1sparse {

// averages[i] = the average of input[i * pixels] and the pixels - 1 numbers after it.
struct AverageJob {
  const float* input;
  std::int64_t count, pixels;
  float* averages;
};

// output[n * out_pitch + o] for the rows o of the weight, first <= o < end, and all n < batch.
struct LinearRowsJob {
  const float* input;  // [batch][in_features]
  const float* weight;
  const float* bias;  // or null
  std::int64_t batch, in_features, out_pitch;
  std::int64_t first, end;
  float* output;
};

struct LinearKernels {
  void (*average)(const AverageJob& job);
  void (*rows)(const LinearRowsJob& job);
};

#define L1SPARSE_ISA(name, kernels) extern const LinearKernels linear_##kernels;
#include "base/isa.inc"
#undef L1SPARSE_ISA

}  // namespace l1sparse
