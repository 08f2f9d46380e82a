// SPDX-License-Identifier: MIT
// Random gradients against plain loops in double precision, every tensor right next to memory that
// cannot be touched.
#include <cstring>
#include <limits>
#include <string>

#include "check.h"
#include "guarded.h"
#include "kernels/conv2d_grad/conv2d_grad.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Elements;
using reference::Expected;
using reference::Random;

namespace {

constexpr std::uint64_t kCases = 400;
constexpr std::int64_t kAlignment = 64;  // of packed weight and workspace
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// ---- a case ---------------------------------------------------------------------------------

struct Case {
  WeightShape shape;
  Conv2dGradProblem problem{};
  std::vector<float> weight;
  std::vector<std::uint8_t> grid_mask;
  Elements input, grad;      // as `problem` says that they lie
  std::vector<float> dense;  // the gradient again: NCHW, float32
  std::int64_t threads;
  bool at_end;  // whether tensors lie before an unreadable page, or after one
};

// Strides of a tensor of these sizes: NCHW, NHWC, or with gaps; and how many elements they span.
std::int64_t random_strides(Random& random, const std::int64_t (&sizes)[4], Strides4* strides) {
  std::int64_t* const steps[] = {&strides->n, &strides->c, &strides->h, &strides->w};
  const bool last = random.chance(0.4), gaps = random.chance(0.3);
  const int order[] = {last ? 1 : 3, last ? 3 : 2, last ? 2 : 1, 0};
  std::int64_t next = gaps ? random.between(1, 2) : 1, span = 1;
  for (const int axis : order) {
    *steps[axis] = next;
    span += (sizes[axis] - 1) * next;
    next *= sizes[axis] + (gaps ? random.between(0, 2) : 0);
  }
  return sizes[0] == 0 ? 0 : span;
}

Elements random_tensor(Random& random, DType dtype, const std::int64_t (&sizes)[4],
                       Strides4* strides) {
  Elements tensor(dtype, random_strides(random, sizes, strides), kNan);
  for (std::int64_t n = 0; n < sizes[0]; ++n) {
    for (std::int64_t c = 0; c < sizes[1]; ++c) {
      for (std::int64_t h = 0; h < sizes[2]; ++h) {
        for (std::int64_t w = 0; w < sizes[3]; ++w) {
          tensor.set(n * strides->n + c * strides->c + h * strides->h + w * strides->w,
                     random.value());
        }
      }
    }
  }
  return tensor;
}

Case make_case(std::uint64_t seed) {
  constexpr std::int64_t kGroups[][2] = {{1, 8}, {1, 8}, {1, 4}, {4, 4},  {1, 1},
                                         {2, 3}, {8, 1}, {3, 5}, {1, 16}, {40, 20}};
  constexpr std::int64_t kConvGroups[] = {1, 1, 1, 2, 3};
  constexpr double kDensities[] = {0.0, 0.2, 0.5, 1.0};
  Random random(seed);
  Case test;
  const auto& group = kGroups[random.between(0, std::ssize(kGroups) - 1)];
  const std::int64_t conv_groups = random.one_of(kConvGroups);
  const std::int64_t kernel_h = random.chance(0.4) ? 3 : random.between(1, 4);
  const std::int64_t kernel_w = random.chance(0.7) ? kernel_h : random.between(1, 4);
  test.shape = {conv_groups * random.between(1, 20),
                random.between(1, 20),
                kernel_h,
                kernel_w,
                group[0],
                group[1]};
  test.weight = reference::random_values(random, reference::weight_count(test.shape));
  test.grid_mask = reference::random_grid_mask(random, test.shape, random.one_of(kDensities));

  Conv2dProblem& conv = test.problem.conv;
  conv.weight.shape = test.shape;
  conv.batch = random.chance(0.04) ? 0 : random.between(1, 2);
  conv.groups = conv_groups;
  conv.in_channels = conv_groups * test.shape.in_channels;
  conv.dtype = static_cast<DType>(random.between(0, kDTypeCount - 1));
  conv.channels_last = random.chance(0.4);
  const bool alike = random.chance(0.5);  // the output is as large as the input
  conv.stride_h = alike ? 1 : random.between(1, 5);
  conv.stride_w = alike ? 1 : random.between(1, 5);
  conv.dilation_h = random.chance(0.7) ? 1 : random.between(1, 6);
  conv.dilation_w = random.chance(0.7) ? 1 : random.between(1, 6);
  conv.pad_top = alike ? conv.dilation_h * (kernel_h - 1) / 2 : random.between(0, 5);
  conv.pad_left = alike ? conv.dilation_w * (kernel_w - 1) / 2 : random.between(0, 5);
  conv.in_h = random.between(1, 16);
  conv.in_w = random.chance(0.1) ? random.between(60, 150) : random.between(1, 20);
  const auto outputs = [&conv](bool rows) {
    return rows ? conv_output_size(conv.in_h, 2 * conv.pad_top, conv.weight.shape.kernel_h,
                                   conv.stride_h, conv.dilation_h)
                : conv_output_size(conv.in_w, 2 * conv.pad_left, conv.weight.shape.kernel_w,
                                   conv.stride_w, conv.dilation_w);
  };
  while (outputs(true) < 1) ++conv.in_h;
  while (outputs(false) < 1) ++conv.in_w;
  conv.out_h = outputs(true);
  conv.out_w = outputs(false);

  const std::int64_t in_sizes[] = {conv.batch, conv.in_channels, conv.in_h, conv.in_w};
  const std::int64_t out_sizes[] = {conv.batch, test.shape.out_channels, conv.out_h, conv.out_w};
  test.input = random_tensor(random, conv.dtype, in_sizes, &conv.input_strides);
  Strides4& strides = test.problem.grad_strides;
  test.grad = random_tensor(random, conv.dtype, out_sizes, &strides);
  for (std::int64_t n = 0; n < conv.batch; ++n) {
    for (std::int64_t o = 0; o < test.shape.out_channels; ++o) {
      for (std::int64_t y = 0; y < conv.out_h; ++y) {
        for (std::int64_t x = 0; x < conv.out_w; ++x) {
          test.dense.push_back(static_cast<float>(
              test.grad.at(n * strides.n + o * strides.c + y * strides.h + x * strides.w)));
        }
      }
    }
  }
  test.threads = random.between(1, 4);
  test.at_end = random.chance(0.5);
  return test;
}

// ---- what is expected -----------------------------------------------------------------------

struct Grads {
  std::vector<Expected> input;   // in the memory order that the problem asks for
  std::vector<Expected> weight;  // of every weight, pruned or not
};

Grads expected_of(const Case& test) {
  const Conv2dProblem& conv = test.problem.conv;
  const WeightShape& shape = test.shape;
  const std::vector<std::uint8_t> kept = reference::dense_mask(shape, test.grid_mask);
  const std::int64_t pixels = conv.in_h * conv.in_w, filters = shape.out_channels / conv.groups;
  Grads grads;
  grads.input.resize(static_cast<std::size_t>(conv.batch * conv.in_channels * pixels));
  grads.weight.resize(test.weight.size());
  std::size_t at = 0;
  for (std::int64_t n = 0; n < conv.batch; ++n) {
    for (std::int64_t o = 0; o < shape.out_channels; ++o) {
      for (std::int64_t y = 0; y < conv.out_h; ++y) {
        for (std::int64_t x = 0; x < conv.out_w; ++x) {
          const double grad = test.dense[at++];
          std::size_t w = static_cast<std::size_t>(o * shape.in_channels) *
                          static_cast<std::size_t>(shape.kernel_h * shape.kernel_w);
          for (std::int64_t c = 0; c < shape.in_channels; ++c) {
            const std::int64_t channel = o / filters * shape.in_channels + c;
            for (std::int64_t i = 0; i < shape.kernel_h; ++i) {
              for (std::int64_t j = 0; j < shape.kernel_w; ++j, ++w) {
                const std::int64_t row = y * conv.stride_h + i * conv.dilation_h - conv.pad_top;
                const std::int64_t col = x * conv.stride_w + j * conv.dilation_w - conv.pad_left;
                if (row < 0 || row >= conv.in_h || col < 0 || col >= conv.in_w) continue;
                const Strides4& strides = conv.input_strides;
                grads.weight[w].add_product(
                    grad, test.input.at(n * strides.n + channel * strides.c + row * strides.h +
                                        col * strides.w));
                if (kept[w] == 0) continue;
                const std::int64_t pixel = row * conv.in_w + col;
                const std::int64_t index = conv.channels_last
                                               ? (n * pixels + pixel) * conv.in_channels + channel
                                               : (n * conv.in_channels + channel) * pixels + pixel;
                grads.input[static_cast<std::size_t>(index)].add_product(grad, test.weight[w]);
              }
            }
          }
        }
      }
    }
  }
  for (Expected& value : grads.input) value.finish(conv);
  for (Expected& value : grads.weight) value.finish(conv);
  return grads;
}

// ---- running it -----------------------------------------------------------------------------

struct Memory {
  GuardedBytes packed, values, grad, input, result, workspace;
};

bool accepted(DType dtype, const void* got, const std::vector<Expected>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = reference::element(dtype, got, static_cast<std::int64_t>(i));
    if (expected[i].accepts(dtype, value)) continue;
    std::printf("%zu of %zu is %.9g, expected %.9g +- %.3g\n", i, expected.size(), value,
                expected[i].value, expected[i].error);
    return false;
  }
  return true;
}

