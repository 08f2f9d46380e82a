// SPDX-License-Identifier: MIT
// Packed weights, packing and group norms.
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "base/checked.h"
#include "base/isa.h"
#include "capi/arguments.h"
#include "kernels/conv2d/choose.h"
#include "kernels/group_l1/group_l1.h"

using namespace l1sparse;
using capi::Argument;
using capi::null_argument;

namespace l1sparse::capi {
namespace {

// What l1sparse_weight hides. The mark tells memory that was never opened from an opened weight.
struct OpenedWeight {
  std::uint64_t mark;
  PackedView view;
};
constexpr std::uint64_t kOpened = 0x4c31737061727365ULL;
static_assert(sizeof(OpenedWeight) <= sizeof(l1sparse_weight));
static_assert(alignof(OpenedWeight) <= alignof(l1sparse_weight));
static_assert(std::is_trivially_copyable_v<OpenedWeight>);

WeightShape core_shape(const l1sparse_shape& shape) {
  return {shape.out_channels, shape.in_channels,   shape.kernel_h,
          shape.kernel_w,     shape.group_filters, shape.group_channels};
}

l1sparse_status strategy_of(std::int32_t number, const WeightShape& shape, const GroupGrid& grid,
                            const std::uint8_t* grid_mask, Strategy* strategy) {
  if (number < 0 || number > kStrategyCount) {
    return out_of_range(Argument::strategy, number, number < 0 ? 0 : kStrategyCount);
  }
  *strategy = number == L1SPARSE_AUTO ? choose_strategy(shape, grid, grid_mask)
                                      : static_cast<Strategy>(number - 1);
  return kOk;
}
static_assert(static_cast<int>(Strategy::channels) == L1SPARSE_CHANNELS - 1);
static_assert(static_cast<int>(Strategy::pixels) == L1SPARSE_PIXELS - 1);
static_assert(static_cast<int>(Strategy::filters) == L1SPARSE_FILTERS - 1);

l1sparse_status open_weight(const void* packed, size_t bytes, bool verify,
                            l1sparse_weight* weight) {
  if (weight == nullptr) return null_argument(Argument::weight);
  *weight = {};
  if (packed == nullptr) return null_argument(Argument::packed);
  if (!std::in_range<std::int64_t>(bytes)) {
    return out_of_range(Argument::bytes, INT64_MAX, INT64_MAX - 1);
  }
  PackedView view;
  const auto size = static_cast<std::int64_t>(bytes);
  if (Status status = open_packed(packed, size, &view); !status.ok()) return status_of(status);
  if (verify) {
    if (Status status = verify_packed(packed, size, view); !status.ok()) return status_of(status);
  }
  new (weight->opaque) OpenedWeight{kOpened, view};
  return kOk;
}

}  // namespace

const PackedView* view_of(const l1sparse_weight* weight) {
  const auto* opened = reinterpret_cast<const OpenedWeight*>(weight->opaque);
  return opened->mark == kOpened ? &opened->view : nullptr;
}

}  // namespace l1sparse::capi

l1sparse_status l1sparse_weight_open(const void* packed, size_t bytes, l1sparse_weight* weight) {
  return capi::open_weight(packed, bytes, true, weight);
}

l1sparse_status l1sparse_weight_reopen(const void* packed, size_t bytes, l1sparse_weight* weight) {
  return capi::open_weight(packed, bytes, false, weight);
}

l1sparse_status l1sparse_weight_shape(const l1sparse_weight* weight, l1sparse_shape* shape) {
  if (weight == nullptr) return null_argument(Argument::weight);
  if (shape == nullptr) return null_argument(Argument::shape);
  const PackedView* view = capi::view_of(weight);
  if (view == nullptr) return capi::weight_not_open();
  const WeightShape& s = view->shape;
  *shape = {s.out_channels, s.in_channels,   s.kernel_h,
            s.kernel_w,     s.group_filters, s.group_channels};
  return capi::kOk;
}

