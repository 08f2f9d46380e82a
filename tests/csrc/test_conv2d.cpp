// SPDX-License-Identifier: MIT
// Chosen convolutions; fuzz_conv2d.cpp has random ones.
#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>

#include "check.h"
#include "kernels/conv2d/conv2d.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Elements;
using reference::Expected;
using reference::Random;

namespace {

constexpr std::int64_t kMost = 0x3fffffff;  // the largest stride, padding and dilation
constexpr DType kDTypes[] = {DType::float32, DType::bfloat16, DType::float16};
constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::clamp,
                                       Activation::hardswish};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A problem with all the memory that it needs, each piece of exactly the size that it may touch.
struct Owned {
  WeightShape shape;
  std::vector<float> weight;
  std::vector<std::uint8_t> grid_mask;
  std::vector<AlignedBytes> packed;  // for each strategy
  Conv2dProblem problem{};
  std::vector<float> bias;   // empty: none
  Elements input, residual;  // an empty residual: none

  Owned(Random& random, const WeightShape& shape, std::vector<std::uint8_t> grid_mask)
      : shape(shape),
        weight(reference::random_values(random, reference::weight_count(shape))),
        grid_mask(std::move(grid_mask)) {
    pack_weight();
    pack_for(Strategy::channels);
    problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
    problem.batch = problem.groups = 1;
    problem.in_channels = shape.in_channels;
  }

  void pack_weight() {
    packed.clear();
    for (const Strategy strategy : reference::strategies()) {
      packed.push_back(reference::packed_weight(shape, weight, grid_mask, strategy));
    }
  }

  void pack_for(Strategy strategy) {
    const AlignedBytes& bytes = packed[static_cast<std::size_t>(strategy)];
    CHECK(open_packed(bytes.data(), bytes.bytes(), &problem.weight).ok());
  }

  void set_output_size() {
    problem.out_h = conv_output_size(problem.in_h, 2 * problem.pad_top, shape.kernel_h,
                                     problem.stride_h, problem.dilation_h);
    problem.out_w = conv_output_size(problem.in_w, 2 * problem.pad_left, shape.kernel_w,
                                     problem.stride_w, problem.dilation_w);
  }

  Conv2dTensors tensors(void* output) const {
    return {input.data(), bias.empty() ? nullptr : bias.data(), residual.data(), output};
  }

  std::vector<Expected> expected() const {
    return reference::conv2d(problem, tensors(nullptr), weight,
                             reference::dense_mask(shape, grid_mask));
  }
};

struct Result {
  Code code;
  Elements output;
  std::string ran;
};

Result run(const Owned& owned, Isa isa, const Parallel& parallel) {
  Result result;
  result.output = Elements(owned.problem.dtype, reference::output_count(owned.problem), -7.25f);
  std::int64_t bytes = 0;
  result.code = conv2d_workspace(owned.problem, isa, parallel.threads, &bytes).code;
  if (result.code != Code::ok) return result;
  AlignedBytes workspace(bytes);
  std::memset(workspace.data(), 0xff, static_cast<std::size_t>(bytes));  // NaN
  const char* ran = "";
  result.code = conv2d(owned.problem, owned.tensors(result.output.data()), isa, parallel,
                       workspace.data(), &ran)
                    .code;
  result.ran = ran;
  return result;
}

bool all_accepted(const Elements& got, DType dtype, const std::vector<Expected>& expected) {
  for (std::int64_t i = 0; i < got.count(); ++i) {
    const Expected& output = expected[static_cast<std::size_t>(i)];
    if (output.accepts(dtype, got.at(i))) continue;
    std::printf("output %ld is %.9g, expected %.9g +- %.3g\n", static_cast<long>(i), got.at(i),
                output.value, output.error);
    return false;
  }
  return got.count() == static_cast<std::int64_t>(expected.size());
}

