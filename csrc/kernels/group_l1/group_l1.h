// SPDX-License-Identifier: MIT
// Mean absolute weight of every channel group (claim 5 of CN111242287A; dividing by the group's own
// size, so that a shorter last group compares with the others, is this project's choice).
//
//   norms[i, j, tap] = mean over the filters o and channels c of group (i, j) of
//                      |weight[o, c, tap]|
#pragma once

#include "base/isa.h"
#include "base/parallel.h"
#include "base/status.h"
#include "format/packed.h"

namespace l1sparse {

// weight: [out_channels, in_channels, kernel_h, kernel_w]; norms: the group grid; both contiguous.
Status group_l1_norm(const WeightShape& shape, const float* weight, float* norms, Isa isa,
                     const Parallel& parallel);

}  // namespace l1sparse
