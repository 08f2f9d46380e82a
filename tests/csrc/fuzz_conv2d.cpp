// SPDX-License-Identifier: MIT
// Random convolutions against plain loops in double precision, every tensor right next to memory
// that cannot be touched.
//
//   fuzz_conv2d [--count N] [--seed FIRST] [--isa NAME] [--strategy NAME]
//
// A case is made from its seed alone, so the line that names a failure also repeats it.
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "check.h"
#include "guarded.h"
#include "kernels/conv2d/conv2d.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Elements;
using reference::Expected;
using reference::Random;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---- a case ---------------------------------------------------------------------------------

struct Case {
  WeightShape shape;
  Conv2dProblem problem{};          // `weight` is left out but for the shape
  std::vector<float> weight, bias;  // an empty bias, and an empty residual: none
  std::vector<std::uint8_t> grid_mask;
  Elements input, residual;
  std::int64_t threads;
  bool compare_threads;
  // Whether each lies before an unreadable page, or after one.
  bool input_at_end, bias_at_end, residual_at_end, packed_at_end, output_at_end, workspace_at_end;

  std::vector<Expected> expected() const {
    const Conv2dTensors tensors{input.data(), bias.empty() ? nullptr : bias.data(), residual.data(),
                                nullptr};
    const std::vector<Expected> outputs =
        reference::conv2d(problem, tensors, weight, reference::dense_mask(shape, grid_mask));
    return problem.pool.kernel_h == 0 ? outputs : reference::max_pool(problem, outputs);
  }
};

// The sizes of one axis, from which its output size follows.
struct Axis {
  std::int64_t size, kernel, stride, dilation, before, after;  // `before` and `after`: padding

  std::int64_t outputs() const {
    return conv_output_size(size, before + after, kernel, stride, dilation);
  }
  void make_room() {
    while (outputs() < 1) ++size;
  }
};

Axis random_axis(Random& random, std::int64_t size, std::int64_t kernel) {
  constexpr std::int64_t kStrides[] = {1, 1, 1, 1, 2, 2, 2, 3, 4};
  constexpr std::int64_t kDilations[] = {1, 1, 1, 1, 2, 3};
  Axis axis{size, kernel, random.one_of(kStrides), random.one_of(kDilations), 0, 0};
  if (random.chance(0.03)) axis.dilation = random.between(4, 20);
  if (random.chance(0.4)) {  // the output is as large as the input
    axis.before = axis.dilation * (kernel - 1) / 2;
    axis.after = axis.dilation * (kernel - 1) - axis.before;
  } else {
    axis.before = random.between(0, 4);
    axis.after = random.between(0, 4);
  }
  return axis;
}

std::int64_t random_kernel(Random& random) {
  constexpr std::int64_t kCommon[] = {1, 1, 3};
  if (random.chance(0.01)) return random.between(8, 13);
  return random.chance(0.6) ? random.one_of(kCommon) : random.between(1, 7);
}