// With these weights, on every instruction set, under every strategy.
void check_these_weights(Owned& owned, const std::string& name) {
  const std::vector<Expected> expected = owned.expected();
  for (const Strategy strategy : reference::strategies()) {
    owned.pack_for(strategy);
    for (const Isa isa : reference::usable_isas()) {
      check::context = name + " on " + isa_name(isa) + ", " + strategy_name(strategy);
      const Result alone = run(owned, isa, Parallel{});
      CHECK_EQ(alone.code, Code::ok);
      CHECK_EQ(alone.ran,
               owned.problem.batch == 0 ? "" : reference::kernels_of(owned.problem, isa));
      CHECK(all_accepted(alone.output, owned.problem.dtype, expected));
      for (const std::int64_t threads : {3, 5}) {
        const Result threaded = run(owned, isa, parallel_threads(threads));
        CHECK_EQ(threaded.code, Code::ok);
        CHECK_EQ(threaded.ran, alone.ran);
        CHECK(threaded.output.same_bits(alone.output));
      }
    }
  }
}

void check_everywhere(Owned& owned, const std::string& name) {
  check_these_weights(owned, name);
  if (owned.problem.dtype != DType::bfloat16) return;
  reference::round_to_bfloat16(owned.weight);
  owned.pack_weight();
  check_these_weights(owned, name + ", bfloat16 weights");
}

// ---- sizes ----------------------------------------------------------------------------------

void set_input(Owned& owned, Random& random, std::int64_t height, std::int64_t width) {
  Conv2dProblem& problem = owned.problem;
  owned.input =
      reference::random_elements(random, problem.dtype, problem.in_channels * height * width);
  problem.in_h = height;
  problem.in_w = width;
  problem.input_strides = {problem.in_channels * height * width, height * width, width, 1};
}

// Larger than random problems are: several bands of rows and columns, blocks and filter ranges.
void test_large_problems() {
  struct Case {
    const char* name;
    WeightShape shape;
    std::int64_t height, width, padding, dilation;
  };
  constexpr Case kCases[] = {
      {"bands of rows", {4, 96, 3, 3, 1, 8}, 40, 40, 1, 1},
      {"bands of part of a row", {2, 128, 1, 3, 2, 16}, 6, 700, 1, 1},
      {"many channel blocks", {3, 500, 3, 3, 1, 16}, 7, 7, 1, 1},
      {"many filters, few outputs", {150, 20, 1, 1, 4, 4}, 2, 3, 0, 1},
      {"many straddling filters", {97, 20, 3, 1, 16, 16}, 3, 3, 1, 1},
      {"gaps between taps", {3, 9, 3, 5, 1, 4}, 30, 60, 2, 13},
      {"a kernel of many taps", {3, 9, 31, 30, 1, 8}, 33, 31, 15, 1},
      {"padding far outside", {3, 9, 3, 3, 1, 8}, 2, 1, 40, 2},
      {"the largest padding and dilation", {3, 9, 3, 3, 1, 8}, 6, 5, kMost, kMost},
  };
  Random random(8);
  for (const Case& test : kCases) {
    Owned owned(random, test.shape, reference::random_grid_mask(random, test.shape, 0.4));
    Conv2dProblem& problem = owned.problem;
    problem.dtype = kDTypes[(&test - kCases) % kDTypeCount];
    set_input(owned, random, test.height, test.width);
    problem.pad_top = problem.pad_left = test.padding;
    problem.dilation_h = problem.dilation_w = test.dilation;
    for (const std::int64_t stride : {1, 2, 5}) {
      problem.stride_h = problem.stride_w = stride;
      problem.channels_last = stride != 1;
      problem.activation = stride == 5 ? Activation::hardswish : Activation::none;
      owned.set_output_size();
      check_everywhere(owned, test.name + (", stride " + std::to_string(stride)));
    }
  }
}

