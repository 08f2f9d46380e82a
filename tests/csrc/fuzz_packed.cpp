// SPDX-License-Identifier: MIT
// Damaged packed buffers: each is refused or can be used, and none makes the core touch memory that
// is not its own. Sanitizers watch; every buffer has exactly the size that the core is told.
#include <cstddef>
#include <cstring>
#include <map>
#include <string>

#include "base/checked.h"
#include "check.h"
#include "kernels/conv2d/conv2d.h"
#include "reference.h"
#include "threads.h"

using namespace l1sparse;
using reference::Random;
using Bytes = std::vector<std::uint8_t>;

namespace {

constexpr int kMutations = 20000;
constexpr int kFewHundred = 300;
constexpr std::int64_t kMostBytes = 64 << 20;       // of a dense weight, a workspace or a tensor
constexpr std::int64_t kMostPackedBytes = 1 << 20;  // of a buffer made as long as its header says
constexpr std::int64_t kMostSums = 1 << 20;         // outputs of a convolution, once for each block
constexpr std::size_t kHeaderBytes = sizeof(PackedHeader);

// ---- mutations ------------------------------------------------------------------------------

std::vector<Bytes> intact_buffers(Random& random) {
  constexpr WeightShape kShapes[] = {
      {4, 8, 3, 3, 1, 8},   {5, 11, 3, 2, 2, 4},   {3, 7, 1, 1, 1, 1},  {17, 9, 1, 3, 16, 16},
      {3, 70, 5, 5, 1, 12}, {2, 300, 3, 3, 1, 32}, {6, 6, 2, 2, 4, 40}, {1, 1, 1, 1, 1, 1},
      {300, 5, 1, 2, 1, 3}, {200, 4, 2, 1, 40, 4},
  };
  std::vector<Bytes> buffers;
  for (const WeightShape& shape : kShapes) {
    for (const double density : {0.0, 0.3, 1.0}) {
      const std::vector<float> weight =
          reference::random_values(random, reference::weight_count(shape));
      const std::vector<std::uint8_t> mask = reference::random_grid_mask(random, shape, density);
      for (const Strategy strategy : reference::strategies()) {
        buffers.push_back(reference::packed_weight(shape, weight, mask, strategy).content());
      }
    }
  }
  return buffers;
}

std::size_t random_place(Random& random, std::size_t end) {
  return static_cast<std::size_t>(random.between(0, static_cast<std::int64_t>(end) - 1));
}

void set_random_word(Random& random, Bytes& bytes) {
  constexpr std::uint32_t kInteresting[] = {
      0, 1, 2, 3, 8, 9, 64, 0xffff, 0x3fffffff, 0x40000000, 0x7fffffff, 0x80000000, 0xffffffff};
  if (bytes.size() < 4) return;
  const std::size_t end = random.chance(0.5) && bytes.size() > 128 ? 128 : bytes.size();
  const std::size_t at = random_place(random, end / 4) * 4;
  std::uint32_t word;
  std::memcpy(&word, bytes.data() + at, sizeof(word));
  word = random.chance(0.3) ? word + static_cast<std::uint32_t>(random.between(-2, 2))
                            : random.one_of(kInteresting);
  std::memcpy(bytes.data() + at, &word, sizeof(word));
}

void mutate(Random& random, Bytes& bytes) {
  switch (random.between(0, 9)) {
    case 0:
      bytes.resize(random_place(random, bytes.size() + 1));
      break;
    case 1:
      bytes.insert(bytes.end(), random_place(random, 200) + 1, 0xa5);
      break;
    case 2:
    case 3:
    case 4:
      if (bytes.empty()) break;
      bytes[random_place(random, bytes.size())] ^=
          static_cast<std::uint8_t>(random.between(1, 255));
      break;
    default:
      set_random_word(random, bytes);
  }
}

// Makes total_bytes and checksum right again.
void fix_up(Bytes& bytes) {
  if (bytes.size() < kHeaderBytes) return;
  const std::uint64_t total = bytes.size();
  std::memcpy(bytes.data() + offsetof(PackedHeader, total_bytes), &total, sizeof(total));
  const std::uint64_t checksum = packed_checksum(bytes.data(), static_cast<std::int64_t>(total));
  std::memcpy(bytes.data() + offsetof(PackedHeader, checksum), &checksum, sizeof(checksum));
}

// Cuts or extends the buffer to what its header describes, where that can be had.
void fit_to_header(Bytes& bytes) {
  const AlignedBytes packed(bytes);
  PackedView view;
  const Status status = open_packed(packed.data(), packed.bytes(), &view);
  if (status.code == Code::packed_size && status.want <= kMostPackedBytes) {
    bytes.resize(static_cast<std::size_t>(status.want));
    fix_up(bytes);
  }
}

Bytes mutated(Random& random, const std::vector<Bytes>& intact) {
  Bytes bytes = intact[random_place(random, intact.size())];
  for (std::int64_t left = random.between(1, 3); left > 0; --left) mutate(random, bytes);
  if (random.chance(0.6)) fix_up(bytes);
  if (random.chance(0.6)) fit_to_header(bytes);
  return bytes;
}

// ---- use of what opens ----------------------------------------------------------------------

bool affordable(std::int64_t count, std::int64_t size) {
  return count <= kMostBytes / static_cast<std::int64_t>(sizeof(float)) / size;
}

bool unpack_if_affordable(const PackedView& view) {
  const WeightShape& shape = view.shape;
  if (!affordable(shape.out_channels, shape.in_channels) ||
      !affordable(shape.out_channels * shape.in_channels, view.grid.taps)) {
    return false;
  }
  std::vector<float> weight(static_cast<std::size_t>(reference::weight_count(shape)));
  unpack(view, weight.data());
  return true;
}

Conv2dProblem small_problem(Random& random, const PackedView& view) {
  Conv2dProblem problem{};
  problem.weight = view;
  problem.batch = 1;
  problem.groups = view.shape.out_channels % 2 == 0 ? random.between(1, 2) : 1;
  problem.stride_h = problem.dilation_h = problem.dilation_w = 1;
  problem.stride_w = random.between(1, 2);
  problem.pad_top = problem.pad_left = 2;
  problem.in_channels = problem.groups * view.shape.in_channels;
  problem.in_h = 4;
  problem.in_w = 5;
  problem.out_h = conv_output_size(problem.in_h, 4, view.shape.kernel_h, 1, 1);
  problem.out_w = conv_output_size(problem.in_w, 4, view.shape.kernel_w, problem.stride_w, 1);
  problem.dtype = static_cast<DType>(random.between(0, kDTypeCount - 1));
  problem.input_strides = {problem.in_channels * 20, 20, 5, 1};
  problem.channels_last = random.chance(0.5);
  return problem;
}

bool convolve_if_affordable(const Conv2dProblem& problem, Isa isa, const Parallel& parallel) {
  const PackedView& weight = problem.weight;
  const std::int64_t outputs =
      checked_mul(weight.shape.out_channels, problem.out_h * problem.out_w);
  std::int64_t workspace_bytes = 0;
  if (!conv2d_workspace(problem, isa, parallel.threads, &workspace_bytes).ok() ||
      workspace_bytes > kMostBytes || !affordable(problem.in_channels, 20) ||
      checked_mul(outputs, weight.blocks) > kMostSums) {
    return false;
  }
  const std::int64_t size = size_of(problem.dtype);
  const Bytes input(static_cast<std::size_t>(problem.in_channels * 20 * size));
  Bytes output(static_cast<std::size_t>(reference::output_count(problem) * size));
  AlignedBytes workspace(workspace_bytes);
  const Conv2dTensors tensors{input.data(), nullptr, nullptr, output.data()};
  return conv2d(problem, tensors, isa, parallel, workspace.data(), nullptr).ok();
}

// What was said, how often, and the last such status.
struct Answers {
  struct Answer {
    int count = 0;
    Status last;
  };
  std::map<Code, Answer> by_code;