void choose_sizes(Random& random, Case& test) {
  constexpr std::int64_t kGroups[][2] = {{1, 8},   {1, 8}, {1, 16}, {1, 4},  {4, 4},
                                         {16, 16}, {1, 1}, {2, 3},  {3, 5},  {1, 12},
                                         {1, 32},  {8, 1}, {40, 8}, {150, 2}};
  constexpr std::int64_t kConvGroups[] = {1, 1, 1, 1, 1, 2, 3, 4};
  constexpr double kDensities[] = {0.0, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0};
  const auto& group = kGroups[random.between(0, std::ssize(kGroups) - 1)];
  const std::int64_t conv_groups = random.one_of(kConvGroups);
  std::int64_t filters = random.between(1, random.chance(0.2) ? 600 : 24);
  std::int64_t channels = random.between(1, random.chance(0.2) ? 200 : 24);
  std::int64_t batch = random.chance(0.03) ? 0 : random.chance(0.6) ? 1 : random.between(2, 3);
  const std::int64_t kernel_h = random_kernel(random);
  const std::int64_t kernel_w = random.chance(0.6) ? kernel_h : random_kernel(random);
  const std::int64_t most = random.chance(0.4) ? 12 : 60;
  Axis rows = random_axis(random, random.between(1, most), kernel_h);
  Axis cols = random_axis(random, random.between(1, most), kernel_w);
  if (random.chance(0.7)) cols.stride = rows.stride;
  if (random.chance(0.04)) {
    rows.size = random.between(1, 3);
    cols.size = random.between(200, 5000);
  }
  const double density = random.one_of(kDensities);
  const double most_products = random.chance(0.01) ? 2e7 : 4e5;

  // Halves sizes, all but one at first, until the case takes little time.
  std::int64_t* const sizes[] = {&filters, &channels, &rows.size, &cols.size};
  const std::int64_t spared = random.between(0, 3);
  while (true) {
    rows.make_room();
    cols.make_room();
    const double outputs = static_cast<double>(conv_groups * filters * batch) *
                           static_cast<double>(rows.outputs() * cols.outputs());
    if (outputs * (1.0 + density * static_cast<double>(channels * kernel_h * kernel_w)) <=
        most_products) {
      break;
    }
    const std::int64_t at = random.between(0, 3);
    bool others_small = true;
    for (std::int64_t i = 0; i < 4; ++i) others_small &= i == spared || *sizes[i] < 8;
    if (at != spared || others_small) *sizes[at] = (*sizes[at] + 1) / 2;
    if (others_small) batch = batch < 1 ? batch : 1;
  }

  test.shape = {conv_groups * filters, channels, kernel_h, kernel_w, group[0], group[1]};
  Conv2dProblem& problem = test.problem;
  problem.weight.shape = test.shape;
  problem.batch = batch;
  problem.groups = conv_groups;
  problem.in_channels = conv_groups * channels;
  problem.in_h = rows.size;
  problem.in_w = cols.size;
  problem.out_h = rows.outputs();
  problem.out_w = cols.outputs();
  problem.stride_h = rows.stride;
  problem.stride_w = cols.stride;
  problem.pad_top = rows.before;
  problem.pad_left = cols.before;
  problem.dilation_h = rows.dilation;
  problem.dilation_w = cols.dilation;
  test.grid_mask = reference::random_grid_mask(random, test.shape, density);
}

void choose_types(Random& random, Case& test) {
  constexpr float kBounds[][2] = {{0.0f, 6.0f}, {-1.0f, 1.0f}, {-0.25f, kInfinity}, {0.5f, 0.5f}};
  Conv2dProblem& problem = test.problem;
  problem.dtype = static_cast<DType>(random.between(0, kDTypeCount - 1));
  problem.activation = static_cast<Activation>(random.between(0, 3));
  const auto& bounds = kBounds[random.between(0, std::ssize(kBounds) - 1)];
  problem.low = bounds[0];
  problem.high = bounds[1];
  problem.channels_last = random.chance(0.5);
}

// Prunes some channel groups of every filter.
void prune_channel_groups(Random& random, Case& test) {
  const GroupGrid grid = reference::grid_of(test.shape);
  for (std::int64_t group = 0; group < grid.channel_groups; ++group) {
    if (random.chance(0.6)) continue;
    for (std::int64_t i = 0; i < grid.filter_groups; ++i) {
      for (std::int64_t tap = 0; tap < grid.taps; ++tap) {
        test.grid_mask[static_cast<std::size_t>((i * grid.channel_groups + group) * grid.taps +
                                                tap)] = 0;
      }
    }
  }
}