void place_workspace(Memory& memory, std::int64_t bytes, bool at_end) {
  memory.workspace.place(bytes, at_end && bytes % kAlignment == 0);
}

void run_input_grad(const Case& test, const Conv2dGradProblem& problem, Isa isa,
                    std::int64_t threads, Memory& memory) {
  const Conv2dProblem& conv = problem.conv;
  memory.grad.place(test.grad.data(), test.grad.count() * size_of(conv.dtype), test.at_end);
  memory.result.place(conv.batch * conv.in_channels * conv.in_h * conv.in_w * size_of(conv.dtype),
                      test.at_end);
  std::int64_t bytes = -1;
  CHECK_EQ(input_grad_workspace(problem, isa, threads, &bytes).code, Code::ok);
  place_workspace(memory, bytes, test.at_end);
  const char* ran = "";
  CHECK_EQ(input_grad(problem, memory.grad.data(), memory.result.data(), isa,
                      parallel_threads(threads), memory.workspace.data(), &ran)
               .code,
           Code::ok);
  // Without an image, or where no tap reaches a pixel, there is nothing to run.
  CHECK(std::string(ran).empty() || std::string(ran) == name_of_kernels(isa));
  CHECK(memory.result.intact());
  CHECK(memory.workspace.intact());
}

void run_weight_grad(const Case& test, const Conv2dGradProblem& problem, Isa isa,
                     std::int64_t threads, Memory& memory) {
  const Conv2dProblem& conv = problem.conv;
  const GroupGrid& grid = conv.weight.grid;
  memory.grad.place(test.dense.data(), std::ssize(test.dense) * std::int64_t{sizeof(float)},
                    test.at_end);
  memory.input.place(test.input.data(), test.input.count() * size_of(conv.dtype), test.at_end);
  memory.result.place(
      conv.weight.kept_groups * grid.filters * grid.channels * std::int64_t{sizeof(float)},
      test.at_end);
  std::int64_t bytes = -1;
  CHECK_EQ(weight_grad_workspace(problem, isa, threads, &bytes).code, Code::ok);
  place_workspace(memory, bytes, test.at_end);
  const char* ran = "";
  CHECK_EQ(weight_grad(problem, reinterpret_cast<const float*>(memory.grad.data()),
                       memory.input.data(), reinterpret_cast<float*>(memory.result.data()), isa,
                       parallel_threads(threads), memory.workspace.data(), &ran)
               .code,
           Code::ok);
  const bool works = conv.batch > 0 && conv.weight.kept_groups > 0;
  CHECK_EQ(std::string(ran), std::string(works ? name_of_kernels(isa) : ""));
  CHECK(memory.result.intact());
  CHECK(memory.workspace.intact());
}

