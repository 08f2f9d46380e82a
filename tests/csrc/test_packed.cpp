// SPDX-License-Identifier: MIT
#include <cstddef>
#include <cstring>
#include <string>

#include "base/checked.h"
#include "check.h"
#include "reference.h"

using namespace l1sparse;
using reference::Random;

namespace {

constexpr std::int64_t kMost = 0x3fffffff;  // the largest dimension that the format takes
constexpr std::int64_t kHeaderBytes = sizeof(PackedHeader);

std::string name_of(const WeightShape& shape, double density, Strategy strategy) {
  std::string name = std::string(strategy_name(strategy)) + " weight";
  for (const std::int64_t side :
       {shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w}) {
    name += ' ' + std::to_string(side);
  }
  return name + " group " + std::to_string(shape.group_filters) + "x" +
         std::to_string(shape.group_channels) + " density " + std::to_string(density);
}

// The opened view and, where opening works, what verifying says.
struct Opened {
  Status status;
  PackedView view{};
};

Opened open_and_verify(const AlignedBytes& packed) {
  Opened opened;
  opened.status = open_packed(packed.data(), packed.bytes(), &opened.view);
  if (opened.status.ok()) {
    opened.status = verify_packed(packed.data(), packed.bytes(), opened.view);
  }
  return opened;
}

// ---- round trips ----------------------------------------------------------------------------

void check_round_trip(Random& random, const WeightShape& shape, double density, Strategy strategy) {
  check::context = name_of(shape, density, strategy);
  const std::vector<float> weight =
      reference::random_values(random, reference::weight_count(shape));
  const std::vector<std::uint8_t> grid_mask = reference::random_grid_mask(random, shape, density);
  const std::vector<std::uint8_t> mask = reference::dense_mask(shape, grid_mask);
  std::vector<std::uint8_t> grid_mask_back(grid_mask.size());
  CHECK(mask_to_grid(shape, mask.data(), grid_mask_back.data()).ok());
  CHECK(grid_mask == grid_mask_back);

  const AlignedBytes packed = reference::packed_weight(shape, weight, grid_mask, strategy);
  const Opened opened = open_and_verify(packed);
  CHECK_EQ(opened.status.code, Code::ok);
  if (!opened.status.ok()) return;
  CHECK_EQ(opened.view.strategy, strategy);
  std::int64_t groups = 0, weights = 0;
  for (const std::uint8_t keep : grid_mask) groups += keep;
  for (const std::uint8_t keep : mask) weights += keep;
  CHECK_EQ(opened.view.kept_groups, groups);
  CHECK_EQ(kept_weights(opened.view), weights);

  std::vector<float> expected = weight;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (mask[i] == 0) expected[i] = 0.0f;
  }
  std::vector<float> unpacked(weight.size(), -1.0f);
  unpack(opened.view, unpacked.data());
  CHECK_EQ(std::memcmp(unpacked.data(), expected.data(), expected.size() * sizeof(float)), 0);
}

void test_round_trips_of_chosen_shapes() {
  constexpr WeightShape kShapes[] = {
      {1, 1, 1, 1, 1, 1},    // the smallest
      {4, 8, 3, 3, 1, 8},    // whole groups
      {5, 11, 3, 3, 2, 4},   // tails in filters and channels
      {3, 5, 3, 3, 16, 16},  // one group, larger than the weight
      {3, 5, 1, 1, kMost, kMost},
      {17, 33, 1, 1, 16, 16},  // tails of one
      {7, 9, 2, 5, 1, 1},      // single weights
      {8, 300, 3, 3, 1, 8},    // several channel blocks
      {5, 301, 3, 3, 4, 12},
      {2, 64, 31, 31, 1, 64},  // a kernel that makes every group a block
      {130, 3, 7, 7, 4, 4},    // several filter blocks
      {700, 3, 1, 2, 1, 2},
      {600, 3, 1, 2, 250, 2},  // a filter block for every group
  };
  Random random(2);
  for (const WeightShape& shape : kShapes) {
    for (const double density : {0.0, 0.05, 0.5, 1.0}) {
      for (const Strategy strategy : reference::strategies()) {
        check_round_trip(random, shape, density, strategy);
      }
    }
  }
}