// Of the input's channels, those that a kept weight reads.
std::vector<bool> channels_read(const Case& test) {
  const WeightShape& shape = test.shape;
  std::vector<bool> read(static_cast<std::size_t>(test.problem.in_channels));
  const std::int64_t filters = shape.out_channels / test.problem.groups;
  const std::int64_t taps = shape.kernel_h * shape.kernel_w;
  for (std::int64_t i = 0; i < reference::weight_count(shape); ++i) {
    if (test.grid_mask[reference::group_index(shape, i)] == 0) continue;
    const std::int64_t filter = i / taps / shape.in_channels;
    const std::int64_t channel = i / taps % shape.in_channels;
    read[static_cast<std::size_t>(filter / filters * shape.in_channels + channel)] = true;
  }
  return read;
}

// Strides of the input, and how many elements they span.
std::int64_t choose_layout(Random& random, Conv2dProblem& problem) {
  Strides4& strides = problem.input_strides;
  const std::int64_t sizes[] = {problem.batch, problem.in_channels, problem.in_h, problem.in_w};
  std::int64_t* const steps[] = {&strides.n, &strides.c, &strides.h, &strides.w};
  int order[] = {3, 2, 1, 0};  // NCHW, innermost first
  const std::int64_t kind = random.between(0, 9);
  const bool any = kind >= 7;
  if (kind >= 4) {
    order[0] = 1, order[1] = 3, order[2] = 2;  // NHWC
  }
  if (any) {
    for (int i = 3; i > 0; --i) std::swap(order[i], order[random.between(0, i)]);
  }
  std::int64_t next = any ? random.between(1, 2) : 1, span = 1;
  for (const int axis : order) {
    *steps[axis] = next;
    if (any && random.chance(0.05)) *steps[axis] = 0;  // an expanded axis
    span += (sizes[axis] - 1) * *steps[axis];
    next *= sizes[axis] + (any ? random.between(0, 3) : 0);
  }
  return problem.batch == 0 ? 0 : span;
}

void fill_input(Random& random, Case& test) {
  constexpr float kScales[] = {1.0f, 1.0f, 1.0f, 0x1p-14f, 0x1p12f};
  Conv2dProblem& problem = test.problem;
  const std::int64_t span = choose_layout(random, problem);
  const Strides4& strides = problem.input_strides;
  const float scale = random.one_of(kScales);
  const bool poison = strides.c != 0 && random.chance(0.5);
  const std::vector<bool> read = channels_read(test);
  test.input = Elements(problem.dtype, span, kNan);
  for (std::int64_t n = 0; n < problem.batch; ++n) {
    for (std::int64_t c = 0; c < problem.in_channels; ++c) {
      const bool bad = poison && !read[static_cast<std::size_t>(c)];
      for (std::int64_t h = 0; h < problem.in_h; ++h) {
        for (std::int64_t w = 0; w < problem.in_w; ++w) {
          const float bad_value = (h + w) % 2 == 0 ? kNan : kInfinity;
          test.input.set(n * strides.n + c * strides.c + h * strides.h + w * strides.w,
                         bad ? bad_value : scale * random.value());
        }
      }
    }
  }
  if (span > 0 && random.chance(0.05)) {  // where it is read, it has to come out
    for (const float value : {kNan, kInfinity, -kInfinity}) {
      test.input.set(random.between(0, span - 1), value);
    }
  }
}

// One axis of the windows of a pooling, if there is room for one.
void choose_windows(Random& random, std::int64_t outputs, std::int64_t& kernel,
                    std::int64_t& stride, std::int64_t& padding, std::int64_t& windows) {
  constexpr std::int64_t kKernels[] = {2, 2, 3, 3, 1, 4, 7};
  constexpr std::int64_t kStrides[] = {2, 2, 2, 1, 3, 5};
  kernel = random.one_of(kKernels);
  stride = random.one_of(kStrides);
  padding = random.between(0, kernel / 2);
  windows = conv_output_size(outputs, 2 * padding, kernel, stride, 1);
}