  void add(const Status& status) { by_code[status.code] = {count(status.code) + 1, status}; }
  int count(Code code) const {
    const auto found = by_code.find(code);
    return found == by_code.end() ? 0 : found->second.count;
  }
  void print(const char* name) const {
    for (const auto& [code, answer] : by_code) {
      char text[256];
      describe(answer.last, text, sizeof(text));
      std::printf("%s %5d times  %s\n", name, answer.count, text);
    }
  }
};

struct Tally {
  Answers opened, verified;  // by open_packed and by verify_packed
  int unpacked = 0, convolved[kStrategyCount] = {};
};

void open_and_use(Random& random, const Bytes& bytes, std::int64_t shift, Tally& tally) {
  const auto length = static_cast<std::int64_t>(bytes.size());
  AlignedBytes memory(length + shift);
  std::uint8_t* packed = memory.data() + shift;
  if (length > 0) std::memcpy(packed, bytes.data(), bytes.size());
  PackedView view;
  const Status status = open_packed(packed, length, &view);
  tally.opened.add(status);
  if (!status.ok()) return;
  tally.verified.add(verify_packed(packed, length, view));
  CHECK(kept_weights(view) <= view.kept_groups * view.grid.filters * view.grid.channels);
  tally.unpacked += unpack_if_affordable(view);
  const Conv2dProblem problem = small_problem(random, view);
  const Parallel parallel = random.chance(0.1) ? parallel_threads(3) : Parallel{};
  for (const Isa isa : reference::usable_isas()) {
    tally.convolved[static_cast<int>(view.strategy)] +=
        convolve_if_affordable(problem, isa, parallel);
  }
}

}  // namespace

int main() {
  Random random(13);
  const std::vector<Bytes> intact = intact_buffers(random);
  Tally tally;
  for (int i = 0; i < kMutations; ++i) {
    check::context = "mutation " + std::to_string(i);
    const Bytes bytes = mutated(random, intact);
    open_and_use(random, bytes, random.chance(0.02) ? random.between(1, 63) : 0, tally);
  }
  check::context.clear();
  tally.opened.print("opened");
  tally.verified.print("verified");
  std::printf("unpacked %d\n", tally.unpacked);

  CHECK(tally.opened.count(Code::ok) > kFewHundred);
  CHECK(kMutations - tally.opened.count(Code::ok) > kFewHundred);
  CHECK(tally.verified.count(Code::ok) > kFewHundred);
  CHECK(tally.unpacked > kFewHundred);
  for (const Strategy strategy : reference::strategies()) {
    const int convolved = tally.convolved[static_cast<int>(strategy)];
    std::printf("convolved %d, %s\n", convolved, strategy_name(strategy));
    CHECK(convolved > kFewHundred);
  }
  for (const Code code :
       {Code::packed_unaligned, Code::packed_too_short, Code::packed_magic, Code::packed_version,
        Code::packed_dtype, Code::packed_strategy, Code::packed_field, Code::packed_size,
        Code::packed_row_offset, Code::packed_entry, Code::too_large}) {
    CHECK(tally.opened.count(code) > 0);
  }
  for (const Code code : {Code::packed_checksum, Code::packed_entry}) {
    CHECK(tally.verified.count(code) > 0);
  }
  return check::finish();
}
