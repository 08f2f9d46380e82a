// SPDX-License-Identifier: MIT
// What an instruction set supplies: the norms of one filter group.
#pragma once

#include <cstdint>

namespace l1sparse {

struct GroupL1Job {
  const float* weight;  // [filters][channels][taps]
  std::int64_t filters, channels, taps;
  std::int64_t group_channels;
  float* norms;  // [ceil(channels / group_channels)][taps]
};

#define L1SPARSE_ISA(name, kernels) extern void (*const group_l1_##kernels)(const GroupL1Job& job);
#include "base/isa.inc"
#undef L1SPARSE_ISA

}  // namespace l1sparse