void test_round_trips_of_random_shapes() {
  Random random(3);
  for (int i = 0; i < 500; ++i) {
    const WeightShape shape{random.between(1, 40), random.between(1, 150), random.between(1, 5),
                            random.between(1, 5),  random.between(1, 18),  random.between(1, 34)};
    const double density = 0.25 * static_cast<double>(random.between(0, 4));
    for (const Strategy strategy : reference::strategies()) {
      check_round_trip(random, shape, density, strategy);
    }
  }
}

struct Documented {
  Strategy strategy;
  std::vector<std::uint32_t> index;  // row offsets, then entries
  std::uint64_t checksum;
};

void check_documented_bytes(const Documented& documented) {
  check::context = std::string("the documented layout of ") + strategy_name(documented.strategy);
  const WeightShape shape{3, 3, 1, 2, 2, 2};
  std::vector<float> weight(18);
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i);
  // Grid [filter group 2][channel group 2][tap 2]; filter group 1 and channel group 1 are cut
  // short.
  AlignedBytes packed =
      reference::packed_weight(shape, weight, {0, 1, 0, 0, 0, 0, 1, 0}, documented.strategy);
  constexpr std::uint32_t kWords[] = {2, 2, 3, 3, 1, 2, 2, 2};  // header, from group_filters on
  constexpr float kValues[] = {1, 3, 7, 9, 16, 0, 0, 0};
  const std::size_t index_bytes = documented.index.size() * 4;
  CHECK_EQ(packed.bytes(), 64 + 64 + 32);
  if (packed.bytes() != 160) return;
  CHECK_EQ(std::memcmp(packed.data(), "L1SPARSE\1\0\0\0\2\0", 14), 0);
  CHECK_EQ(int{packed.data()[14]}, static_cast<int>(documented.strategy));
  CHECK_EQ(int{packed.data()[15]}, 0);
  CHECK_EQ(std::memcmp(packed.data() + 16, kWords, sizeof(kWords)), 0);
  CHECK_EQ(std::memcmp(packed.data() + 48, "\xa0\0\0\0\0\0\0\0", 8), 0);
  CHECK_EQ(std::memcmp(packed.data() + 64, documented.index.data(), index_bytes), 0);
  for (std::size_t i = 64 + index_bytes; i < 128; ++i) CHECK_EQ(int{packed.data()[i]}, 0);
  CHECK_EQ(std::memcmp(packed.data() + 128, kValues, sizeof(kValues)), 0);
  // Files hold this checksum: another one would make every file of the same version unreadable.
  // The oldest say kFloat32 of all values.
  packed.data()[12] = 1;
  std::memcpy(packed.data() + 56, &documented.checksum, 8);
  PackedView view;
  CHECK(open_packed(packed.data(), packed.bytes(), &view).ok());
  CHECK(!view.bfloat16_values);
  CHECK(verify_packed(packed.data(), packed.bytes(), view).ok());
}

void test_what_the_header_says_of_the_values() {
  const WeightShape shape{2, 4, 1, 1, 1, 2};
  std::vector<float> weight = {0x1.0p-120f, -1.5f, 0x1.fep100f, 0.0f, 3, 3, 7, -0.0f};
  const std::vector<std::uint8_t> keeps_all_but_one = {1, 1, 1, 0};
  const auto opened = [&](const AlignedBytes& packed) {
    PackedView view;
    CHECK(open_packed(packed.data(), packed.bytes(), &view).ok());
    return view;
  };
  const auto pack_for = [&] {
    return reference::packed_weight(shape, weight, keeps_all_but_one, Strategy::pixels);
  };
  CHECK(opened(pack_for()).bfloat16_values);
  weight[7] = 0x1.01p0f;  // of the pruned group
  CHECK(opened(pack_for()).bfloat16_values);
  weight[5] = 0x1.01p0f;
  AlignedBytes packed = pack_for();
  CHECK(!opened(packed).bfloat16_values);
  packed.data()[offsetof(PackedHeader, dtype)] = kFloat32OfBFloat16;
  const std::uint64_t checksum = packed_checksum(packed.data(), packed.bytes());
  std::memcpy(packed.data() + offsetof(PackedHeader, checksum), &checksum, sizeof(checksum));
  CHECK_EQ(verify_packed(packed.data(), packed.bytes(), opened(packed)).code, Code::packed_dtype);
}

