// SPDX-License-Identifier: MIT
#include "bindings/weights.h"

#include <array>
#include <atomic>

#include "base/isa.h"
#include "kernels/conv2d/choose.h"
#include "kernels/group_l1/group_l1.h"

namespace l1sparse::bindings {
namespace {

l1sparse::WeightShape weight_shape(const Tensor& weight, const std::vector<int64_t>& group) {
  check_float("weight", weight, 4);
  const auto [filters, channels] = pair("group", group);
  return {weight.size(0), weight.size(1), weight.size(2), weight.size(3), filters, channels};
}

// Remembers which buffers passed l1sparse::verify_packed. Memory safety does not rest on it:
// l1sparse::open_packed runs at every call. So a table that forgets, and a second buffer that is
// taken for one seen before because address, size and checksum agree, do no harm.
class VerifiedBuffers {
 public:
  bool contains(uint64_t key) const { return slot(key).load(std::memory_order_relaxed) == key; }
  void insert(uint64_t key) { slot(key).store(key, std::memory_order_relaxed); }

  static uint64_t key_of(const void* data, int64_t bytes, uint64_t checksum) {
    uint64_t key = reinterpret_cast<std::uintptr_t>(data) ^ (static_cast<uint64_t>(bytes) << 40);
    return ((key * 0x9e3779b97f4a7c15ULL) ^ checksum) | 1;  // never the empty slot's 0
  }