l1sparse_status l1sparse_unpack(const l1sparse_weight* weight, float* dense) {
  if (weight == nullptr) return null_argument(Argument::weight);
  if (dense == nullptr) return null_argument(Argument::dense);
  const PackedView* view = capi::view_of(weight);
  if (view == nullptr) return capi::weight_not_open();
  unpack(*view, dense);
  return capi::kOk;
}

l1sparse_status l1sparse_grid(const l1sparse_shape* shape, int64_t grid[4]) {
  if (shape == nullptr) return null_argument(Argument::shape);
  if (grid == nullptr) return null_argument(Argument::grid);
  GroupGrid found;
  if (Status status = check_shape(capi::core_shape(*shape), &found); !status.ok()) {
    return capi::status_of(status);
  }
  grid[0] = found.filter_groups;
  grid[1] = found.channel_groups;
  grid[2] = shape->kernel_h;
  grid[3] = shape->kernel_w;
  return capi::kOk;
}

l1sparse_status l1sparse_pack_bytes(const l1sparse_shape* shape, const uint8_t* mask,
                                    int32_t strategy, size_t* bytes) {
  if (shape == nullptr) return null_argument(Argument::shape);
  if (mask == nullptr) return null_argument(Argument::mask);
  if (bytes == nullptr) return null_argument(Argument::bytes);
  const WeightShape weight = capi::core_shape(*shape);
  GroupGrid grid;
  if (Status status = check_shape(weight, &grid); !status.ok()) return capi::status_of(status);
  Strategy chosen = Strategy::pixels;
  if (l1sparse_status status = capi::strategy_of(strategy, weight, grid, mask, &chosen);
      status.code != 0) {
    return status;
  }
  std::int64_t size = 0;
  if (Status status = packed_bytes(weight, mask, chosen, &size); !status.ok()) {
    return capi::status_of(status);
  }
  if (!capi::fits_memory(size)) {
    return capi::status_of(Status{Code::too_large, kTooLarge, 0});
  }
  *bytes = static_cast<size_t>(size);
  return capi::kOk;
}

l1sparse_status l1sparse_pack(const l1sparse_shape* shape, const float* dense, const uint8_t* mask,
                              int32_t strategy, void* buffer, size_t bytes) {
  if (dense == nullptr) return null_argument(Argument::dense);
  if (buffer == nullptr) return null_argument(Argument::buffer);
  const auto past = reinterpret_cast<std::uintptr_t>(buffer) % kPackedAlignment;
  if (past != 0) {
    return {L1SPARSE_UNALIGNED, static_cast<std::int32_t>(Argument::buffer),
            static_cast<std::int64_t>(past), kPackedAlignment};
  }
  size_t expected = 0;
  if (l1sparse_status status = l1sparse_pack_bytes(shape, mask, strategy, &expected);
      status.code != 0) {
    return status;
  }
  if (!std::in_range<std::int64_t>(bytes)) {
    return capi::out_of_range(Argument::bytes, INT64_MAX, INT64_MAX - 1);
  }
  const WeightShape weight = capi::core_shape(*shape);
  Strategy chosen = Strategy::pixels;
  GroupGrid grid;
  check_shape(weight, &grid);
  capi::strategy_of(strategy, weight, grid, mask, &chosen);
  return capi::status_of(
      pack(weight, dense, mask, chosen, buffer, static_cast<std::int64_t>(bytes)));
}

l1sparse_status l1sparse_group_l1_norm(const l1sparse_shape* shape, const float* dense,
                                       const l1sparse_threads* threads, float* norms) {
  if (shape == nullptr) return null_argument(Argument::shape);
  if (dense == nullptr) return null_argument(Argument::dense);
  if (norms == nullptr) return null_argument(Argument::norms);
  if (!isa_usable(selected_isa())) return {L1SPARSE_NO_ISA, 0, 0, 0};
  Parallel parallel;
  if (l1sparse_status status = capi::parallel_of(threads, &parallel); status.code != 0) {
    return status;
  }
  return capi::status_of(
      group_l1_norm(capi::core_shape(*shape), dense, norms, selected_isa(), parallel));
}