void test_bytes_are_as_documented() {
  check_documented_bytes({Strategy::channels, {0, 1, 2, 1, 2}, 9982097135386773637ULL});
  check_documented_bytes({Strategy::filters, {0, 1, 2, 1, 2}, 13689095153931510973ULL});
  check_documented_bytes({Strategy::pixels, {0, 0, 1, 2, 2, 0, 1}, 15458014388344319414ULL});
}

// ---- what pack refuses ----------------------------------------------------------------------

void test_mask_that_cuts_a_group_is_refused() {
  check::context.clear();
  const WeightShape shape{5, 11, 2, 2, 2, 4};
  const std::int64_t weights = reference::weight_count(shape);
  std::vector<std::uint8_t> grid_mask(static_cast<std::size_t>(reference::grid_of(shape).groups()));
  for (std::int64_t i = 0; i < weights; ++i) {
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(weights), 1);
    mask[static_cast<std::size_t>(i)] = 0;
    const Status status = mask_to_grid(shape, mask.data(), grid_mask.data());
    CHECK_EQ(status.code, Code::mask_cuts_group);
    CHECK_EQ(status.got, static_cast<std::int64_t>(reference::group_index(shape, i)));
  }
}

void test_any_nonzero_mask_byte_keeps() {
  const WeightShape shape{1, 2, 1, 1, 1, 2};
  const std::uint8_t mask[] = {255, 2};
  std::uint8_t grid_mask = 0;
  CHECK(mask_to_grid(shape, mask, &grid_mask).ok());
  CHECK_EQ(int{grid_mask}, 1);
}

void test_shape_limits() {
  struct Case {
    WeightShape shape;
    Code code;
  };
  constexpr Case kCases[] = {
      {{1, 1, 1, 1, 1, 1}, Code::ok},
      {{kMost, 1, 1, 1, 1, 1}, Code::ok},
      {{1, kMost, 1, 1, 1, 1}, Code::ok},
      {{1, 1, kMost, 1, kMost, kMost}, Code::ok},
      {{kMost, kMost, 1, 1, kMost, kMost}, Code::ok},
      {{1, 1, 1, 1, 0, 1}, Code::bad_group},
      {{1, 1, 1, 1, 1, 0}, Code::bad_group},
      {{1, 1, 1, 1, -1, 1}, Code::bad_group},
      {{1, 1, 1, 1, 1, INT64_MIN}, Code::bad_group},
      {{1, 1, 1, 1, kMost + 1, 1}, Code::bad_group},
      {{1, 1, 1, 1, 1, INT64_MAX}, Code::bad_group},
      {{0, 1, 1, 1, 1, 1}, Code::bad_shape},
      {{1, 0, 1, 1, 1, 1}, Code::bad_shape},
      {{1, 1, 0, 1, 1, 1}, Code::bad_shape},
      {{1, 1, 1, 0, 1, 1}, Code::bad_shape},
      {{-1, 1, 1, 1, 1, 1}, Code::bad_shape},
      {{1, INT64_MIN, 1, 1, 1, 1}, Code::bad_shape},
      {{1, 1, kMost + 1, 1, 1, 1}, Code::bad_shape},
      {{1, 1, 1, INT64_MAX, 1, 1}, Code::bad_shape},
      {{1, kMost, 2, 1, 1, 1}, Code::too_large},              // columns
      {{kMost, 8, 1, 1, 1, 1}, Code::too_large},              // groups
      {{kMost, kMost, 3, 1, kMost, kMost}, Code::too_large},  // bytes of the dense weight
      {{kMost, kMost, kMost, kMost, kMost, kMost}, Code::too_large},
  };
  for (const Case& test : kCases) {
    check::context = name_of(test.shape, 1.0, Strategy::channels);
    GroupGrid grid;
    CHECK_EQ(check_shape(test.shape, &grid).code, test.code);
    if (test.code == Code::ok) continue;
    std::int64_t bytes = -1;
    CHECK_EQ(mask_to_grid(test.shape, nullptr, nullptr).code, test.code);
    for (const Strategy strategy : reference::strategies()) {
      CHECK_EQ(packed_bytes(test.shape, nullptr, strategy, &bytes).code, test.code);
      CHECK_EQ(pack(test.shape, nullptr, nullptr, strategy, nullptr, 0).code, test.code);
    }
    CHECK_EQ(bytes, -1);
  }
}