// Whether the values' gradient, put back into a dense weight, is what is expected; 0 where pruned.
bool weight_accepted(const PackedView& weight, const void* got, const std::vector<Expected>& wanted,
                     const std::vector<std::uint8_t>& kept) {
  PackedView view = weight;
  view.values = static_cast<const float*>(got);
  std::vector<float> dense(wanted.size());
  unpack(view, dense.data());
  std::vector<Expected> masked = wanted;
  for (std::size_t i = 0; i < masked.size(); ++i) {
    if (kept[i] == 0) masked[i] = Expected{};
  }
  return accepted(DType::float32, dense.data(), masked);
}

void run_case(std::uint64_t seed, Memory& memory) {
  const Case test = make_case(seed);
  const Grads expected = expected_of(test);
  const std::vector<std::uint8_t> kept = reference::dense_mask(test.shape, test.grid_mask);
  // The pattern's own values are not those of the weight: replaced ones have to be taken.
  const std::vector<float> others(test.weight.size(), kNan);
  for (const Strategy strategy : reference::strategies()) {
    const AlignedBytes packed =
        reference::packed_weight(test.shape, others, test.grid_mask, strategy);
    memory.packed.place(packed.data(), packed.bytes(),
                        test.at_end && packed.bytes() % kAlignment == 0);
    Conv2dGradProblem problem = test.problem;
    PackedView& view = problem.conv.weight;
    CHECK(open_packed(memory.packed.data(), packed.bytes(), &view).ok());
    auto* const values = reinterpret_cast<float*>(memory.values.place(
        view.kept_groups * view.grid.filters * view.grid.channels * std::int64_t{sizeof(float)},
        test.at_end));
    auto* const scratch = reinterpret_cast<std::uint32_t*>(memory.workspace.place(
        gather_scratch(view) * std::int64_t{sizeof(std::uint32_t)}, test.at_end));
    gather_values(view, test.weight.data(), values, scratch);
    CHECK(memory.workspace.intact());
    CHECK(memory.values.intact());
    view.values = values;
    for (const Isa isa : reference::usable_isas()) {
      check::context =
          "case " + std::to_string(seed) + " on " + isa_name(isa) + ", " + strategy_name(strategy);
      run_input_grad(test, problem, isa, test.threads, memory);
      CHECK(accepted(problem.conv.dtype, memory.result.data(), expected.input));
      run_weight_grad(test, problem, isa, test.threads, memory);
      CHECK(weight_accepted(view, memory.result.data(), expected.weight, kept));
      if (test.threads == 1) continue;
      const std::vector<std::uint8_t> result(memory.result.data(),
                                             memory.result.data() + memory.result.bytes());
      run_weight_grad(test, problem, isa, 1, memory);
      CHECK(result.empty() || std::memcmp(result.data(), memory.result.data(), result.size()) == 0);
    }
  }
}

