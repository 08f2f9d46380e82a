// SPDX-License-Identifier: MIT
// Many threads convolve with one packed weight and one input at the same time. Results are compared
// with a lone call's; built with the thread sanitizer (`make race`), any data race is found as
// well.
#include <atomic>
#include <string>
#include <thread>

#include "check.h"
#include "kernels/conv2d/conv2d.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Elements;
using reference::Random;

namespace {

constexpr int kCallers = 8;
constexpr int kCalls = 12;  // of each caller

Elements convolve(const Conv2dProblem& problem, const Elements& input, Isa isa,
                  const Parallel& parallel) {
  Elements output(problem.dtype, reference::output_count(problem), -1.0f);
  std::int64_t bytes = 0;
  if (!conv2d_workspace(problem, isa, parallel.threads, &bytes).ok()) return {};
  AlignedBytes workspace(bytes);
  const Conv2dTensors tensors{input.data(), nullptr, nullptr, output.data()};
  const char* ran = nullptr;
  if (!conv2d(problem, tensors, isa, parallel, workspace.data(), &ran).ok()) return {};
  return output;
}

void check_concurrent_calls(const Conv2dProblem& problem, const Elements& input,
                            const std::vector<Isa>& isas) {
  std::vector<Elements> alone;
  for (const Isa isa : isas) alone.push_back(convolve(problem, input, isa, Parallel{}));
  std::atomic<int> ready{0}, wrong{0};
  const auto caller = [&](int number) {
    ++ready;
    while (ready < kCallers) std::this_thread::yield();  // all begin together
    for (int call = 0; call < kCalls; ++call) {
      const std::size_t at = static_cast<std::size_t>(number + call) % isas.size();
      const Parallel parallel = call % 3 == 0 ? parallel_threads(3) : Parallel{};
      if (!isa_usable(selected_isa())) ++wrong;
      if (!convolve(problem, input, isas[at], parallel).same_bits(alone[at])) ++wrong;
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) callers.emplace_back(caller, i);
  for (std::thread& thread : callers) thread.join();
  CHECK_EQ(wrong.load(), 0);
}

}  // namespace

int main() {
  Random random(16);
  const WeightShape shape{150, 40, 3, 3, 1, 8};
  const std::vector<float> weight =
      reference::random_values(random, reference::weight_count(shape));
  const std::vector<std::uint8_t> mask = reference::random_grid_mask(random, shape, 0.1);
  for (const Strategy strategy : reference::strategies()) {
    const AlignedBytes packed = reference::packed_weight(shape, weight, mask, strategy);
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (const std::int64_t stride : {1, 2}) {
        Conv2dProblem problem{};
        CHECK(open_packed(packed.data(), packed.bytes(), &problem.weight).ok());
        problem.batch = 1;
        problem.groups = 1;
        problem.in_channels = shape.in_channels;
        problem.in_h = problem.in_w = 13;
        problem.stride_h = problem.stride_w = stride;
        problem.dilation_h = problem.dilation_w = problem.pad_top = problem.pad_left = 1;
        problem.out_h = problem.out_w = conv_output_size(13, 2, 3, stride, 1);
        problem.dtype = dtype;
        problem.input_strides = {40 * 169, 169, 13, 1};
        problem.channels_last = stride == 2;
        const Elements input = reference::random_elements(random, dtype, 40 * 169);
        check::context = std::string(strategy_name(strategy)) + ", stride " +
                         std::to_string(stride) + ", type " +
                         std::to_string(static_cast<int>(dtype));
        check_concurrent_calls(problem, input, reference::usable_isas());
      }
    }
  }
  return check::finish();
}