void test_packed_form_that_cannot_be_addressed_is_refused() {
  // The weight itself fits 63 bits; filled up to whole groups it does not.
  const WeightShape shape{kMost, kMost, 1, 1, kMost - 1, kMost - 1};
  const std::uint8_t grid_mask[] = {1, 1, 1, 1};
  for (const Strategy strategy : reference::strategies()) {
    std::int64_t bytes = 0;
    CHECK_EQ(packed_bytes(shape, grid_mask, strategy, &bytes).code, Code::too_large);
  }
}

void test_pack_refuses_a_buffer_of_another_size() {
  const WeightShape shape{2, 2, 1, 1, 1, 1};
  const std::vector<float> weight(4, 1.0f);
  const std::uint8_t grid_mask[] = {1, 0, 1, 1};
  for (const Strategy strategy : reference::strategies()) {
    std::int64_t bytes = 0;
    packed_bytes(shape, grid_mask, strategy, &bytes);
    for (const std::int64_t other : {bytes - 4, bytes + 4}) {
      AlignedBytes buffer(other);
      const Status status = pack(shape, weight.data(), grid_mask, strategy, buffer.data(), other);
      CHECK_EQ(status.code, Code::packed_size);
      CHECK_EQ(status.want, bytes);
    }
  }
}

// ---- what open_packed and verify_packed refuse ----------------------------------------------

// A packed weight that is intact: tails in both dimensions, several blocks, every group kept.
struct Sample {
  Strategy strategy;
  WeightShape shape;
  std::vector<std::uint8_t> bytes;
  std::uint32_t kept, rows, entries;  // `entries` is one past the largest
  std::uint32_t block_groups, block_entries;

  std::size_t row_offset_at(std::uint32_t row) const { return kHeaderBytes + std::size_t{row} * 4; }
  std::size_t entry_at(std::uint32_t i) const { return row_offset_at(rows + 1 + i); }
};

Sample make_sample(Strategy strategy) {
  Sample sample{};
  sample.strategy = strategy;
  // Enough for three blocks and a group that is cut short.
  switch (strategy) {
    case Strategy::channels:
      sample.shape = {3, 181, 3, 3, 2, 30};
      break;
    case Strategy::pixels:
      sample.shape = {519, 5, 1, 3, 40, 2};
      break;
    case Strategy::filters:
      sample.shape = {3, 181, 3, 3, 2, 4};
      break;
  }
  Random random(4);
  const std::vector<float> weight =
      reference::random_values(random, reference::weight_count(sample.shape));
  const AlignedBytes packed = reference::packed_weight(
      sample.shape, weight, reference::random_grid_mask(random, sample.shape, 1.0), strategy);
  sample.bytes = packed.content();
  const Opened opened = open_and_verify(packed);
  const PackedView& view = opened.view;
  check::context = std::string("sample of ") + strategy_name(strategy);
  CHECK_EQ(opened.status.code, Code::ok);
  CHECK(view.blocks > 2 && view.block_groups > 1);
  const bool pixels = strategy == Strategy::pixels;
  sample.kept = static_cast<std::uint32_t>(view.kept_groups);
  sample.rows = static_cast<std::uint32_t>(view.blocks * view.block_rows);
  sample.entries =
      static_cast<std::uint32_t>(pixels ? view.grid.filter_groups : view.grid.columns());
  sample.block_groups = static_cast<std::uint32_t>(view.block_groups);
  sample.block_entries =
      static_cast<std::uint32_t>(view.block_groups * (pixels ? 1 : view.grid.taps));
  return sample;
}

const std::vector<Sample>& samples() {
  static const std::vector<Sample> made = [] {
    std::vector<Sample> all;
    for (const Strategy strategy : reference::strategies()) all.push_back(make_sample(strategy));
    return all;
  }();
  return made;
}

void set_word(std::vector<std::uint8_t>& bytes, std::size_t at, std::uint32_t word) {
  std::memcpy(bytes.data() + at, &word, sizeof(word));
}

void fix_checksum(std::vector<std::uint8_t>& bytes) {
  const std::uint64_t checksum =
      packed_checksum(bytes.data(), static_cast<std::int64_t>(bytes.size()));
  std::memcpy(bytes.data() + offsetof(PackedHeader, checksum), &checksum, sizeof(checksum));
}

Code code_of(const std::vector<std::uint8_t>& bytes) {
  return open_and_verify(AlignedBytes(bytes)).status.code;
}

