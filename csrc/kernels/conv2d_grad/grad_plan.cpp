// SPDX-License-Identifier: MIT
#include "kernels/conv2d_grad/grad_plan.h"

#include <cstring>

namespace l1sparse {

const Conv2dGradKernels& grad_kernels_for(Isa isa) {
  static constexpr const Conv2dGradKernels* kTables[] = {
#define L1SPARSE_ISA(name, kernels) &conv2d_grad_##kernels,
#include "base/isa.inc"
#undef L1SPARSE_ISA
  };
  return *kTables[static_cast<int>(isa)];
}

ByColumnAt reserve_by_column(const PackedView& weight, Reserved* reserved) {
  ByColumnAt at;
  at.offsets = reserved->reserve(checked_add(weight.grid.columns(), 1), sizeof(std::uint32_t));
  at.filter_group = reserved->reserve(weight.kept_groups, sizeof(std::uint32_t));
  at.place = reserved->reserve(weight.kept_groups, sizeof(std::uint32_t));
  at.groups = reserved->reserve(weight.kept_groups, sizeof(KeptGroup));
  return at;
}

ByColumn sort_by_column(const PackedView& weight, const ByColumnAt& at, char* memory) {
  auto* const offsets = reinterpret_cast<std::uint32_t*>(memory + at.offsets);
  auto* const filter_group = reinterpret_cast<std::uint32_t*>(memory + at.filter_group);
  auto* const place = reinterpret_cast<std::uint32_t*>(memory + at.place);
  auto* const groups = reinterpret_cast<KeptGroup*>(memory + at.groups);
  list_kept_groups(weight, groups);
  const std::int64_t columns = weight.grid.columns();
  std::memset(offsets, 0, static_cast<std::size_t>(columns + 1) * sizeof(std::uint32_t));
  // Counts; then where each column starts; then, moved on by every group that is
  // put down, where it ends, which is where the next one starts.
  for (std::int64_t i = 0; i < weight.kept_groups; ++i) ++offsets[groups[i].column];
  std::uint32_t start = 0;
  for (std::int64_t column = 0; column <= columns; ++column) {
    const std::uint32_t count = offsets[column];
    offsets[column] = start;
    start += count;
  }
  for (std::int64_t i = 0; i < weight.kept_groups; ++i) {
    const std::uint32_t to = offsets[groups[i].column]++;
    filter_group[to] = groups[i].filter_group;
    place[to] = static_cast<std::uint32_t>(i);
  }
  std::memmove(offsets + 1, offsets, static_cast<std::size_t>(columns) * sizeof(std::uint32_t));
  offsets[0] = 0;
  return {offsets, filter_group, place};
}

Status check_grad(const Conv2dGradProblem& problem) {
  const Conv2dProblem& conv = problem.conv;
  if (Status status = check_conv2d(conv); !status.ok()) return status;
  const std::int64_t least = smaller(conv.out_h, conv.out_w);
  return least < 1 ? Status{Code::empty_output, least, 1} : Status{};
}

}  // namespace l1sparse