// ---- bad and extreme problems -----------------------------------------------------------------

void test_bad_problems_are_refused() {
  using Field = std::int64_t Conv2dProblem::*;
  struct Bad {
    Field field;
    std::int64_t value;
    Code code;
  };
  const Bad cases[] = {
      {&Conv2dProblem::stride_h, 0, Code::bad_stride},
      {&Conv2dProblem::pad_left, -1, Code::bad_padding},
      {&Conv2dProblem::dilation_w, INT64_MAX, Code::bad_dilation},
      {&Conv2dProblem::groups, 0, Code::bad_groups},
      {&Conv2dProblem::in_channels, 1, Code::channels_mismatch},
      {&Conv2dProblem::out_h, 0, Code::empty_output},
      {&Conv2dProblem::out_w, INT64_MAX, Code::too_large},
  };
  Case test = make_case(7);
  const AlignedBytes packed =
      reference::packed_weight(test.shape, test.weight, test.grid_mask, Strategy::pixels);
  for (const Bad& bad : cases) {
    Conv2dGradProblem problem = test.problem;
    CHECK(open_packed(packed.data(), packed.bytes(), &problem.conv.weight).ok());
    problem.conv.in_channels += bad.field == &Conv2dProblem::in_channels ? bad.value : 0;
    if (bad.field != &Conv2dProblem::in_channels) problem.conv.*bad.field = bad.value;
    check::context = "bad case " + std::to_string(&bad - cases);
    for (const Isa isa : reference::usable_isas()) {
      std::int64_t bytes = -1;
      CHECK_EQ(weight_grad_workspace(problem, isa, 1, &bytes).code, bad.code);
      CHECK_EQ(bytes, -1);
      CHECK_EQ(
          weight_grad(problem, nullptr, nullptr, nullptr, isa, Parallel{}, nullptr, nullptr).code,
          bad.code);
      if (bad.code == Code::too_large) continue;  // an input's gradient is no larger for it
      CHECK_EQ(input_grad_workspace(problem, isa, 1, &bytes).code, bad.code);
      CHECK_EQ(bytes, -1);
      CHECK_EQ(input_grad(problem, nullptr, nullptr, isa, Parallel{}, nullptr, nullptr).code,
               bad.code);
    }
  }
}

}  // namespace

int main() {
  Memory memory;
  for (std::uint64_t seed = 0; seed < kCases; ++seed) run_case(seed, memory);
  test_bad_problems_are_refused();
  return check::finish();
}
