// SPDX-License-Identifier: MIT
// Which strategy a weight is packed for.
#pragma once

#include "format/packed.h"

namespace l1sparse {

// The strategy that is expected to be fastest whatever the input's size and layout will be, for a
// weight whose groups `grid_mask` keeps (one byte a group);
// docs/kernels.md has the measurements that the rule stands on.
Strategy choose_strategy(const WeightShape& shape, const GroupGrid& grid,
                         const std::uint8_t* grid_mask);

}  // namespace l1sparse
