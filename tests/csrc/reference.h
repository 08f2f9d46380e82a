// SPDX-License-Identifier: MIT
// What the core is compared with: plain loops in double precision; and makers of random problems.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "format/packed.h"
#include "kernels/conv2d/conv2d.h"
#include "memory.h"

namespace l1sparse::reference {

// ---- random problems ------------------------------------------------------------------------

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least +
           static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(most - least + 1));
  }
  bool chance(double probability) {
    return static_cast<double>(engine_() >> 11) * 0x1p-53 < probability;
  }
  float value() { return static_cast<float>(between(-4096, 4096)) / 4096.0f; }
  template <class T, std::size_t kCount>
  T one_of(const T (&choices)[kCount]) {
    return choices[engine_() % kCount];
  }

 private:
  std::mt19937_64 engine_;
};

inline std::vector<float> random_values(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = random.value();
  return values;
}

inline GroupGrid grid_of(const WeightShape& shape) {
  GroupGrid grid{};
  check_shape(shape, &grid);
  return grid;
}

inline std::int64_t weight_count(const WeightShape& shape) {
  return shape.out_channels * shape.in_channels * shape.kernel_h * shape.kernel_w;
}

inline std::vector<std::uint8_t> random_grid_mask(Random& random, const WeightShape& shape,
                                                  double density) {
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(grid_of(shape).groups()));
  for (std::uint8_t& keep : mask) keep = random.chance(density);
  return mask;
}

// ---- groups ---------------------------------------------------------------------------------

// Index of the group, in the group grid, that the weight at `index` of the dense weight belongs to.
inline std::size_t group_index(const WeightShape& shape, std::int64_t index) {
  const std::int64_t taps = shape.kernel_h * shape.kernel_w;
  const std::int64_t channel_groups =
      (shape.in_channels + shape.group_channels - 1) / shape.group_channels;
  const std::int64_t tap = index % taps;
  const std::int64_t channel = index / taps % shape.in_channels;
  const std::int64_t filter = index / taps / shape.in_channels;
  const std::int64_t row = filter / shape.group_filters * channel_groups;
  return static_cast<std::size_t>((row + channel / shape.group_channels) * taps + tap);
}

inline std::vector<std::uint8_t> dense_mask(const WeightShape& shape,
                                            const std::vector<std::uint8_t>& grid_mask) {
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(weight_count(shape)));
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask[i] = grid_mask[group_index(shape, static_cast<std::int64_t>(i))];
  }
  return mask;
}

inline std::vector<double> group_l1_norm(const WeightShape& shape,
                                         const std::vector<float>& weight) {
  std::vector<double> norms(static_cast<std::size_t>(grid_of(shape).groups()));
  std::vector<double> sizes(norms.size());
  for (std::size_t i = 0; i < weight.size(); ++i) {
    const std::size_t group = group_index(shape, static_cast<std::int64_t>(i));
    norms[group] += std::fabs(static_cast<double>(weight[i]));
    sizes[group] += 1.0;
  }
  for (std::size_t i = 0; i < norms.size(); ++i) norms[i] /= sizes[i];
  return norms;
}

// ---- convolution ----------------------------------------------------------------------------

inline AlignedBytes packed_weight(const WeightShape& shape, const std::vector<float>& weight,
                                  const std::vector<std::uint8_t>& grid_mask) {
  std::int64_t bytes = 0;
  packed_bytes(shape, grid_mask.data(), &bytes);
  AlignedBytes packed(bytes);
  pack(shape, weight.data(), grid_mask.data(), packed.data(), bytes);
  return packed;
}

inline std::int64_t output_count(const Conv2dProblem& problem) {
  return problem.batch * problem.weight.shape.out_channels * problem.out_h * problem.out_w;
}

// Index of an output, and of its residual.
inline std::size_t output_index(const Conv2dProblem& problem, std::int64_t n, std::int64_t o,
                                std::int64_t y, std::int64_t x) {
  const std::int64_t filters = problem.weight.shape.out_channels;
  const std::int64_t nhwc = ((n * problem.out_h + y) * problem.out_w + x) * filters + o;
  const std::int64_t nchw = ((n * filters + o) * problem.out_h + y) * problem.out_w + x;
  return static_cast<std::size_t>(problem.channels_last ? nhwc : nchw);
}

// One output, and the sum of the absolute values of its terms, which rounding errors scale with.
struct Expected {
  double value = 0.0, magnitude = 0.0;
  void add(double term) {
    value += term;
    magnitude += std::fabs(term);
  }
};

inline Expected conv2d_output(const Conv2dProblem& problem, const Conv2dTensors& tensors,
                              const std::vector<float>& weight,
                              const std::vector<std::uint8_t>& kept, std::int64_t n, std::int64_t o,
                              std::int64_t y, std::int64_t x) {
  const WeightShape& shape = problem.weight.shape;
  const Strides4& strides = problem.input_strides;
  const std::int64_t group = o / (shape.out_channels / problem.groups);
  Expected sum;
  for (std::int64_t c = 0; c < shape.in_channels; ++c) {
    for (std::int64_t i = 0; i < shape.kernel_h; ++i) {
      const std::int64_t row = y * problem.stride_h + i * problem.dilation_h - problem.pad_top;
      if (row < 0 || row >= problem.in_h) continue;
      for (std::int64_t j = 0; j < shape.kernel_w; ++j) {
        const std::int64_t col = x * problem.stride_w + j * problem.dilation_w - problem.pad_left;
        if (col < 0 || col >= problem.in_w) continue;
        const auto at = static_cast<std::size_t>(
            ((o * shape.in_channels + c) * shape.kernel_h + i) * shape.kernel_w + j);
        if (kept[at] == 0) continue;
        const float input =
            tensors.input[n * strides.n + (group * shape.in_channels + c) * strides.c +
                          row * strides.h + col * strides.w];
        sum.add(static_cast<double>(weight[at]) * static_cast<double>(input));
      }
    }
  }
  if (tensors.bias != nullptr) sum.add(tensors.bias[o]);
  if (tensors.residual != nullptr) sum.add(tensors.residual[output_index(problem, n, o, y, x)]);
  if (problem.activation == Activation::relu && sum.value < 0.0) sum.value = 0.0;
  return sum;
}

// Every output, in the memory order that the problem asks for.
inline std::vector<Expected> conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors,
                                    const std::vector<float>& weight,
                                    const std::vector<std::uint8_t>& kept) {
  std::vector<Expected> outputs(static_cast<std::size_t>(output_count(problem)));
  for (std::int64_t n = 0; n < problem.batch; ++n) {
    for (std::int64_t o = 0; o < problem.weight.shape.out_channels; ++o) {
      for (std::int64_t y = 0; y < problem.out_h; ++y) {
        for (std::int64_t x = 0; x < problem.out_w; ++x) {
          outputs[output_index(problem, n, o, y, x)] =
              conv2d_output(problem, tensors, weight, kept, n, o, y, x);
        }
      }
    }
  }
  return outputs;
}

}  // namespace l1sparse::reference
