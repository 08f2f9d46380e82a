// SPDX-License-Identifier: MIT
// Which strategy a weight is packed for.
#pragma once

#include <cstdint>

#include "format/packed.h"

namespace l1sparse {

// The strategy that is expected to be fastest, by a cost model that docs/kernels.md holds against
// measurements. `grid_mask` has one byte a group.
Strategy choose_strategy(const WeightShape& shape, const std::uint8_t* grid_mask);

}  // namespace l1sparse
