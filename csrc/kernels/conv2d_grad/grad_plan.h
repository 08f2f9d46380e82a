// SPDX-License-Identifier: MIT
// What the plans of both gradients are made of.
#pragma once

#include "kernels/conv2d/plan.h"
#include "kernels/conv2d_grad/conv2d_grad.h"
#include "kernels/conv2d_grad/kernel.h"

namespace l1sparse {

// Bytes of planes and gradients that a piece of work goes through again and again: half of a common
// 1 MiB second-level cache.
constexpr std::int64_t kGradBandBytes = 512 * 1024;

const Conv2dGradKernels& grad_kernels_for(Isa isa);

// Pieces of scratch memory, one after the other, each at a multiple of 64.
class Reserved {
 public:
  std::int64_t reserve(std::int64_t count, std::int64_t size) {
    const std::int64_t start = bytes_;
    bytes_ = round_up(checked_add(bytes_, checked_mul(count, size)), kAlignment);
    return start;
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::int64_t bytes_ = 0;
};

// Where the kept groups by column lie in scratch memory.
struct ByColumnAt {
  std::int64_t offsets, filter_group, place, groups;
};

ByColumnAt reserve_by_column(const PackedView& weight, Reserved* reserved);

// Sorts the kept groups; `memory` is the scratch memory that was reserved from.
ByColumn sort_by_column(const PackedView& weight, const ByColumnAt& at, char* memory);

// What both functions check first: that conv2d would take the problem.
Status check_grad(const Conv2dGradProblem& problem);

// The filters of convolution group `group`.
inline FilterRange filters_of(const Conv2dProblem& conv, std::int64_t group) {
  const std::int64_t filters = conv.weight.shape.out_channels / conv.groups;
  return {group * filters, (group + 1) * filters};
}

// The channels of channel group `group` that exist.
inline std::int64_t channels_of(const PackedView& weight, std::int64_t group) {
  return smaller(weight.grid.channels, weight.shape.in_channels - group * weight.grid.channels);
}

}  // namespace l1sparse
