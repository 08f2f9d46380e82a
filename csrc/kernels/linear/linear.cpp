// SPDX-License-Identifier: MIT
#include "kernels/linear/linear.h"

#include "base/checked.h"
#include "kernels/linear/kernel.h"

namespace l1sparse {
namespace {

// Rows that a thread takes at once: whole batches of every instruction set.
constexpr std::int64_t kPartRows = 32;

const LinearKernels& kernels_for(Isa isa) {
  static constexpr const LinearKernels* kTables[] = {
#define L1SPARSE_ISA(name, kernels) &linear_##kernels,
#include "base/isa.inc"
#undef L1SPARSE_ISA
  };
  return *kTables[static_cast<int>(isa)];
}

struct Run {
  LinearRowsJob job;
  std::int64_t rows;
  void (*kernel)(const LinearRowsJob& job);
};

void run_part(void* context, std::int64_t index) {
  const Run& run = *static_cast<const Run*>(context);
  LinearRowsJob job = run.job;
  job.first = index * kPartRows;
  job.end = job.first + kPartRows < run.rows ? job.first + kPartRows : run.rows;
  run.kernel(job);
}

}  // namespace

Status linear_workspace(const LinearProblem& problem, std::int64_t* bytes) {
  const std::int64_t averages = problem.pixels == 1 ? 0 : problem.in_features;
  *bytes = checked_mul(checked_mul(problem.batch, averages), sizeof(float));
  return *bytes == kTooLarge ? Status{Code::too_large, kTooLarge, 0} : Status{};
}

Status linear(const LinearProblem& problem, const LinearTensors& tensors, Isa isa,
              const Parallel& parallel, void* workspace) {
  std::int64_t bytes = 0;
  if (Status status = linear_workspace(problem, &bytes); !status.ok()) return status;
  const LinearKernels& kernels = kernels_for(isa);
  const float* input = tensors.input;
  if (problem.pixels != 1) {
    auto* const averages = static_cast<float*>(workspace);
    kernels.average({input, problem.batch * problem.in_features, problem.pixels, averages});
    input = averages;
  }
  Run run{{input, tensors.weight, tensors.bias, problem.batch, problem.in_features,
           problem.out_features, 0, 0, tensors.output},
          problem.out_features,
          kernels.rows};
  parallel.for_each(ceil_div(problem.out_features, kPartRows), run_part, &run);
  return {};
}

}  // namespace l1sparse