Code code_with_word(const Sample& sample, std::size_t at, std::uint32_t word) {
  std::vector<std::uint8_t> bytes = sample.bytes;
  set_word(bytes, at, word);
  fix_checksum(bytes);
  return code_of(bytes);
}

std::vector<std::uint8_t> small_packed(std::uint64_t seed, Strategy strategy) {
  Random random(seed);
  const WeightShape shape{3, 5, 2, 1, 2, 2};
  const std::vector<float> weight = reference::random_values(random, 30);
  return reference::packed_weight(shape, weight, reference::random_grid_mask(random, shape, 0.7),
                                  strategy)
      .content();
}

void check_every_length(Strategy strategy) {
  const std::vector<std::uint8_t> whole = small_packed(5, strategy);
  const auto length = static_cast<std::int64_t>(whole.size());
  for (std::int64_t bytes = 0; bytes < length + 130; ++bytes) {
    check::context = std::string(strategy_name(strategy)) + " of length " + std::to_string(bytes) +
                     " instead of " + std::to_string(length);
    std::vector<std::uint8_t> other = whole;
    other.resize(static_cast<std::size_t>(bytes));
    if (bytes >= kHeaderBytes) fix_checksum(other);
    CHECK_EQ(code_of(other), bytes < kHeaderBytes ? Code::packed_too_short
                             : bytes == length    ? Code::ok
                                                  : Code::packed_size);
    if (bytes < kHeaderBytes || bytes == length) continue;
    const auto stated = static_cast<std::uint64_t>(bytes);  // even if the header agrees
    std::memcpy(other.data() + offsetof(PackedHeader, total_bytes), &stated, sizeof(stated));
    fix_checksum(other);
    CHECK_EQ(code_of(other), Code::packed_size);
  }
}

void test_every_length_but_its_own_is_refused() {
  for (const Strategy strategy : reference::strategies()) check_every_length(strategy);
  check::context.clear();
  PackedView view;
  CHECK_EQ(open_packed(nullptr, 0, &view).code, Code::packed_too_short);
  CHECK_EQ(open_packed(nullptr, -1, &view).code, Code::packed_too_short);
}

void test_memory_off_its_alignment_is_refused() {
  for (const Sample& sample : samples()) {
    for (std::int64_t shift = 1; shift < 64; ++shift) {
      const auto bytes = static_cast<std::int64_t>(sample.bytes.size());
      AlignedBytes shifted(bytes + shift);
      std::memcpy(shifted.data() + shift, sample.bytes.data(), sample.bytes.size());
      PackedView view;
      const Status status = open_packed(shifted.data() + shift, bytes, &view);
      if (shift % 8 == 0) {
        CHECK(status.ok());
        CHECK_EQ(verify_packed(shifted.data() + shift, bytes, view).code, Code::ok);
        continue;
      }
      CHECK_EQ(status.code, Code::packed_unaligned);
      CHECK_EQ(status.got, shift % 8);
    }
  }
}

