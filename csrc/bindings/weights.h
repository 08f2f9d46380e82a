// SPDX-License-Identifier: MIT
// Operators on weights: norms of groups, packing and unpacking; and packed weights as arguments.
#pragma once

#include <string>
#include <vector>

#include "bindings/tensors.h"
#include "format/packed.h"

namespace l1sparse::bindings {

// The packed weight in a tensor, checked.
PackedView open(const Tensor& packed);

// A compiler of the caller's program has to know the shape before the bytes exist, so callers state
// it; here it is held against what the bytes say.
PackedView open_as(const Tensor& packed, const std::vector<int64_t>& weight_shape);

Tensor group_l1_norm(const Tensor& weight, std::vector<int64_t> group);

Tensor pack(const Tensor& weight, const Tensor& mask, std::vector<int64_t> group,
            StringHandle strategy);

std::vector<int64_t> packed_info(const Tensor& packed);

Tensor unpack(const Tensor& packed, std::vector<int64_t> weight_shape);

}  // namespace l1sparse::bindings