 private:
  static constexpr size_t kSlots = 4096;
  const std::atomic<uint64_t>& slot(uint64_t key) const { return slots_[(key >> 17) % kSlots]; }
  std::atomic<uint64_t>& slot(uint64_t key) { return slots_[(key >> 17) % kSlots]; }
  std::array<std::atomic<uint64_t>, kSlots> slots_{};
};

VerifiedBuffers verified;

// One byte a group, from a bool mask of the group grid's or of the weight's shape.
std::vector<uint8_t> grid_mask_of(const Tensor& mask, const l1sparse::WeightShape& shape,
                                  const l1sparse::GroupGrid& grid) {
  check_tensor("mask", mask, mask.scalar_type() == ScalarType::Bool, "bool", 4);
  const auto has_shape = [&mask](std::array<int64_t, 4> wanted) {
    for (int64_t i = 0; i < 4; ++i) {
      if (mask.size(i) != wanted[static_cast<size_t>(i)]) return false;
    }
    return true;
  };
  const Tensor contiguous = torch::stable::contiguous(mask);
  const auto* bytes = static_cast<const uint8_t*>(contiguous.const_data_ptr());
  if (has_shape({grid.filter_groups, grid.channel_groups, shape.kernel_h, shape.kernel_w})) {
    return {bytes, bytes + grid.groups()};
  }
  if (!has_shape({shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w})) {
    fail("mask: has shape " + shape_text(mask) + ", expected the weight's [" +
         std::to_string(shape.out_channels) + ", " + std::to_string(shape.in_channels) + ", " +
         std::to_string(shape.kernel_h) + ", " + std::to_string(shape.kernel_w) +
         "] or the group grid's [" + std::to_string(grid.filter_groups) + ", " +
         std::to_string(grid.channel_groups) + ", " + std::to_string(shape.kernel_h) + ", " +
         std::to_string(shape.kernel_w) + "]");
  }
  std::vector<uint8_t> grid_mask(static_cast<size_t>(grid.groups()));
  check(l1sparse::mask_to_grid(shape, bytes, grid_mask.data()));
  return grid_mask;
}

// The strategy called `name`; "auto" picks one by the shape and by how many groups are kept.
l1sparse::Strategy strategy_of(const std::string& name, const l1sparse::WeightShape& shape,
                               const l1sparse::GroupGrid& grid,
                               const std::vector<uint8_t>& grid_mask) {
  if (name == "auto") return l1sparse::choose_strategy(shape, grid, grid_mask.data());
  std::string names = "'auto'";
  for (int i = 0; i < l1sparse::kStrategyCount; ++i) {
    const auto strategy = static_cast<l1sparse::Strategy>(i);
    if (name == l1sparse::strategy_name(strategy)) return strategy;
    names += std::string(", '") + l1sparse::strategy_name(strategy) + "'";
  }
  fail("strategy: got '" + name + "', expected one of " + names);
}

}  // namespace

l1sparse::PackedView open(const Tensor& packed) {
  check_tensor("packed", packed, packed.scalar_type() == ScalarType::Byte, "uint8", 1);
  if (!packed.is_contiguous()) fail("packed: is not contiguous, expected a result of pack()");
  const void* data = packed.const_data_ptr();
  l1sparse::PackedView view;
  check(l1sparse::open_packed(data, packed.numel(), &view));
  const uint64_t key = VerifiedBuffers::key_of(data, packed.numel(), view.checksum);
  if (!verified.contains(key)) {
    check(l1sparse::verify_packed(data, packed.numel(), view));
    verified.insert(key);
  }
  return view;
}

Tensor group_l1_norm(const Tensor& weight, std::vector<int64_t> group) {
  const l1sparse::WeightShape shape = weight_shape(weight, group);
  l1sparse::GroupGrid grid;
  check(l1sparse::check_shape(shape, &grid));
  const Tensor dense = as_float32(weight);
  Tensor norms = empty({grid.filter_groups, grid.channel_groups, shape.kernel_h, shape.kernel_w},
                       ScalarType::Float);
  check(l1sparse::group_l1_norm(shape, static_cast<const float*>(dense.const_data_ptr()),
                                static_cast<float*>(norms.mutable_data_ptr()),
                                l1sparse::selected_isa(), torch_threads()));
  return norms;
}

Tensor pack(const Tensor& weight, const Tensor& mask, std::vector<int64_t> group,
            StringHandle strategy) {
  const std::string strategy_name = take_string(strategy);
  const l1sparse::WeightShape shape = weight_shape(weight, group);
  l1sparse::GroupGrid grid;
  check(l1sparse::check_shape(shape, &grid));
  const std::vector<uint8_t> grid_mask = grid_mask_of(mask, shape, grid);
  const Tensor dense = as_float32(weight);
  const l1sparse::Strategy chosen = strategy_of(strategy_name, shape, grid, grid_mask);
  int64_t bytes = 0;
  check(l1sparse::packed_bytes(shape, grid_mask.data(), chosen, &bytes));
  Tensor packed = empty({bytes}, ScalarType::Byte);
  check(l1sparse::pack(shape, static_cast<const float*>(dense.const_data_ptr()), grid_mask.data(),
                       chosen, packed.mutable_data_ptr(), bytes));
  return packed;
}

l1sparse::PackedView open_as(const Tensor& packed, const std::vector<int64_t>& weight_shape) {
  const l1sparse::PackedView view = open(packed);
  const l1sparse::WeightShape& shape = view.shape;
  const std::vector<int64_t> actual{shape.out_channels, shape.in_channels, shape.kernel_h,
                                    shape.kernel_w};
  if (weight_shape != actual) {
    std::string text = "weight_shape: got [";
    for (size_t i = 0; i < weight_shape.size(); ++i) {
      text += (i == 0 ? "" : ", ") + std::to_string(weight_shape[i]);
    }
    text += "], expected the packed weight's [";
    for (size_t i = 0; i < actual.size(); ++i) {
      text += (i == 0 ? "" : ", ") + std::to_string(actual[i]);
    }
    fail(text + "]");
  }
  return view;
}

std::vector<int64_t> packed_info(const Tensor& packed) {
  const l1sparse::PackedView view = open(packed);
  const l1sparse::WeightShape& shape = view.shape;
  return {shape.out_channels,
          shape.in_channels,
          shape.kernel_h,
          shape.kernel_w,
          shape.group_filters,
          shape.group_channels,
          view.kept_groups,
          l1sparse::kept_weights(view),
          static_cast<int64_t>(view.strategy)};
}

Tensor unpack(const Tensor& packed, std::vector<int64_t> weight_shape) {
  const l1sparse::PackedView view = open_as(packed, weight_shape);
  // Reading everything anyway, it can afford to check everything, each time.
  check(l1sparse::verify_packed(packed.const_data_ptr(), packed.numel(), view));
  const l1sparse::WeightShape& shape = view.shape;
  Tensor weight = empty({shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w},
                        ScalarType::Float);
  l1sparse::unpack(view, static_cast<float*>(weight.mutable_data_ptr()));
  return weight;
}

}  // namespace l1sparse::bindings
