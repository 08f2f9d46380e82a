// SPDX-License-Identifier: MIT
#include "kernels/group_l1/group_l1.h"

#include "kernels/group_l1/kernel.h"

namespace l1sparse {
namespace {

using Kernel = void (*)(const GroupL1Job&);

Kernel kernel_for(Isa isa) {
  static constexpr const Kernel* kKernels[] = {
#define L1SPARSE_ISA(name, kernels) &group_l1_##kernels,
#include "base/isa.inc"
#undef L1SPARSE_ISA
  };
  return *kKernels[static_cast<int>(isa)];
}

struct Run {
  const WeightShape& shape;
  const GroupGrid& grid;
  const float* weight;
  float* norms;
  Kernel kernel;
};

void run_filter_group(void* context, std::int64_t index) {
  const Run& run = *static_cast<const Run*>(context);
  const std::int64_t first = index * run.shape.group_filters;
  const std::int64_t left = run.shape.out_channels - first;
  GroupL1Job job;
  job.weight = run.weight + first * run.shape.in_channels * run.grid.taps;
  job.filters = left < run.shape.group_filters ? left : run.shape.group_filters;
  job.channels = run.shape.in_channels;
  job.taps = run.grid.taps;
  job.group_channels = run.shape.group_channels;
  job.norms = run.norms + index * run.grid.columns();
  run.kernel(job);
}

}  // namespace

Status group_l1_norm(const WeightShape& shape, const float* weight, float* norms, Isa isa,
                     const Parallel& parallel) {
  GroupGrid grid;
  if (Status status = check_shape(shape, &grid); !status.ok()) return status;
  Run run{shape, grid, weight, norms, kernel_for(isa)};
  parallel.for_each(grid.filter_groups, run_filter_group, &run);
  return {};
}

}  // namespace l1sparse