void choose_pooling(Random& random, Case& test) {
  Conv2dProblem& problem = test.problem;
  MaxPool pool{};
  choose_windows(random, problem.out_h, pool.kernel_h, pool.stride_h, pool.pad_top, pool.out_h);
  choose_windows(random, problem.out_w, pool.kernel_w, pool.stride_w, pool.pad_left, pool.out_w);
  if (pool.out_h < 1 || pool.out_w < 1) return;
  problem.pool = pool;
  problem.channels_last = false;
  test.residual = {};
}

Case make_case(std::uint64_t seed) {
  Random random(seed);
  Case test;
  choose_sizes(random, test);
  choose_types(random, test);
  if (random.chance(0.3)) prune_channel_groups(random, test);
  test.weight = reference::random_values(random, reference::weight_count(test.shape));
  if (random.chance(0.5)) reference::round_to_bfloat16(test.weight);
  fill_input(random, test);
  if (random.chance(0.5)) {
    test.bias = reference::random_values(random, test.shape.out_channels);
  }
  if (random.chance(0.5)) {
    test.residual = reference::random_elements(random, test.problem.dtype,
                                               reference::output_count(test.problem));
  }
  test.threads = random.between(1, 5);
  test.compare_threads = random.chance(0.5);
  for (bool* at_end : {&test.input_at_end, &test.bias_at_end, &test.residual_at_end,
                       &test.packed_at_end, &test.output_at_end, &test.workspace_at_end}) {
    *at_end = random.chance(0.5);
  }
  if (random.chance(0.25)) choose_pooling(random, test);
  return test;
}

// ---- running it -----------------------------------------------------------------------------

struct Memory {
  GuardedBytes input, bias, residual, packed, output, workspace;
};

constexpr std::int64_t kAlignment = 64;  // of packed weight and workspace

// Puts what is read into memory, the weight packed for `strategy`.
void place_inputs(const Case& test, Strategy strategy, Memory& memory, Conv2dProblem& problem,
                  Conv2dTensors& tensors) {
  const AlignedBytes packed =
      reference::packed_weight(test.shape, test.weight, test.grid_mask, strategy);
  memory.packed.place(packed.data(), packed.bytes(),
                      test.packed_at_end && packed.bytes() % kAlignment == 0);
  problem = test.problem;
  CHECK(open_packed(memory.packed.data(), packed.bytes(), &problem.weight).ok());
  const std::int64_t size = size_of(problem.dtype);
  tensors = {};
  tensors.input =
      memory.input.place(test.input.data(), test.input.count() * size, test.input_at_end);
  if (!test.bias.empty()) {
    tensors.bias = reinterpret_cast<const float*>(memory.bias.place(
        test.bias.data(), std::ssize(test.bias) * std::int64_t{sizeof(float)}, test.bias_at_end));
  }
  if (test.residual.count() > 0) {
    tensors.residual = memory.residual.place(test.residual.data(), test.residual.count() * size,
                                             test.residual_at_end);
  }
}

// Leaves the output in memory.
void run(const Case& test, const Conv2dProblem& problem, Conv2dTensors tensors, Isa isa,
         std::int64_t threads, Memory& memory) {
  std::int64_t bytes = 0;
  CHECK_EQ(conv2d_workspace(problem, isa, threads, &bytes).code, Code::ok);
  memory.workspace.place(bytes, test.workspace_at_end && bytes % kAlignment == 0);
  tensors.output = memory.output.place(reference::result_count(problem) * size_of(problem.dtype),
                                       test.output_at_end);
  const char* ran = "";
  CHECK_EQ(
      conv2d(problem, tensors, isa, parallel_threads(threads), memory.workspace.data(), &ran).code,
      Code::ok);
  CHECK_EQ(std::string(ran), problem.batch == 0 ? "" : reference::kernels_of(problem, isa));
  CHECK(memory.output.intact());
  CHECK(memory.workspace.intact());
}