// That float32 outputs are the same whether or not they begin with a cache line, on which it
// depends where sums are kept and how they are written; and that what follows them stays as it is.
void check_wherever_outputs_lie(Owned& owned, const std::string& name) {
  constexpr std::int64_t kLine = 16;  // floats
  const Conv2dProblem& problem = owned.problem;
  const std::int64_t count = reference::output_count(problem);
  const std::vector<Expected> expected = owned.expected();
  for (const Strategy strategy : {Strategy::pixels, Strategy::filters}) {
    owned.pack_for(strategy);
    for (const Isa isa : reference::usable_isas()) {
      std::vector<float> first;
      for (const auto& [past_line, threads] : {std::pair{0, 1}, {0, 3}, {1, 1}, {1, 3}}) {
        check::context = name + ", " + strategy_name(strategy) + " on " + isa_name(isa) + ", " +
                         std::to_string(past_line) + " floats after a cache line, " +
                         std::to_string(threads) + " threads";
        AlignedBytes memory((count + 2 * kLine) * 4);
        auto* const output = reinterpret_cast<float*>(memory.data()) + past_line;
        std::fill_n(output, count + kLine, -7.25f);
        std::int64_t bytes = 0;
        CHECK(conv2d_workspace(problem, isa, threads, &bytes).ok());
        AlignedBytes workspace(bytes);
        CHECK(conv2d(problem, owned.tensors(output), isa, parallel_threads(threads),
                     workspace.data(), nullptr)
                  .ok());
        if (first.empty()) {
          first.assign(output, output + count);
          CHECK(std::equal(
              expected.begin(), expected.end(), output,
              [](const Expected& e, double got) { return e.accepts(DType::float32, got); }));
        }
        CHECK(std::memcmp(first.data(), output, static_cast<std::size_t>(count * 4)) == 0);
        CHECK(std::all_of(output + count, output + count + kLine,
                          [](float x) { return x == -7.25f; }));
      }
    }
  }
}

// Maps of whole cache lines, whose sums may be in the output; groups of filters that reach into
// another group of the convolution, whose outputs are not theirs.
void test_maps_of_whole_cache_lines() {
  Random random(16);
  for (const std::int64_t group_filters : {1, 4, 16}) {
    for (const auto& [height, width] : {std::pair{4, 4}, std::pair{20, 20}}) {
      const std::int64_t columns = 9 * 3;  // of three channel groups
      const WeightShape shape{34, 10, 3, 3, group_filters, 4};
      std::vector<std::uint8_t> grid_mask(
          static_cast<std::size_t>((33 / group_filters + 1) * columns));
      for (std::uint8_t& kept : grid_mask) kept = random.chance(0.4);
      Owned owned(random, shape, std::move(grid_mask));
      owned.problem.groups = 2;
      owned.problem.in_channels = 20;
      owned.problem.pad_top = owned.problem.pad_left = 1;
      owned.bias = reference::random_values(random, shape.out_channels);
      set_input(owned, random, height, width);
      owned.set_output_size();
      const std::string name = "groups of " + std::to_string(group_filters) + " filters, " +
                               std::to_string(height) + " rows";
      check_everywhere(owned, name);
      check_wherever_outputs_lie(owned, name);
    }
  }
}

// Maps that end with four outputs beyond whole vectors, in one band or several.
void test_maps_that_end_with_four_outputs() {
  struct Case {
    WeightShape shape;
    std::int64_t height, width, padding, stride;
  };
  constexpr Case kCases[] = {
      {{70, 24, 3, 3, 1, 8}, 14, 14, 1, 1},   {{9, 13, 3, 3, 1, 8}, 10, 10, 1, 1},
      {{34, 27, 1, 1, 1, 16}, 4, 25, 0, 1},   {{10, 22, 3, 3, 4, 4}, 14, 14, 1, 1},
      {{20, 19, 1, 1, 16, 16}, 2, 26, 0, 1},  {{5, 7, 3, 3, 2, 3}, 7, 12, 1, 1},
      {{70, 256, 3, 3, 1, 8}, 28, 28, 1, 2},  {{80, 1024, 1, 1, 1, 8}, 14, 14, 0, 1},
      {{3, 2000, 3, 3, 1, 16}, 14, 14, 1, 1}, {{8, 24, 3, 3, 1, 8}, 22, 22, 1, 1},
      {{40, 60, 1, 1, 1, 5}, 27, 27, 0, 2},   {{16, 14, 3, 3, 4, 4}, 14, 14, 1, 1},
      {{44, 50, 3, 3, 4, 4}, 27, 27, 1, 2},   {{24, 21, 3, 3, 8, 4}, 10, 10, 1, 1},
  };
  Random random(17);
  for (const Case& test : kCases) {
    Owned owned(random, test.shape, reference::random_grid_mask(random, test.shape, 0.3));
    Conv2dProblem& problem = owned.problem;
    owned.bias = reference::random_values(random, test.shape.out_channels);
    problem.pad_top = problem.pad_left = test.padding;
    problem.stride_h = problem.stride_w = test.stride;
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      problem.dtype = dtype;
      set_input(owned, random, test.height, test.width);
      owned.set_output_size();
      CHECK_EQ(problem.out_h * problem.out_w % 16, 4);
      for (const Activation activation : {Activation::none, Activation::relu}) {
        problem.activation = activation;
        problem.channels_last = activation == Activation::relu && test.padding == 0;
        owned.residual = {};
        if (activation == Activation::relu) {
          const std::int64_t count = reference::output_count(problem);
          owned.residual = reference::random_elements(random, dtype, count);
        }
        check_everywhere(owned, "a map that ends with four, case " +
                                    std::to_string(&test - kCases) + ", dtype " +
                                    std::to_string(static_cast<int>(dtype)));
      }
    }
  }
}

