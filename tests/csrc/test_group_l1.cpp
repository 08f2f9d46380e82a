// SPDX-License-Identifier: MIT
#include <cstring>
#include <limits>
#include <string>

#include "check.h"
#include "kernels/group_l1/group_l1.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Random;

namespace {

constexpr int kProblems = 400;
constexpr double kTolerance = 1e-5;  // of a norm; sums of thousands of float32 values

WeightShape random_shape(Random& random) {
  constexpr std::int64_t kFilters[] = {1, 1, 2, 4, 16, 100};
  constexpr std::int64_t kChannels[] = {1, 3, 4, 8, 12, 16, 32, 100};
  constexpr std::int64_t kKernels[] = {1, 1, 2, 3, 4, 5, 7};
  return {random.between(1, 40),   random.between(1, 70),   random.one_of(kKernels),
          random.one_of(kKernels), random.one_of(kFilters), random.one_of(kChannels)};
}

std::string name_of(const WeightShape& shape, Isa isa) {
  std::string name = isa_name(isa);
  for (const std::int64_t number : {shape.out_channels, shape.in_channels, shape.kernel_h,
                                    shape.kernel_w, shape.group_filters, shape.group_channels}) {
    name += ' ' + std::to_string(number);
  }
  return name;
}

void check_shape_on(Isa isa, const WeightShape& shape, const std::vector<float>& weight) {
  check::context = name_of(shape, isa);
  const std::vector<double> expected = reference::group_l1_norm(shape, weight);
  std::vector<float> norms(expected.size(), std::numeric_limits<float>::quiet_NaN());
  CHECK_EQ(group_l1_norm(shape, weight.data(), norms.data(), isa, Parallel{}).code, Code::ok);
  double worst = 0.0;
  for (std::size_t i = 0; i < norms.size(); ++i) {
    const double error = std::fabs(norms[i] - expected[i]);
    if (!(error <= worst * expected[i])) worst = error / expected[i];
  }
  CHECK(worst <= kTolerance);

  std::vector<float> threaded(norms.size());
  group_l1_norm(shape, weight.data(), threaded.data(), isa, parallel_threads(3));
  CHECK_EQ(std::memcmp(norms.data(), threaded.data(), norms.size() * sizeof(float)), 0);
}

void test_random_shapes(Isa isa) {
  Random random(1);
  for (int i = 0; i < kProblems; ++i) {
    const WeightShape shape = random_shape(random);
    const std::vector<float> weight =
        reference::random_values(random, reference::weight_count(shape));
    check_shape_on(isa, shape, weight);
  }
}

void test_nan_and_infinity_stay_in_their_group(Isa isa) {
  check::context = isa_name(isa);
  const WeightShape shape{2, 8, 1, 3, 1, 4};
  std::vector<float> weight(48, -1.0f);
  weight[0] = std::numeric_limits<float>::quiet_NaN();   // filter 0, channel 0, tap 0
  weight[23] = -std::numeric_limits<float>::infinity();  // filter 0, channel 7, tap 2
  std::vector<float> norms(12);
  CHECK(group_l1_norm(shape, weight.data(), norms.data(), isa, Parallel{}).ok());
  for (std::size_t i = 0; i < norms.size(); ++i) {
    if (i == 0) {
      CHECK(std::isnan(norms[i]));
    } else {
      CHECK_EQ(norms[i], i == 5 ? std::numeric_limits<float>::infinity() : 1.0f);
    }
  }
}

void test_bad_shapes_are_refused(Isa isa) {
  const auto code = [isa](const WeightShape& shape) {
    return group_l1_norm(shape, nullptr, nullptr, isa, Parallel{}).code;
  };
  CHECK_EQ(code({2, 2, 1, 1, 0, 1}), Code::bad_group);
  CHECK_EQ(code({2, 2, 1, 1, 1, -3}), Code::bad_group);
  CHECK_EQ(code({2, 0, 1, 1, 1, 1}), Code::bad_shape);
}

}  // namespace

int main() {
  for (int i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (!isa_usable(isa)) continue;
    test_random_shapes(isa);
    test_nan_and_infinity_stay_in_their_group(isa);
    test_bad_shapes_are_refused(isa);
  }
  return check::finish();
}
