// SPDX-License-Identifier: MIT
// Linear layers against sums in double precision.
#include <cstring>
#include <limits>
#include <string>

#include "check.h"
#include "guarded.h"
#include "kernels/linear/linear.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Expected;
using reference::Random;

namespace {

constexpr int kProblems = 300;

struct Case {
  LinearProblem problem;
  std::vector<float> input, weight, bias;  // an empty bias: none
};

Case random_case(Random& random) {
  constexpr std::int64_t kPixels[] = {1, 1, 2, 4, 9, 49, 100};
  Case test;
  test.problem = {random.chance(0.05) ? 0 : random.between(1, 4), random.between(0, 90),
                  random.between(0, 90), random.one_of(kPixels)};
  const LinearProblem& problem = test.problem;
  test.input =
      reference::random_values(random, problem.batch * problem.in_features * problem.pixels);
  test.weight = reference::random_values(random, problem.out_features * problem.in_features);
  if (random.chance(0.5)) test.bias = reference::random_values(random, problem.out_features);
  return test;
}

// The error bound is that of reference.h, for the sum of all pixels' products; the average's factor
// and its product are two roundings more.
std::vector<Expected> expected_of(const Case& test) {
  const auto& [batch, in_features, out_features, pixels] = test.problem;
  std::vector<Expected> outputs;
  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t o = 0; o < out_features; ++o) {
      Expected output;
      for (std::int64_t f = 0; f < in_features; ++f) {
        for (std::int64_t p = 0; p < pixels; ++p) {
          const double x = test.input[static_cast<std::size_t>((n * in_features + f) * pixels + p)];
          output.add_product(test.weight[static_cast<std::size_t>(o * in_features + f)],
                             x / static_cast<double>(pixels));
        }
      }
      if (!test.bias.empty()) output.add(test.bias[static_cast<std::size_t>(o)]);
      output.add(0.0);
      output.add(0.0);
      output.finish(Conv2dProblem{});
      outputs.push_back(output);
    }
  }
  return outputs;
}

const std::vector<float>& none() {
  static const std::vector<float> empty;
  return empty;
}

void check_case(const Case& test, Isa isa, bool at_end) {
  GuardedBytes memory[5];
  const auto place = [&](GuardedBytes& bytes, const std::vector<float>& values) {
    return reinterpret_cast<const float*>(
        bytes.place(values.data(), std::ssize(values) * std::int64_t{sizeof(float)}, at_end));
  };
  const std::vector<Expected> expected = expected_of(test);
  std::vector<float> first;
  for (const std::int64_t threads : {1, 3}) {
    std::int64_t bytes = -1;
    CHECK(linear_workspace(test.problem, &bytes).ok());
    memory[4].place(bytes, at_end);
    LinearTensors tensors{place(memory[0], test.input), place(memory[1], test.weight),
                          test.bias.empty() ? nullptr : place(memory[2], test.bias), nullptr};
    const std::int64_t size = std::ssize(expected) * std::int64_t{sizeof(float)};
    tensors.output = reinterpret_cast<float*>(memory[3].place(size, at_end));
    CHECK(linear(test.problem, tensors, isa, parallel_threads(threads), memory[4].data()).ok());
    CHECK(memory[3].intact() && memory[4].intact());
    std::vector<float> got(expected.size());
    if (!got.empty()) std::memcpy(got.data(), memory[3].data(), got.size() * sizeof(float));
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(expected[i].accepts(DType::float32, got[i]));
    }
    if (threads == 1) {
      first = got;
    } else {
      CHECK(first == got);
    }
  }
}

void test_random_layers(Isa isa) {
  Random random(1);
  for (int i = 0; i < kProblems; ++i) {
    check::context = std::string(isa_name(isa)) + " case " + std::to_string(i);
    const Case test = random_case(random);
    check_case(test, isa, random.chance(0.5));
  }
}

void test_nan_stays_in_its_image_and_row(Isa isa) {
  check::context = isa_name(isa);
  Case test{{2, 20, 19, 1}, std::vector<float>(40, 1.0f), std::vector<float>(380, 1.0f), none()};
  test.input[0] = std::numeric_limits<float>::quiet_NaN();
  test.weight[18 * 20] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> output(38);
  const LinearTensors tensors{test.input.data(), test.weight.data(), nullptr, output.data()};
  CHECK(linear(test.problem, tensors, isa, Parallel{}, nullptr).ok());
  for (std::size_t i = 0; i < output.size(); ++i) {
    CHECK_EQ(std::isnan(output[i]), i < 19 || i == 37);
  }
}

void test_what_cannot_be_addressed_is_refused() {
  check::context.clear();
  std::int64_t bytes = 0;
  CHECK_EQ(linear_workspace({INT64_MAX / 2, 8, 1, 4}, &bytes).code, Code::too_large);
}

}  // namespace

int main() {
  for (const Isa isa : reference::usable_isas()) {
    test_random_layers(isa);
    test_nan_stays_in_its_image_and_row(isa);
  }
  test_what_cannot_be_addressed_is_refused();
  return check::finish();
}