// So many outputs that they go past the caches, where they begin with a cache line.
void test_outputs_past_the_caches() {
  Random random(18);
  const WeightShape shape{64, 8, 1, 1, 1, 8};
  Owned owned(random, shape, reference::random_grid_mask(random, shape, 0.4));
  Conv2dProblem& problem = owned.problem;
  problem.activation = Activation::relu;
  owned.bias = reference::random_values(random, shape.out_channels);
  set_input(owned, random, 256, 256);
  owned.set_output_size();
  const std::int64_t count = reference::output_count(problem);
  CHECK(count * 4 >= 16 * 1024 * 1024);
  for (const bool with_residual : {false, true}) {
    if (with_residual) owned.residual = reference::random_elements(random, DType::float32, count);
    check_wherever_outputs_lie(owned, "outputs past the caches");
  }
}

// Only the second output of an axis lies on the input: at its first pixel.
void test_largest_stride() {
  Random random(14);
  const WeightShape shape{3, 9, 1, 1, 1, 8};
  Owned owned(random, shape, reference::random_grid_mask(random, shape, 0.7));
  set_input(owned, random, 6, 5);
  Conv2dProblem& problem = owned.problem;
  problem.stride_h = problem.stride_w = problem.pad_top = problem.pad_left = kMost;
  owned.set_output_size();
  CHECK_EQ(problem.out_h, 3);
  check_everywhere(owned, "the largest stride");
}

// A caller may pad an input of no pixels.
void test_empty_input() {
  Random random(15);
  const WeightShape shape{3, 9, 3, 3, 1, 8};
  Owned owned(random, shape, reference::random_grid_mask(random, shape, 0.7));
  set_input(owned, random, 0, 5);
  owned.bias = reference::random_values(random, shape.out_channels);
  owned.problem.pad_top = owned.problem.pad_left = 2;
  owned.set_output_size();
  check_everywhere(owned, "an empty input");
  set_input(owned, random, 4, 0);
  owned.set_output_size();
  check_everywhere(owned, "an input of no columns");
}

// More padding on one side than on the other: the caller states the output size.
void test_uneven_padding() {
  Random random(9);
  const WeightShape shape{3, 5, 2, 4, 1, 4};
  Owned owned(random, shape, reference::random_grid_mask(random, shape, 0.6));
  set_input(owned, random, 6, 7);
  owned.problem.pad_top = 0;
  owned.problem.pad_left = 1;
  owned.problem.out_h = 6;  // "same": one more row below, two more columns on the right
  owned.problem.out_w = 7;
  check_everywhere(owned, "uneven padding");
}

// ---- NaN and infinities ---------------------------------------------------------------------

void test_pruned_channels_do_not_reach_the_output() {
  for (const std::int64_t group_channels : {1, 3, 4, 8, 12, 16}) {
    // Four channel groups, the last one with a tail; the first and the third are pruned.
    const std::string name = "pruned groups of " + std::to_string(group_channels);
    check::context = name;
    Random random(10);
    const WeightShape shape{
        3, 3 * group_channels + (group_channels + 1) / 2, 3, 3, 1, group_channels};
    std::vector<std::uint8_t> grid_mask(3 * 4 * 9);
    for (std::size_t i = 0; i < grid_mask.size(); ++i) grid_mask[i] = i / 9 % 2;
    Owned owned(random, shape, std::move(grid_mask));
    set_input(owned, random, 5, 6);
    for (std::int64_t i = 0; i < owned.input.count(); ++i) {
      const std::int64_t channel = i / 30;
      if (channel / group_channels % 2 == 0) owned.input.set(i, i % 2 == 0 ? kNan : kInfinity);
    }
    owned.problem.pad_top = owned.problem.pad_left = 1;
    owned.set_output_size();
    for (const Expected& output : owned.expected()) CHECK(std::isfinite(output.value));
    check_everywhere(owned, name);
  }
}