void check_bad_header_fields(const Sample& sample) {
  const auto code_with = [&sample](std::size_t at, std::uint32_t word) {
    return code_with_word(sample, at, word);
  };
  check::context = strategy_name(sample.strategy);
  CHECK_EQ(code_with(0, 0), Code::packed_magic);
  CHECK_EQ(code_with(4, 0), Code::packed_magic);
  for (const std::uint32_t version : {0u, 2u, 0xffffffffu}) {
    CHECK_EQ(code_with(offsetof(PackedHeader, version), version), Code::packed_version);
  }
  // The weights' type and the strategy share a word.
  const auto strategy = static_cast<std::uint32_t>(sample.strategy) << 16;
  for (const std::uint32_t dtype : {0u, 3u, 0xffffu}) {
    CHECK_EQ(code_with(offsetof(PackedHeader, dtype), strategy | dtype), Code::packed_dtype);
  }
  for (const std::uint32_t other : {std::uint32_t{kStrategyCount}, 0x7fffu, 0x8000u, 0xffffu}) {
    CHECK_EQ(code_with(offsetof(PackedHeader, dtype), other << 16 | kFloat32),
             Code::packed_strategy);
  }
  // `channels` and `filters` have the same order: either can be read as the other.
  const auto by_filter = [](std::uint32_t number) {
    return number != static_cast<std::uint32_t>(Strategy::pixels);
  };
  for (std::uint32_t other = 0; other < kStrategyCount; ++other) {
    CHECK_EQ(code_with(offsetof(PackedHeader, dtype), other << 16 | kFloat32) == Code::ok,
             by_filter(other) == (sample.strategy != Strategy::pixels));
  }
  for (const std::size_t field :
       {offsetof(PackedHeader, group_filters), offsetof(PackedHeader, group_channels),
        offsetof(PackedHeader, out_channels), offsetof(PackedHeader, in_channels),
        offsetof(PackedHeader, kernel_h), offsetof(PackedHeader, kernel_w),
        offsetof(PackedHeader, block_groups)}) {
    for (const std::uint32_t value : {0u, 0x40000000u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
      check::context = std::string(strategy_name(sample.strategy)) + " with field at " +
                       std::to_string(field) + " of " + std::to_string(value);
      CHECK_EQ(code_with(field, value), Code::packed_field);
    }
  }
  check::context = strategy_name(sample.strategy);
  CHECK_EQ(code_with(offsetof(PackedHeader, kept_groups), sample.kept + 1), Code::packed_field);
  CHECK_EQ(code_with(offsetof(PackedHeader, kept_groups), 0xffffffffu), Code::packed_field);
  CHECK(code_with(offsetof(PackedHeader, kept_groups), sample.kept - 1) != Code::ok);
  CHECK_EQ(code_with(offsetof(PackedHeader, total_bytes), 0), Code::packed_size);
  CHECK_EQ(code_with(offsetof(PackedHeader, total_bytes) + 4, 1), Code::packed_size);
  for (const std::uint32_t other :
       {1u, sample.block_groups + 1, static_cast<std::uint32_t>(kMost)}) {
    CHECK(code_with(offsetof(PackedHeader, block_groups), other) != Code::ok);
  }
  CHECK_EQ(code_with(offsetof(PackedHeader, kernel_h), kMost), Code::too_large);
}

void test_bad_header_fields_are_refused() {
  for (const Sample& sample : samples()) check_bad_header_fields(sample);
}

void test_bad_row_offsets_are_refused() {
  for (const Sample& sample : samples()) {
    check::context = strategy_name(sample.strategy);
    const auto code_with = [&sample](std::uint32_t row, std::uint32_t word) {
      return code_with_word(sample, sample.row_offset_at(row), word);
    };
    const std::uint32_t last = sample.rows, kept = sample.kept;
    CHECK_EQ(code_with(0, 1), Code::packed_row_offset);
    CHECK_EQ(code_with(1, 0xffffffffu), Code::packed_row_offset);
    CHECK_EQ(code_with(1, kept + 1), Code::packed_row_offset);
    CHECK_EQ(code_with(2, 0), Code::packed_row_offset);
    CHECK_EQ(code_with(last, kept - 1), Code::packed_row_offset);
    CHECK_EQ(code_with(last, kept + 1), Code::packed_row_offset);
    CHECK_EQ(code_with(last, 0xffffffffu), Code::packed_row_offset);
  }
}

void check_bad_entries(const Sample& sample) {
  const std::string name = strategy_name(sample.strategy);
  const std::uint32_t kept = sample.kept;
  for (const std::uint32_t i : {0u, 1u, kept / 2, kept - 1}) {
    for (const std::uint32_t value : {sample.entries, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
      check::context = name + " with entry " + std::to_string(i) + " of " + std::to_string(value);
      std::vector<std::uint8_t> bytes = sample.bytes;
      set_word(bytes, sample.entry_at(i), value);
      PackedView view;
      const AlignedBytes packed(bytes);
      const Status status = open_packed(packed.data(), packed.bytes(), &view);
      CHECK_EQ(status.code, Code::packed_entry);
      CHECK_EQ(status.got, static_cast<std::int64_t>(value));
    }
  }
  check::context = name + " with entries out of order, twice, or of another block";
  const auto code_with = [&sample](std::uint32_t i, std::uint32_t word) {
    return code_with_word(sample, sample.entry_at(i), word);
  };
  CHECK_EQ(code_with(0, 1), Code::packed_entry);
  CHECK_EQ(code_with(1, 0), Code::packed_entry);
  CHECK_EQ(code_with(0, sample.entries - 1), Code::packed_entry);
  CHECK_EQ(code_with(kept - 1, 0), Code::packed_entry);
  CHECK_EQ(code_with(sample.block_entries - 1, sample.block_entries), Code::packed_entry);
}

void test_bad_entries_are_refused() {
  for (const Sample& sample : samples()) check_bad_entries(sample);
}

void test_every_flipped_bit_is_refused() {
  for (const Strategy strategy : reference::strategies()) {
    const std::vector<std::uint8_t> whole = small_packed(6, strategy);
    for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
      check::context =
          std::string(strategy_name(strategy)) + " with flipped bit " + std::to_string(bit);
      std::vector<std::uint8_t> bytes = whole;
      bytes[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
      CHECK(code_of(bytes) != Code::ok);
    }
    check::context = "a flipped value";
    std::vector<std::uint8_t> bytes = whole;
    bytes.back() ^= 1;
    CHECK_EQ(code_of(bytes), Code::packed_checksum);
  }
}

// ---- texts and sizes ------------------------------------------------------------------------

void test_every_code_has_its_text() {
  constexpr int kCodes = static_cast<int>(Code::pool_strategy) + 1;
  constexpr std::size_t kCapacity = 256;  // what the bindings offer
  const Status widest{Code::ok, INT64_MIN, INT64_MIN};
  std::vector<std::string> texts;
  for (int code = 0; code < kCodes; ++code) {
    check::context = "code " + std::to_string(code);
    Status status = widest;
    status.code = static_cast<Code>(code);
    std::vector<char> text(kCapacity, '#');
    describe(status, text.data(), kCapacity);
    const std::string whole = text.data();
    CHECK(!whole.empty() && whole.size() < kCapacity - 1);
    CHECK(whole != "unknown status" && whole.find('%') == std::string::npos);
    for (const std::string& other : texts) CHECK(whole != other);
    texts.push_back(whole);

    describe(status, nullptr, 0);
    for (std::size_t capacity = 1; capacity <= kCapacity; ++capacity) {
      std::vector<char> exact(capacity, '#');
      describe(status, exact.data(), capacity);
      CHECK_EQ(std::string(exact.data()), whole.substr(0, capacity - 1));
    }
  }
}

void test_text_shows_the_values() {
  char text[256];
  describe({Code::packed_size, 12, 345}, text, sizeof(text));
  CHECK_EQ(std::string(text),
           "packed: the buffer has 12 bytes, expected the 345 that its header describes");
}

void test_checked_sizes_saturate() {
  CHECK_EQ(checked_mul(1LL << 31, 1LL << 31), std::int64_t{1} << 62);
  CHECK_EQ(checked_mul(1LL << 32, 1LL << 31), kTooLarge);
  CHECK_EQ(checked_mul(kTooLarge, 0), kTooLarge);
  CHECK_EQ(checked_mul(0, kTooLarge), kTooLarge);
  CHECK_EQ(checked_add(kTooLarge - 1, 1), kTooLarge);
  CHECK_EQ(checked_add(kTooLarge - 1, 2), kTooLarge);
  CHECK_EQ(checked_add(kTooLarge, -1), kTooLarge);
  CHECK_EQ(ceil_div(0, 3), 0);
  CHECK_EQ(ceil_div(7, 3), 3);
  CHECK_EQ(round_up(65, 64), 128);
  CHECK_EQ(round_up(kTooLarge - 1, 64), kTooLarge);
  CHECK_EQ(round_up(kTooLarge, 1), kTooLarge);
}

}  // namespace

int main() {
  test_round_trips_of_chosen_shapes();
  test_round_trips_of_random_shapes();
  test_bytes_are_as_documented();
  test_what_the_header_says_of_the_values();
  test_mask_that_cuts_a_group_is_refused();
  test_any_nonzero_mask_byte_keeps();
  test_shape_limits();
  test_packed_form_that_cannot_be_addressed_is_refused();
  test_pack_refuses_a_buffer_of_another_size();
  test_every_length_but_its_own_is_refused();
  test_memory_off_its_alignment_is_refused();
  test_bad_header_fields_are_refused();
  test_bad_row_offsets_are_refused();
  test_bad_entries_are_refused();
  test_every_flipped_bit_is_refused();
  test_every_code_has_its_text();
  test_text_shows_the_values();
  test_checked_sizes_saturate();
  return check::finish();
}
