// SPDX-License-Identifier: MIT
// The C interface computes what plain loops do, in memory of exactly the size that it asks for, and
// answers wrong arguments with a status and a text.
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>
#include <string>

#include "check.h"
#include "include/l1sparse.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Elements;
using reference::Random;

namespace {

constexpr int kConvolutions = 300;
constexpr int kWildOptions = 20000;

std::string text_of(const l1sparse_status& status) {
  char text[160];
  l1sparse_status_text(status, text, sizeof(text));
  return text;
}

#define CHECK_OK(status) CHECK_EQ(text_of(status), text_of(l1sparse_status{}))

// A weight as a program has it: packed by the interface, opened where it lies.
struct Weight {
  l1sparse_shape shape{};
  std::vector<float> dense;
  std::vector<std::uint8_t> mask;
  std::optional<AlignedBytes> packed;
  l1sparse_weight opened{};

  WeightShape core() const {
    return {shape.out_channels, shape.in_channels,   shape.kernel_h,
            shape.kernel_w,     shape.group_filters, shape.group_channels};
  }
};

Weight make_weight(Random& random, const l1sparse_shape& shape, std::int32_t strategy) {
  Weight weight;
  weight.shape = shape;
  weight.dense = reference::random_values(random, reference::weight_count(weight.core()));
  weight.mask = reference::random_grid_mask(random, weight.core(), 0.5);
  std::int64_t grid[4] = {};
  CHECK_OK(l1sparse_grid(&shape, grid));
  CHECK_EQ(grid[0] * grid[1] * grid[2] * grid[3], static_cast<std::int64_t>(weight.mask.size()));
  std::size_t bytes = 0;
  CHECK_OK(l1sparse_pack_bytes(&shape, weight.mask.data(), strategy, &bytes));
  weight.packed.emplace(static_cast<std::int64_t>(bytes));
  CHECK_OK(l1sparse_pack(&shape, weight.dense.data(), weight.mask.data(), strategy,
                         weight.packed->data(), bytes));
  CHECK_OK(l1sparse_weight_open(weight.packed->data(), bytes, &weight.opened));
  return weight;
}

l1sparse_shape random_shape(Random& random) {
  return {random.between(1, 5) * 4, random.between(1, 20), random.between(1, 3),
          random.between(1, 3),     random.between(1, 4),  random.between(1, 9)};
}

// ---- packing ----------------------------------------------------------------------------------

void test_packing(Random& random) {
  for (std::int32_t strategy = L1SPARSE_AUTO; strategy <= L1SPARSE_FILTERS; ++strategy) {
    const Weight weight = make_weight(random, random_shape(random), strategy);
    l1sparse_shape shape{};
    CHECK_OK(l1sparse_weight_shape(&weight.opened, &shape));
    CHECK(std::memcmp(&shape, &weight.shape, sizeof(shape)) == 0);

    const std::vector<std::uint8_t> kept = reference::dense_mask(weight.core(), weight.mask);
    std::vector<float> dense(weight.dense.size(), 7.0f);
    CHECK_OK(l1sparse_unpack(&weight.opened, dense.data()));
    for (std::size_t i = 0; i < dense.size(); ++i) {
      CHECK_EQ(dense[i], kept[i] != 0 ? weight.dense[i] : 0.0f);
    }

    const std::vector<double> expected = reference::group_l1_norm(weight.core(), weight.dense);
    std::vector<float> norms(weight.mask.size());
    CHECK_OK(l1sparse_group_l1_norm(&shape, weight.dense.data(), nullptr, norms.data()));
    for (std::size_t i = 0; i < norms.size(); ++i) CHECK(std::fabs(norms[i] - expected[i]) < 1e-5);

    // A copy is as good, and so is a buffer that is opened a second time without its checksum.
    l1sparse_weight copy = weight.opened, again{};
    CHECK_OK(l1sparse_unpack(&copy, dense.data()));
    CHECK_OK(l1sparse_weight_reopen(weight.packed->data(),
                                    static_cast<std::size_t>(weight.packed->bytes()), &again));
    CHECK_OK(l1sparse_unpack(&again, dense.data()));
  }
}

// ---- convolution ------------------------------------------------------------------------------

l1sparse_conv2d_options random_options(Random& random, const l1sparse_shape& shape) {
  const std::int64_t groups = random.one_of({1, 1, 2, 4});
  l1sparse_conv2d_options options;
  l1sparse_conv2d_init(&options, random.between(1, 2), shape.in_channels * groups,
                       random.between(5, 14), random.between(5, 14));
  options.groups = groups;
  options.stride_h = random.between(1, 3);
  options.stride_w = random.between(1, 3);
  options.pad_top = random.between(0, 3);
  options.pad_left = random.between(0, 3);
  options.pad_bottom = random.between(0, 3);
  options.pad_right = random.between(0, 3);
  options.dilation_h = random.between(1, 2);
  options.dilation_w = random.between(1, 2);
  options.dtype = static_cast<std::int32_t>(random.between(0, kDTypeCount - 1));
  options.format = static_cast<std::int32_t>(random.between(0, 1));
  options.activation = static_cast<std::int32_t>(random.between(0, 3));
  options.low = -0.5f;
  options.high = 0.75f;
  return options;
}

// Where an input without strides lies.
Strides4 dense_strides(const l1sparse_conv2d_options& options) {
  const std::int64_t c = options.in_channels, h = options.in_h, w = options.in_w;
  if (options.format == L1SPARSE_NHWC) return {c * h * w, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

void test_convolution(Random& random) {
  const auto strategy = static_cast<std::int32_t>(random.between(0, kStrategyCount));
  const Weight weight = make_weight(random, random_shape(random), strategy);
  l1sparse_conv2d_options options = random_options(random, weight.shape);
  Conv2dProblem problem{};
  problem.weight.shape = weight.core();
  problem.input_strides = dense_strides(options);
  if (random.chance(0.5)) {
    const std::int64_t gap = random.between(1, 3);
    Strides4& s = problem.input_strides;
    s = {s.n * gap, s.c * gap, s.h * gap, s.w * gap};
    const std::int64_t strides[4] = {s.n, s.c, s.h, s.w};
    std::memcpy(options.input_strides, strides, sizeof(strides));
  }
  const Parallel pool = parallel_threads(random.between(1, 3));
  const l1sparse_threads threads = {pool.run, pool.pool, pool.threads};
  l1sparse_conv2d_sizes sizes{};
  CHECK_OK(l1sparse_conv2d_query(&weight.opened, &options, threads.count, &sizes));

  problem.batch = options.batch;
  problem.in_channels = options.in_channels;
  problem.in_h = options.in_h;
  problem.in_w = options.in_w;
  problem.stride_h = options.stride_h;
  problem.stride_w = options.stride_w;
  problem.pad_top = options.pad_top;
  problem.pad_left = options.pad_left;
  problem.dilation_h = options.dilation_h;
  problem.dilation_w = options.dilation_w;
  problem.groups = options.groups;
  problem.out_h = sizes.out_h;
  problem.out_w = sizes.out_w;
  problem.dtype = static_cast<DType>(options.dtype);
  problem.channels_last = options.format == L1SPARSE_NHWC;
  problem.activation = static_cast<Activation>(options.activation);
  problem.low = options.low;
  problem.high = options.high;
  const std::int64_t outputs = reference::output_count(problem);
  CHECK_EQ(static_cast<std::int64_t>(sizes.output_bytes), outputs * size_of(problem.dtype));

  const Strides4& s = problem.input_strides;
  const std::int64_t reach = (options.batch - 1) * s.n + (options.in_channels - 1) * s.c +
                             (options.in_h - 1) * s.h + (options.in_w - 1) * s.w + 1;
  const Elements input = reference::random_elements(random, problem.dtype, reach);
  const Elements residual = reference::random_elements(random, problem.dtype, outputs);
  const std::vector<float> bias = reference::random_values(random, weight.shape.out_channels);
  Elements output(problem.dtype, outputs, 99.0f);
  l1sparse_conv2d_tensors tensors{};
  tensors.input = input.data();
  tensors.bias = random.chance(0.5) ? bias.data() : nullptr;
  tensors.residual = random.chance(0.5) ? residual.data() : nullptr;
  tensors.output = output.data();
  AlignedBytes workspace(static_cast<std::int64_t>(sizes.workspace_bytes));
  CHECK_OK(l1sparse_conv2d(&weight.opened, &options, &tensors, &threads, workspace.data(),
                           sizes.workspace_bytes));

  const std::vector<reference::Expected> expected =
      reference::conv2d(problem, {tensors.input, tensors.bias, tensors.residual, nullptr},
                        weight.dense, reference::dense_mask(weight.core(), weight.mask));
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < outputs; ++i) {
    wrong += !expected[static_cast<std::size_t>(i)].accepts(problem.dtype, output.at(i));
  }
  CHECK_EQ(wrong, 0);

  l1sparse_conv2d_tensors shifted = tensors;
  shifted.bias = reinterpret_cast<const float*>(reinterpret_cast<const char*>(bias.data()) + 2);
  CHECK_EQ(text_of(l1sparse_conv2d(&weight.opened, &options, &shifted, &threads, workspace.data(),
                                   sizes.workspace_bytes)),
           "bias: starts 2 bytes past a multiple of 4, expected 0");
  shifted = tensors;
  shifted.output = static_cast<char*>(tensors.output) + 1;
  CHECK_EQ(text_of(l1sparse_conv2d(&weight.opened, &options, &shifted, &threads, workspace.data(),
                                   sizes.workspace_bytes)),
           "output: starts 1 bytes past a multiple of " + std::to_string(size_of(problem.dtype)) +
               ", expected 0");
  if (sizes.workspace_bytes == 0) return;
  const l1sparse_status less = l1sparse_conv2d(&weight.opened, &options, &tensors, &threads,
                                               workspace.data(), sizes.workspace_bytes - 1);
  CHECK_EQ(less.code, static_cast<std::int32_t>(L1SPARSE_WORKSPACE_TOO_SMALL));
  const l1sparse_status none =
      l1sparse_conv2d(&weight.opened, &options, &tensors, &threads, nullptr, sizes.workspace_bytes);
  CHECK_EQ(none.code, static_cast<std::int32_t>(L1SPARSE_NULL_ARGUMENT));
  const l1sparse_status past = l1sparse_conv2d(&weight.opened, &options, &tensors, &threads,
                                               workspace.data() + 4, sizes.workspace_bytes);
  CHECK_EQ(past.code, static_cast<std::int32_t>(L1SPARSE_UNALIGNED));
}

// ---- wrong arguments ----------------------------------------------------------------------------

void test_null_arguments(Random& random) {
  const Weight weight = make_weight(random, {4, 8, 3, 3, 1, 8}, L1SPARSE_AUTO);
  const auto bytes = static_cast<std::size_t>(weight.packed->bytes());
  const l1sparse_shape& shape = weight.shape;
  const float* const dense = weight.dense.data();
  const std::uint8_t* const mask = weight.mask.data();
  l1sparse_shape found{};
  l1sparse_weight opened{};
  l1sparse_conv2d_options options;
  l1sparse_conv2d_init(&options, 1, 8, 5, 5);
  l1sparse_conv2d_init(nullptr, 1, 8, 5, 5);
  l1sparse_conv2d_sizes sizes{};
  l1sparse_conv2d_tensors tensors{};
  std::int64_t grid[4];
  std::size_t size = 0;
  float value = 0.0f;
  AlignedBytes buffer(static_cast<std::int64_t>(bytes));
  const l1sparse_threads no_run = {nullptr, nullptr, 1};
  const l1sparse_status statuses[] = {
      l1sparse_weight_open(nullptr, bytes, &opened),
      l1sparse_weight_open(weight.packed->data(), bytes, nullptr),
      l1sparse_weight_reopen(nullptr, bytes, &opened),
      l1sparse_weight_shape(nullptr, &found),
      l1sparse_weight_shape(&weight.opened, nullptr),
      l1sparse_unpack(nullptr, &value),
      l1sparse_unpack(&weight.opened, nullptr),
      l1sparse_grid(nullptr, grid),
      l1sparse_grid(&shape, nullptr),
      l1sparse_pack_bytes(nullptr, mask, 0, &size),
      l1sparse_pack_bytes(&shape, nullptr, 0, &size),
      l1sparse_pack_bytes(&shape, mask, 0, nullptr),
      l1sparse_pack(nullptr, dense, mask, 0, buffer.data(), bytes),
      l1sparse_pack(&shape, nullptr, mask, 0, buffer.data(), bytes),
      l1sparse_pack(&shape, dense, nullptr, 0, buffer.data(), bytes),
      l1sparse_pack(&shape, dense, mask, 0, nullptr, bytes),
      l1sparse_group_l1_norm(nullptr, dense, nullptr, &value),
      l1sparse_group_l1_norm(&shape, nullptr, nullptr, &value),
      l1sparse_group_l1_norm(&shape, dense, nullptr, nullptr),
      l1sparse_group_l1_norm(&shape, dense, &no_run, &value),
      l1sparse_conv2d_query(nullptr, &options, 1, &sizes),
      l1sparse_conv2d_query(&weight.opened, nullptr, 1, &sizes),
      l1sparse_conv2d_query(&weight.opened, &options, 1, nullptr),
      l1sparse_conv2d(nullptr, &options, &tensors, nullptr, nullptr, 0),
      l1sparse_conv2d(&weight.opened, nullptr, &tensors, nullptr, nullptr, 0),
      l1sparse_conv2d(&weight.opened, &options, nullptr, nullptr, nullptr, 0),
      l1sparse_conv2d(&weight.opened, &options, &tensors, nullptr, nullptr, 0),
      l1sparse_conv2d(&weight.opened, &options, &tensors, &no_run, nullptr, 0),
      l1sparse_select_isa(nullptr),
  };
  for (const l1sparse_status& status : statuses) {
    check::context = "status " + std::to_string(&status - statuses);
    CHECK_EQ(status.code, static_cast<std::int32_t>(L1SPARSE_NULL_ARGUMENT));
    CHECK(text_of(status).find(": is a null pointer") != std::string::npos);
  }
  CHECK_EQ(l1sparse_has(nullptr), 0);
  const l1sparse_weight never{};
  CHECK_EQ(l1sparse_unpack(&never, &value).code,
           static_cast<std::int32_t>(L1SPARSE_WEIGHT_NOT_OPEN));
  CHECK_EQ(l1sparse_pack(&shape, dense, mask, 0, buffer.data(), bytes - 4).code,
           static_cast<std::int32_t>(L1SPARSE_PACKED_SIZE));
  for (const std::int64_t count : {std::int64_t{0}, std::int64_t{65537}, INT64_MAX}) {
    CHECK_EQ(l1sparse_conv2d_query(&weight.opened, &options, count, &sizes).code,
             static_cast<std::int32_t>(L1SPARSE_OUT_OF_RANGE));
  }
  for (const std::int32_t strategy :
       {-1, L1SPARSE_FILTERS + 1, std::numeric_limits<std::int32_t>::max()}) {
    CHECK_EQ(l1sparse_pack_bytes(&shape, mask, strategy, &size).code,
             static_cast<std::int32_t>(L1SPARSE_OUT_OF_RANGE));
  }
}

// Numbers at which something overflows, if it does not look.
std::int64_t wild_number(Random& random) {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int64_t>::max();
  const std::int64_t number =
      random.one_of({std::int64_t{0}, std::int64_t{1}, std::int64_t{2}, std::int64_t{1} << 16,
                     std::int64_t{0x3fffffff}, std::int64_t{1} << 31, std::int64_t{1} << 32,
                     std::int64_t{1} << 62, kLimit});
  return random.chance(0.3) ? -number : number;
}

void test_wild_options(Random& random) {
  const Weight weight = make_weight(random, {8, 6, 3, 3, 1, 4}, L1SPARSE_AUTO);
  int accepted = 0;
  for (int i = 0; i < kWildOptions; ++i) {
    check::context = "options " + std::to_string(i);
    l1sparse_conv2d_options options = random_options(random, weight.shape);
    std::int64_t* const numbers[] = {&options.batch,     &options.in_channels, &options.in_h,
                                     &options.in_w,      &options.stride_h,    &options.stride_w,
                                     &options.pad_top,   &options.pad_left,    &options.pad_bottom,
                                     &options.pad_right, &options.dilation_h,  &options.dilation_w,
                                     &options.groups};
    for (std::int64_t left = random.between(1, 3); left > 0; --left) {
      *numbers[random.between(0, std::ssize(numbers) - 1)] = wild_number(random);
    }
    const std::int64_t threads = random.chance(0.2) ? wild_number(random) : 1;
    l1sparse_conv2d_sizes sizes{};
    l1sparse_conv2d_tensors none{};
    const l1sparse_status queried =
        l1sparse_conv2d_query(&weight.opened, &options, threads, &sizes);
    const l1sparse_status ran =
        l1sparse_conv2d(&weight.opened, &options, &none, nullptr, nullptr, 0);
    CHECK(queried.code == L1SPARSE_OK || !text_of(queried).empty());
    CHECK(options.batch == 0 || ran.code != L1SPARSE_OK);
    accepted += queried.code == L1SPARSE_OK;
  }
  check::context.clear();
  std::printf("of %d wild options %d were accepted\n", kWildOptions, accepted);
  CHECK(accepted > 100 && accepted < kWildOptions / 2);
}

// 1 GiB to 16 GiB of input, output or both: what a 32-bit processor can't address is refused.
void test_sizes_beyond_memory(Random& random) {
  const Weight weight = make_weight(random, {4, 4, 1, 1, 1, 4}, L1SPARSE_AUTO);
  for (const std::int64_t side : {8192, 16384, 32768}) {
    l1sparse_conv2d_options options;
    l1sparse_conv2d_init(&options, 1, 4, side, side);
    l1sparse_conv2d_sizes sizes{};
    const l1sparse_status status = l1sparse_conv2d_query(&weight.opened, &options, 1, &sizes);
    const std::int64_t bytes = 16 * side * side;
    const bool fits = bytes < PTRDIFF_MAX;
    CHECK_EQ(status.code, static_cast<std::int32_t>(fits ? L1SPARSE_OK : L1SPARSE_TOO_LARGE));
    CHECK_EQ(static_cast<std::int64_t>(sizes.output_bytes), fits ? bytes : 0);
  }
}

// Whatever the status and however little room there is, a text ends inside it.
void test_texts(Random& random) {
  for (std::int32_t code = -2; code < 200; ++code) {
    for (const std::size_t capacity : {0, 1, 7, 160}) {
      std::vector<char> text(capacity, '?');
      const auto argument = static_cast<std::int32_t>(wild_number(random));
      l1sparse_status_text({code, argument, wild_number(random), wild_number(random)}, text.data(),
                           capacity);
      CHECK(capacity == 0 || std::memchr(text.data(), 0, capacity) != nullptr);
    }
  }
  l1sparse_status_text({}, nullptr, 10);
}

// The checksum of "123456789" is CRC-32's check value.
void test_programs() {
  const std::string whole = std::string("123456789L1SPCRC1") + "\x26\x39\xf4\xcb";
  CHECK_OK(l1sparse_program_check(whole.data(), whole.size()));
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    const std::vector<char> bytes(damaged.begin(), damaged.end());
    const bool in_magic = i >= 9 && i < 17;
    CHECK_EQ(l1sparse_program_check(bytes.data(), bytes.size()).code,
             static_cast<std::int32_t>(in_magic ? L1SPARSE_PROGRAM_UNCHECKED
                                                : L1SPARSE_PROGRAM_DAMAGED));
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK(l1sparse_program_check(cut.data() == nullptr ? "" : cut.data(), i).code != L1SPARSE_OK);
  }
  CHECK_EQ(l1sparse_program_check(nullptr, 9).code,
           static_cast<std::int32_t>(L1SPARSE_NULL_ARGUMENT));
}

}  // namespace

int main() {
  Random random(23);
  for (const Isa isa : reference::usable_isas()) {
    CHECK_OK(l1sparse_select_isa(isa_name(isa)));
    CHECK_EQ(std::string(l1sparse_isa()), isa_name(isa));
    CHECK_EQ(l1sparse_has(isa_name(isa)), 1);
    test_packing(random);
    for (int i = 0; i < kConvolutions; ++i) {
      check::context = std::string(isa_name(isa)) + ", convolution " + std::to_string(i);
      test_convolution(random);
    }
    check::context.clear();
  }
  CHECK_EQ(l1sparse_select_isa("telepathy").code, static_cast<std::int32_t>(L1SPARSE_UNKNOWN_ISA));
  CHECK_OK(l1sparse_select_isa(""));
  test_null_arguments(random);
  test_wild_options(random);
  test_sizes_beyond_memory(random);
  test_texts(random);
  test_programs();
  return check::finish();
}