void test_pruned_taps_do_not_reach_the_output() {
  // Only the centre is kept: an input pixel reaches the output pixel at its own place and no other.
  Random random(11);
  const WeightShape shape{2, 8, 3, 3, 1, 8};
  std::vector<std::uint8_t> grid_mask(18);
  grid_mask[4] = grid_mask[13] = 1;
  Owned owned(random, shape, grid_mask);
  set_input(owned, random, 5, 6);
  constexpr std::int64_t kPixel = 2 * 6 + 3;
  owned.input.set(5 * 30 + kPixel, kNan);
  owned.problem.pad_top = owned.problem.pad_left = 1;
  owned.set_output_size();
  check_everywhere(owned, "only the centre tap");
  for (const Strategy strategy : reference::strategies()) {
    owned.pack_for(strategy);
    for (const Isa isa : reference::usable_isas()) {
      for (const Activation activation : kActivations) {
        owned.problem.activation = activation;
        const Elements output = run(owned, isa, Parallel{}).output;
        for (std::int64_t at = 0; at < output.count(); ++at) {
          CHECK_EQ(std::isnan(output.at(at)), at % 30 == kPixel);
        }
      }
    }
  }
}

// ---- 16-bit outputs -------------------------------------------------------------------------

// Float32 numbers on both sides of, and at, every step-th place where the nearest 16-bit value
// changes; and NaN and infinities.
std::vector<float> rounding_cases(DType dtype, std::uint32_t step) {
  std::vector<float> cases{kNan, kInfinity, -kInfinity, 0.0f, 1e-45f, 3e38f, -3.4e38f};
  for (std::uint32_t bits = 0; bits < 0xffff; bits += step) {
    const double low = reference::decoded(dtype, static_cast<std::uint16_t>(bits));
    const double high = reference::decoded(dtype, static_cast<std::uint16_t>(bits + 1));
    if (!std::isfinite(low) || !std::isfinite(high)) continue;
    const auto between = static_cast<float>((low + high) / 2);
    for (const float value : {static_cast<float>(low), between, std::nextafter(between, -kInfinity),
                              std::nextafter(between, kInfinity)}) {
      cases.push_back(value);
    }
  }
  return cases;
}

void test_conversions_of_single_numbers() {
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    check::context = "type " + std::to_string(static_cast<int>(dtype));
    std::int64_t wrong = 0;
    for (const float value : rounding_cases(dtype, 1)) {
      const Elements rounded(dtype, 1, value);
      const double got = rounded.at(0);
      wrong += std::isnan(value) ? !std::isnan(got) : got != reference::nearest(dtype, value);
      const float back = dtype == DType::bfloat16
                             ? to_float(*static_cast<const BFloat16*>(rounded.data()))
                             : to_float(*static_cast<const Float16*>(rounded.data()));
      wrong += std::isnan(value) ? !std::isnan(back) : static_cast<double>(back) != got;
    }
    CHECK_EQ(wrong, 0);
  }
}

// A filter that keeps nothing puts out its bias.
void test_outputs_are_rounded_to_nearest() {
  Random random(18);
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    const std::vector<float> bias = rounding_cases(dtype, 9);
    const WeightShape shape{std::ssize(bias), 1, 1, 1, 1, 1};
    Owned owned(random, shape, std::vector<std::uint8_t>(bias.size()));
    owned.problem.dtype = dtype;
    owned.bias = bias;
    for (const bool channels_last : {false, true}) {
      owned.problem.channels_last = channels_last;
      set_input(owned, random, 1, channels_last ? 1 : 9);  // whole vectors, and what is left
      owned.set_output_size();
      check_everywhere(owned, "type " + std::to_string(static_cast<int>(dtype)));
    }
  }
}

// ---- bad problems ---------------------------------------------------------------------------

Owned good_problem() {
  Random random(12);
  const WeightShape shape{6, 8, 3, 3, 1, 8};
  Owned owned(random, shape, std::vector<std::uint8_t>(54, 1));
  set_input(owned, random, 5, 5);
  owned.set_output_size();
  return owned;
}

