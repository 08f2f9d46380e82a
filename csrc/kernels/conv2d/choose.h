// SPDX-License-Identifier: MIT
// Which strategy a weight is packed for.
#pragma once

#include "format/packed.h"

namespace l1sparse {

// The strategy that is expected to be fastest whatever the input's size and layout will be;
// docs/kernels.md has the measurements that the rule stands on.
Strategy choose_strategy(const WeightShape& shape);

}  // namespace l1sparse
