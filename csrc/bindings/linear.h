// SPDX-License-Identifier: MIT
// The operator of dense linear layers.
#pragma once

#include <optional>

#include "bindings/tensors.h"

namespace l1sparse::bindings {

// Of an input [batch, features], or of the averages over the pixels of [batch, features, h, w].
Tensor linear(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias);

}  // namespace l1sparse::bindings