void test_bad_problems_are_refused() {
  using Field = std::int64_t Conv2dProblem::*;
  struct Case {
    Field field;
    std::int64_t value;
    Code code;
  };
  const Case cases[] = {
      {&Conv2dProblem::stride_h, 1, Code::ok},
      {&Conv2dProblem::stride_h, 0, Code::bad_stride},
      {&Conv2dProblem::stride_w, -1, Code::bad_stride},
      {&Conv2dProblem::stride_w, kMost + 1, Code::bad_stride},
      {&Conv2dProblem::pad_top, -1, Code::bad_padding},
      {&Conv2dProblem::pad_left, INT64_MIN, Code::bad_padding},
      {&Conv2dProblem::pad_left, INT64_MAX, Code::bad_padding},
      {&Conv2dProblem::dilation_h, 0, Code::bad_dilation},
      {&Conv2dProblem::dilation_w, -2, Code::bad_dilation},
      {&Conv2dProblem::dilation_w, kMost + 1, Code::bad_dilation},
      {&Conv2dProblem::groups, 0, Code::bad_groups},
      {&Conv2dProblem::groups, -1, Code::bad_groups},
      {&Conv2dProblem::groups, 4, Code::groups_mismatch},
      {&Conv2dProblem::groups, 2, Code::channels_mismatch},
      {&Conv2dProblem::in_channels, 7, Code::channels_mismatch},
      {&Conv2dProblem::in_channels, 0, Code::channels_mismatch},
      {&Conv2dProblem::out_h, 0, Code::empty_output},
      {&Conv2dProblem::out_w, -3, Code::empty_output},
      {&Conv2dProblem::batch, INT64_MAX, Code::too_large},
  };
  for (const Case& test : cases) {
    Owned owned = good_problem();
    for (const Strategy strategy : reference::strategies()) {
      owned.pack_for(strategy);
      owned.problem.*test.field = test.value;
      for (const Isa isa : reference::usable_isas()) {
        check::context = "case " + std::to_string(&test - cases) + " on " + isa_name(isa) + ", " +
                         strategy_name(strategy);
        if (test.code == Code::ok) {
          CHECK_EQ(run(owned, isa, Parallel{}).code, Code::ok);
          continue;
        }
        std::int64_t bytes = -1;
        CHECK_EQ(conv2d_workspace(owned.problem, isa, 1, &bytes).code, test.code);
        CHECK_EQ(bytes, -1);
        const Conv2dTensors untouched{nullptr, nullptr, nullptr, nullptr};
        CHECK_EQ(conv2d(owned.problem, untouched, isa, Parallel{}, nullptr, nullptr).code,
                 test.code);
      }
    }
    const bool needs_output = test.code == Code::empty_output || test.code == Code::too_large;
    CHECK_EQ(check_conv2d(owned.problem).code, needs_output ? Code::ok : test.code);
  }
}

void test_bad_poolings_are_refused() {
  using Field = std::int64_t MaxPool::*;
  struct Case {
    Field field;
    std::int64_t value;
    Code code;
  };
  const Case cases[] = {
      {&MaxPool::kernel_h, 3, Code::ok},
      {&MaxPool::kernel_h, -1, Code::bad_pool_kernel},
      {&MaxPool::kernel_w, 0, Code::bad_pool_kernel},
      {&MaxPool::kernel_w, kMost + 1, Code::bad_pool_kernel},
      {&MaxPool::stride_h, 0, Code::bad_pool_stride},
      {&MaxPool::stride_w, kMost + 1, Code::bad_pool_stride},
      {&MaxPool::pad_top, -1, Code::bad_pool_padding},
      {&MaxPool::pad_left, 2, Code::bad_pool_padding},
      {&MaxPool::out_h, 0, Code::empty_output},
      {&MaxPool::out_w, -1, Code::empty_output},
  };
  for (const Case& test : cases) {
    Owned owned = good_problem();
    owned.pack_for(Strategy::pixels);
    owned.problem.pool = {3, 3, 1, 1, 1, 1, owned.problem.out_h, owned.problem.out_w};
    owned.problem.pool.*test.field = test.value;
    check::context = "case " + std::to_string(&test - cases);
    const Isa isa = reference::usable_isas()[0];
    std::int64_t bytes = -1;
    CHECK_EQ(conv2d_workspace(owned.problem, isa, 1, &bytes).code, test.code);
    if (test.code == Code::ok) continue;
    const Conv2dTensors untouched{nullptr, nullptr, nullptr, nullptr};
    CHECK_EQ(conv2d(owned.problem, untouched, isa, Parallel{}, nullptr, nullptr).code, test.code);
  }
  Owned owned = good_problem();
  owned.pack_for(Strategy::channels);
  owned.problem.pool = {3, 3, 1, 1, 1, 1, owned.problem.out_h, owned.problem.out_w};
  CHECK_EQ(check_pool(owned.problem).code, Code::pool_strategy);
}

