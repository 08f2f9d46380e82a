// SPDX-License-Identifier: MIT
// One convolution for tests/test_instructions.py, which counts the instructions of conv2d():
//
//   instructions ISA STRATEGY GROUP FILTERS CHANNELS KERNEL
//
// on 28x28 pixels, "same" padding, groups like 1x8, three quarters of them pruned. Prints how many
// multiply-adds are kept.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/conv2d/conv2d.h"
#include "reference.h"

using namespace l1sparse;

int main(int argc, char** argv) {
  int group_filters = 0, group_channels = 0;
  if (argc != 7 || std::sscanf(argv[3], "%dx%d", &group_filters, &group_channels) != 2) return 2;
  constexpr std::int64_t kSize = 28;
  const std::int64_t filters = std::atoi(argv[4]), channels = std::atoi(argv[5]);
  const std::int64_t kernel = std::atoi(argv[6]);
  const WeightShape shape{filters, channels, kernel, kernel, group_filters, group_channels};
  reference::Random random(17);
  const std::vector<float> weight =
      reference::random_values(random, reference::weight_count(shape));
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(reference::grid_of(shape).groups()));
  for (std::size_t left = mask.size() / 4; left > 0;) {
    std::uint8_t& keep = mask[static_cast<std::size_t>(random.between(0, std::ssize(mask) - 1))];
    left -= keep == 0;
    keep = 1;
  }
  for (const Isa isa : reference::usable_isas()) {
    for (const Strategy strategy : reference::strategies()) {
      if (isa_name(isa) != std::string(argv[1])) continue;
      if (strategy_name(strategy) != std::string(argv[2])) continue;
      const AlignedBytes packed = reference::packed_weight(shape, weight, mask, strategy);
      Conv2dProblem problem{};
      if (!open_packed(packed.data(), packed.bytes(), &problem.weight).ok()) return 1;
      problem.batch = problem.groups = 1;
      problem.in_channels = channels;
      problem.in_h = problem.in_w = problem.out_h = problem.out_w = kSize;
      problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
      problem.pad_top = problem.pad_left = kernel / 2;
      problem.input_strides = {channels * kSize * kSize, kSize * kSize, kSize, 1};
      const std::vector<float> input = reference::random_values(random, channels * kSize * kSize);
      // As torch gives it: where an output begins within a cache line, other code runs.
      AlignedBytes output(reference::output_count(problem) * std::int64_t{sizeof(float)});
      std::int64_t bytes = 0;
      if (!conv2d_workspace(problem, isa, 1, &bytes).ok()) return 1;
      AlignedBytes workspace(bytes);
      const Conv2dTensors tensors{input.data(), nullptr, nullptr, output.data()};
      if (!conv2d(problem, tensors, isa, Parallel{}, workspace.data(), nullptr).ok()) return 1;
      std::printf("%lld\n", static_cast<long long>(kept_weights(problem.weight) * kSize * kSize));
      return 0;
    }
  }
  std::fprintf(stderr, "%s, %s: nothing that can be run here\n", argv[1], argv[2]);
  return 1;
}
