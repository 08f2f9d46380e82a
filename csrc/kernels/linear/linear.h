// SPDX-License-Identifier: MIT
// A dense linear layer for few images, whose time is that of reading its weight from memory; if
// wanted after the average over each channel's pixels.
//
//   output[n, o] = bias[o] + sum over f: weight[o, f] * input[n, f]
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "base/parallel.h"
#include "base/status.h"

namespace l1sparse {

struct LinearProblem {
  std::int64_t batch, in_features, out_features;
  std::int64_t pixels;  // of a feature, of which the average is taken; 1: it is a number
};

struct LinearTensors {
  const float* input;   // [batch, in_features, pixels]
  const float* weight;  // [out_features, in_features]
  const float* bias;    // [out_features], or null
  float* output;        // [batch, out_features]
};

// Bytes of scratch memory that linear() needs.
Status linear_workspace(const LinearProblem& problem, std::int64_t* bytes);

// Computes the layer; `workspace` has linear_workspace's bytes. Every output is summed up in one
// order, whatever the number of threads and images.
Status linear(const LinearProblem& problem, const LinearTensors& tensors, Isa isa,
              const Parallel& parallel, void* workspace);

}  // namespace l1sparse
