// SPDX-License-Identifier: MIT
#include "kernels/conv2d/choose.h"

namespace l1sparse {
namespace {

// A column's activations are brought to registers once for all filters that kept it. With fewer
// filters than these and several taps, that costs more than summing up lanes at the end of every
// filter. One filter alone is not worth the planes either way, and pixels read NCHW in place.
constexpr std::int64_t kFewFilters = 4;

}  // namespace

Strategy choose_strategy(const WeightShape& shape) {
  const bool several_taps = shape.kernel_h * shape.kernel_w > 1;
  const bool few_filters = shape.out_channels > 1 && shape.out_channels <= kFewFilters;
  return several_taps && few_filters ? Strategy::channels : Strategy::pixels;
}

}  // namespace l1sparse