void check_output(const Conv2dProblem& problem, const std::vector<Expected>& expected,
                  const void* output) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double got = reference::element(problem.dtype, output, static_cast<std::int64_t>(i));
    if (expected[i].accepts(problem.dtype, got)) continue;
    std::printf("output %zu of %zu is %.9g, expected %.9g +- %.3g\n", i, expected.size(), got,
                expected[i].value, expected[i].error);
    CHECK(!"outputs are within the error bound");
    return;
  }
  CHECK(true);
}

void run_case(const Case& test, const std::vector<Isa>& isas,
              const std::vector<Strategy>& strategies, const std::string& repeat, Memory& memory) {
  const std::vector<Expected> expected = test.expected();
  for (const Strategy strategy : strategies) {
    if (test.problem.pool.kernel_h != 0 && strategy == Strategy::channels) continue;
    Conv2dProblem problem;
    Conv2dTensors tensors;
    place_inputs(test, strategy, memory, problem, tensors);
    for (const Isa isa : isas) {
      check::context =
          repeat + " --isa " + isa_name(isa) + " --strategy " + strategy_name(strategy);
      run(test, problem, tensors, isa, test.threads, memory);
      check_output(problem, expected, memory.output.data());
      if (test.threads == 1 || !test.compare_threads) continue;
      const std::vector<std::uint8_t> output(memory.output.data(),
                                             memory.output.data() + memory.output.bytes());
      run(test, problem, tensors, isa, 1, memory);
      CHECK(output.empty() || std::memcmp(output.data(), memory.output.data(), output.size()) == 0);
    }
  }
}

// ---- the program ----------------------------------------------------------------------------

struct sigaction old_action;

// Says which case touched what it must not, then lets the fault happen again, as without this.
void on_fault(int, siginfo_t*, void*) {
  const auto say = [](const char* text, std::size_t size) {
    if (write(STDOUT_FILENO, text, size) < 0) return;
  };
  constexpr char kText[] = "fault: memory was touched that must not be, with ";
  say(kText, sizeof(kText) - 1);
  say(check::context.data(), check::context.size());
  say("\n", 1);
  sigaction(SIGSEGV, &old_action, nullptr);
}

struct Options {
  std::int64_t count = 300, seed = 0;
  std::vector<Isa> isas = reference::usable_isas();
  std::vector<Strategy> strategies = reference::strategies();
};

// Keeps the one of `all` that has the name.
template <class T, class NameOf>
bool keep_named(std::vector<T>& all, const std::string& name, NameOf name_of) {
  std::erase_if(all, [&](T one) { return name != name_of(one); });
  return !all.empty();
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    char* end = nullptr;
    const std::int64_t number = std::strtoll(value.c_str(), &end, 10);
    const bool is_number = !value.empty() && *end == '\0' && number >= 0;
    if (option == "--count" && is_number) {
      options.count = number;
    } else if (option == "--seed" && is_number) {
      options.seed = number;
    } else if (!(option == "--isa" && keep_named(options.isas, value, isa_name)) &&
               !(option == "--strategy" && keep_named(options.strategies, value, strategy_name))) {
      std::fprintf(stderr, "%s %s: not an option, or nothing that can be run here\n",
                   option.c_str(), value.c_str());
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) return 2;
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, &old_action);
  std::printf("%zu instruction sets, %zu strategies\n", options.isas.size(),
              options.strategies.size());
  Memory memory;
  for (std::int64_t done = 0; done < options.count && check::counts.failed == 0; ++done) {
    const std::int64_t seed = options.seed + done;
    if (done > 0 && done % 1000 == 0) {
      std::printf("%lld of %lld cases passed; --seed %lld goes on from here\n",
                  static_cast<long long>(done), static_cast<long long>(options.count),
                  static_cast<long long>(seed));
      std::fflush(stdout);
    }
    const std::string repeat = "--count 1 --seed " + std::to_string(seed);
    check::context = repeat;
    run_case(make_case(static_cast<std::uint64_t>(seed)), options.isas, options.strategies, repeat,
             memory);
  }
  return check::finish();
}
