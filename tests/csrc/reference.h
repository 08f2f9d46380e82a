// SPDX-License-Identifier: MIT
// What the core is compared with: plain loops in double precision; and makers of random problems.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
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

inline std::vector<Strategy> strategies() {
  return {
#define L1SPARSE_STRATEGY(name) Strategy::name,
#include "format/strategy.inc"
#undef L1SPARSE_STRATEGY
  };
}

inline std::vector<Isa> usable_isas() {
  std::vector<Isa> isas;
  for (int i = 0; i < kIsaCount; ++i) {
    if (isa_usable(static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  }
  return isas;
}

inline std::vector<float> random_values(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = random.value();
  return values;
}

// What is left of them as bfloat16 numbers.
inline void round_to_bfloat16(std::vector<float>& values) {
  for (float& value : values) {
    BFloat16 rounded;
    from_float(value, &rounded);
    value = to_float(rounded);
  }
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

// ---- elements of any type --------------------------------------------------------------------

// The number that a 16-bit type writes so, decoded independently of the core.
inline double decoded(DType dtype, std::uint16_t bits) {
  if (dtype == DType::bfloat16) return std::bit_cast<float>(std::uint32_t{bits} << 16);
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * HUGE_VAL;
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

inline double element(DType dtype, const void* data, std::int64_t at) {
  if (dtype == DType::float32) return static_cast<const float*>(data)[at];
  return decoded(dtype, static_cast<const std::uint16_t*>(data)[at]);
}

inline void set_element(DType dtype, void* data, std::int64_t at, float value) {
  if (dtype == DType::float32) from_float(value, static_cast<float*>(data) + at);
  if (dtype == DType::bfloat16) from_float(value, static_cast<BFloat16*>(data) + at);
  if (dtype == DType::float16) from_float(value, static_cast<Float16*>(data) + at);
}

// x rounded to the nearest value of the type, ties to even.
inline double nearest(DType dtype, double x) {
  struct Format {
    int digits, least, most;  // exponents of the smallest normal and of the largest value
  };
  constexpr Format kFormats[kDTypeCount] = {{24, -126, 127}, {8, -126, 127}, {11, -14, 15}};
  const Format format = kFormats[static_cast<int>(dtype)];
  if (x == 0.0 || !std::isfinite(x)) return x;
  const int exponent = std::ilogb(x) < format.least ? format.least : std::ilogb(x);
  const int ulp = exponent - format.digits + 1;
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -ulp)), ulp);
  return std::fabs(rounded) < std::ldexp(1.0, format.most + 1) ? rounded
                                                               : std::copysign(HUGE_VAL, x);
}

// An array in memory of exactly its size.
class Elements {
 public:
  Elements() = default;
  Elements(DType dtype, std::int64_t count, float value)
      : dtype_(dtype), bytes_(static_cast<std::size_t>(count * size_of(dtype))) {
    for (std::int64_t i = 0; i < count; ++i) set(i, value);
  }

  std::int64_t count() const { return static_cast<std::int64_t>(bytes_.size()) / size_of(dtype_); }
  double at(std::int64_t i) const { return element(dtype_, bytes_.data(), i); }
  void set(std::int64_t i, float value) { set_element(dtype_, bytes_.data(), i, value); }
  const void* data() const { return bytes_.empty() ? nullptr : bytes_.data(); }
  void* data() { return bytes_.empty() ? nullptr : bytes_.data(); }
  bool same_bits(const Elements& other) const { return bytes_ == other.bytes_; }

 private:
  DType dtype_ = DType::float32;
  std::vector<std::uint8_t> bytes_;
};

inline Elements random_elements(Random& random, DType dtype, std::int64_t count) {
  Elements elements(dtype, count, 0.0f);
  for (std::int64_t i = 0; i < count; ++i) elements.set(i, random.value());
  return elements;
}

// ---- convolution ----------------------------------------------------------------------------

inline AlignedBytes packed_weight(const WeightShape& shape, const std::vector<float>& weight,
                                  const std::vector<std::uint8_t>& grid_mask, Strategy strategy) {
  std::int64_t bytes = 0;
  packed_bytes(shape, grid_mask.data(), strategy, &bytes);
  AlignedBytes packed(bytes);
  pack(shape, weight.data(), grid_mask.data(), strategy, packed.data(), bytes);
  return packed;
}

// Whose kernels the problem runs on this instruction set.
inline std::string kernels_of(const Conv2dProblem& problem, Isa isa) {
  const PackedView& weight = problem.weight;
  const bool pairs = isa_name(isa) == std::string("avx512_bf16") &&
                     problem.dtype == DType::bfloat16 && weight.strategy == Strategy::pixels &&
                     weight.bfloat16_values && weight.grid.channels % 2 == 0 &&
                     weight.grid.channels >= 4;
  return pairs ? isa_name(isa) : name_of_kernels(isa);
}

// Outputs of the convolution, and what is left of them after its pooling.
inline std::int64_t output_count(const Conv2dProblem& problem) {
  return problem.batch * problem.weight.shape.out_channels * problem.out_h * problem.out_w;
}
inline std::int64_t result_count(const Conv2dProblem& problem) {
  const MaxPool& pool = problem.pool;
  if (pool.kernel_h == 0) return output_count(problem);
  return problem.batch * problem.weight.shape.out_channels * pool.out_h * pool.out_w;
}

// Index of an output, and of its residual.
inline std::int64_t output_index(const Conv2dProblem& problem, std::int64_t n, std::int64_t o,
                                 std::int64_t y, std::int64_t x) {
  const std::int64_t filters = problem.weight.shape.out_channels;
  const std::int64_t nhwc = ((n * problem.out_h + y) * problem.out_w + x) * filters + o;
  const std::int64_t nchw = ((n * filters + o) * problem.out_h + y) * problem.out_w + x;
  return problem.channels_last ? nhwc : nchw;
}

// One output, and how far from it the core may be.
//
// Of n terms that are added in float32, in any order, each passes through at most n - 1 rounded
// sums, and a product through its own rounding before; each is a factor of 1 +- u, u = 2^-24. So r
// roundings put the sum off by at most r u / (1 - r u) times the sum of the terms' absolute values
// (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). ReLU and clamp add nothing to
// that. Hardswish multiplies it by its steepest slope, 1.5, and adds four roundings of its own: the
// gate, the constant 1/6, and two products.
class Expected {
 public:
  double value = 0.0;
  double error = 0.0;  // before the output is rounded to its type

  void add(double term) {
    value += term;
    magnitude_ += std::fabs(term);
    ++terms_;
  }
  void add_product(double a, double b) {
    add(a * b);
    products_rounded_ = 1;
  }

  void finish(const Conv2dProblem& problem) {
    const std::int64_t roundings = (terms_ > 0 ? terms_ - 1 : 0) + products_rounded_;
    const double off = static_cast<double>(roundings) * kUnit;
    error = off / (1.0 - off) * magnitude_;
    if (problem.activation == Activation::relu && value < 0.0) value = 0.0;
    if (problem.activation == Activation::clamp) {
      if (value < problem.low) value = problem.low;
      if (value > problem.high) value = problem.high;
    }
    if (problem.activation == Activation::hardswish) {
      const double gate = value + 3.0 < 0.0 ? 0.0 : value + 3.0 > 6.0 ? 6.0 : value + 3.0;
      value = value * gate / 6.0;
      error = 1.5 * error;
      error += 4.01 * kUnit * (std::fabs(value) + error);
    }
  }

  // Whether `got` is what some number within the error rounds to.
  bool accepts(DType dtype, double got) const {
    if (std::isnan(value)) return std::isnan(got);
    if (std::isinf(value)) return got == value;
#if defined(__arm__)
    // Its vectors take what is below the smallest normal number for zero.
    if (std::fabs(value) < 0x1p-126 && got == 0.0) return true;
#endif
    return nearest(dtype, value - error) <= got && got <= nearest(dtype, value + error);
  }

 private:
  static constexpr double kUnit = 0x1p-24;
  double magnitude_ = 0.0;
  std::int64_t terms_ = 0, products_rounded_ = 0;
};

// Every output, in the memory order that the problem asks for. `kept` has one byte a weight.
inline std::vector<Expected> conv2d(const Conv2dProblem& problem, const Conv2dTensors& tensors,
                                    const std::vector<float>& weight,
                                    const std::vector<std::uint8_t>& kept) {
  struct Kept {
    std::int64_t channel, row, col;  // of the input, for the first output
    double weight;
  };
  const WeightShape& shape = problem.weight.shape;
  const Strides4& strides = problem.input_strides;
  std::vector<Expected> outputs(static_cast<std::size_t>(output_count(problem)));
  std::vector<Kept> kept_weights;
  for (std::int64_t o = 0; o < shape.out_channels; ++o) {
    const std::int64_t group = o / (shape.out_channels / problem.groups);
    kept_weights.clear();
    std::int64_t at = o * shape.in_channels * shape.kernel_h * shape.kernel_w;
    for (std::int64_t c = 0; c < shape.in_channels; ++c) {
      for (std::int64_t i = 0; i < shape.kernel_h; ++i) {
        for (std::int64_t j = 0; j < shape.kernel_w; ++j, ++at) {
          if (kept[static_cast<std::size_t>(at)] == 0) continue;
          kept_weights.push_back(
              {group * shape.in_channels + c, i * problem.dilation_h - problem.pad_top,
               j * problem.dilation_w - problem.pad_left, weight[static_cast<std::size_t>(at)]});
        }
      }
    }
    for (std::int64_t n = 0; n < problem.batch; ++n) {
      for (std::int64_t y = 0; y < problem.out_h; ++y) {
        for (std::int64_t x = 0; x < problem.out_w; ++x) {
          const std::int64_t index = output_index(problem, n, o, y, x);
          Expected& output = outputs[static_cast<std::size_t>(index)];
          for (const Kept& term : kept_weights) {
            const std::int64_t row = y * problem.stride_h + term.row;
            const std::int64_t col = x * problem.stride_w + term.col;
            if (row < 0 || row >= problem.in_h || col < 0 || col >= problem.in_w) continue;
            output.add_product(term.weight, element(problem.dtype, tensors.input,
                                                    n * strides.n + term.channel * strides.c +
                                                        row * strides.h + col * strides.w));
          }
          if (tensors.bias != nullptr) output.add(tensors.bias[o]);
          if (tensors.residual != nullptr) {
            output.add(element(problem.dtype, tensors.residual, index));
          }
          output.finish(problem);
        }
      }
    }
  }
  return outputs;
}

// Of every window of the problem's pooling the greatest output. The greatest of numbers that are
// each off by some error is off by no more than the largest of these.
inline std::vector<Expected> max_pool(const Conv2dProblem& problem,
                                      const std::vector<Expected>& outputs) {
  const MaxPool& pool = problem.pool;
  std::vector<Expected> pooled;
  for (std::int64_t plane = 0; plane < problem.batch * problem.weight.shape.out_channels; ++plane) {
    for (std::int64_t at = 0; at < pool.out_h * pool.out_w; ++at) {
      Expected greatest;
      greatest.value = -HUGE_VAL;
      for (std::int64_t i = 0; i < pool.kernel_h * pool.kernel_w; ++i) {
        const std::int64_t y = at / pool.out_w * pool.stride_h - pool.pad_top + i / pool.kernel_w;
        const std::int64_t x = at % pool.out_w * pool.stride_w - pool.pad_left + i % pool.kernel_w;
        if (y < 0 || y >= problem.out_h || x < 0 || x >= problem.out_w) continue;
        const Expected& one =
            outputs[static_cast<std::size_t>((plane * problem.out_h + y) * problem.out_w + x)];
        if (one.error > greatest.error) greatest.error = one.error;
        if (std::isnan(one.value) || one.value > greatest.value) greatest.value = one.value;
        if (std::isnan(greatest.value)) break;
      }
      pooled.push_back(greatest);
    }
  }
  return pooled;
}

}  // namespace l1sparse::reference