// Packed bytes are looked over once; if they change later, outputs are wrong, and no more. The
// sanitizer sees a read or write outside of them.
void test_packed_bytes_that_change_stay_inside_their_bounds() {
  Random random(21);
  for (const double density : {1.0, 0.5}) {
    const std::int64_t size = density == 1.0 ? 6 : 4;  // sums in the output where a map fills lines
    for (const std::int64_t groups : {1, 3}) {
      const WeightShape shape{groups * 96, 8, 3, 3, 1, 8};
      Owned owned(random, shape, reference::random_grid_mask(random, shape, density));
      owned.problem.groups = groups;
      owned.problem.in_channels = groups * 8;
      owned.problem.pad_top = owned.problem.pad_left = 1;
      set_input(owned, random, size, size);
      owned.set_output_size();
      for (const Strategy strategy : reference::strategies()) {
        AlignedBytes& packed = owned.packed[static_cast<std::size_t>(strategy)];
        owned.pack_for(strategy);
        const PackedView& view = owned.problem.weight;
        const std::int64_t rows = view.blocks * view.block_rows;
        auto* const offsets =
            reinterpret_cast<std::uint32_t*>(packed.data() + sizeof(PackedHeader));
        std::uint32_t* const entries = offsets + rows + 1;
        const auto run_on_all = [&] {
          owned.pack_for(strategy);
          for (const Isa isa : reference::usable_isas()) {
            check::context = std::string(isa_name(isa)) + ", " + strategy_name(strategy);
            for (const std::int64_t threads : {1, 3}) {
              CHECK_EQ(run(owned, isa, parallel_threads(threads)).code, Code::ok);
            }
          }
        };
        for (std::int64_t row = 0; row < rows; ++row) {
          std::reverse(entries + offsets[row], entries + offsets[row + 1]);
        }
        run_on_all();
        for (std::int64_t row = 0; row < rows; ++row) {
          std::fill(entries + offsets[row], entries + offsets[row + 1], entries[offsets[row]]);
        }
        run_on_all();
        if (view.blocks > 1) continue;  // another block's entries would be refused
        for (std::int64_t row = 1; row < rows; ++row) offsets[row] = offsets[rows];
        run_on_all();
        for (std::int64_t row = 1; row < rows; ++row) offsets[row] = 0;
        run_on_all();
      }
    }
  }
}

void test_output_size() {
  check::context.clear();
  CHECK_EQ(conv_output_size(5, 0, 3, 1, 1), 3);
  CHECK_EQ(conv_output_size(5, 2, 3, 2, 1), 3);
  CHECK_EQ(conv_output_size(6, 2, 3, 2, 1), 3);
  CHECK_EQ(conv_output_size(5, 0, 5, 3, 1), 1);
  CHECK_EQ(conv_output_size(5, 0, 6, 1, 1), 0);
  CHECK_EQ(conv_output_size(0, 0, 1, 1, 1), 0);
  CHECK_EQ(conv_output_size(7, 0, 3, 1, 3), 1);
  CHECK_EQ(conv_output_size(7, 0, 3, 1, 4), 0);
  CHECK_EQ(conv_output_size(10, 0, 0x3fffffff, 1, 0x3fffffff), 0);
}

}  // namespace

int main() {
  test_large_problems();
  test_maps_of_whole_cache_lines();
  test_maps_that_end_with_four_outputs();
  test_outputs_past_the_caches();
  test_largest_stride();
  test_empty_input();
  test_uneven_padding();
  test_pruned_channels_do_not_reach_the_output();
  test_pruned_taps_do_not_reach_the_output();
  test_conversions_of_single_numbers();
  test_outputs_are_rounded_to_nearest();
  test_bad_problems_are_refused();
  test_bad_poolings_are_refused();
  test_packed_bytes_that_change_stay_inside_their_bounds();
  test_output_size();
  return check::finish();
}
