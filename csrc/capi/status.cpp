// SPDX-License-Identifier: MIT
#include <cstdio>

#include "capi/arguments.h"

namespace l1sparse::capi {
namespace {

constexpr const char* kNames[] = {
#define L1SPARSE_ARGUMENT(name) #name,
#include "capi/arguments.inc"
#undef L1SPARSE_ARGUMENT
};
constexpr std::int32_t kNameCount = sizeof(kNames) / sizeof(kNames[0]);

// The header for C repeats the core's numbers; programs are compiled with them.
#define L1SPARSE_SAME(code, number) static_assert(static_cast<int>(Code::code) == number)
L1SPARSE_SAME(ok, L1SPARSE_OK);
L1SPARSE_SAME(bad_group, L1SPARSE_BAD_GROUP);
L1SPARSE_SAME(bad_shape, L1SPARSE_BAD_SHAPE);
L1SPARSE_SAME(mask_cuts_group, L1SPARSE_MASK_CUTS_GROUP);
L1SPARSE_SAME(too_large, L1SPARSE_TOO_LARGE);
L1SPARSE_SAME(packed_unaligned, L1SPARSE_PACKED_UNALIGNED);
L1SPARSE_SAME(packed_too_short, L1SPARSE_PACKED_TOO_SHORT);
L1SPARSE_SAME(packed_magic, L1SPARSE_PACKED_MAGIC);
L1SPARSE_SAME(packed_version, L1SPARSE_PACKED_VERSION);
L1SPARSE_SAME(packed_dtype, L1SPARSE_PACKED_DTYPE);
L1SPARSE_SAME(packed_strategy, L1SPARSE_PACKED_STRATEGY);
L1SPARSE_SAME(packed_field, L1SPARSE_PACKED_FIELD);
L1SPARSE_SAME(packed_size, L1SPARSE_PACKED_SIZE);
L1SPARSE_SAME(packed_checksum, L1SPARSE_PACKED_CHECKSUM);
L1SPARSE_SAME(packed_row_offset, L1SPARSE_PACKED_ROW_OFFSET);
L1SPARSE_SAME(packed_entry, L1SPARSE_PACKED_ENTRY);
L1SPARSE_SAME(channels_mismatch, L1SPARSE_CHANNELS_MISMATCH);
L1SPARSE_SAME(groups_mismatch, L1SPARSE_GROUPS_MISMATCH);
L1SPARSE_SAME(bad_stride, L1SPARSE_BAD_STRIDE);
L1SPARSE_SAME(bad_padding, L1SPARSE_BAD_PADDING);
L1SPARSE_SAME(bad_dilation, L1SPARSE_BAD_DILATION);
L1SPARSE_SAME(bad_groups, L1SPARSE_BAD_GROUPS);
L1SPARSE_SAME(empty_output, L1SPARSE_EMPTY_OUTPUT);
#undef L1SPARSE_SAME

l1sparse_status about(std::int32_t code, Argument argument, std::int64_t got, std::int64_t want) {
  return {code, static_cast<std::int32_t>(argument), got, want};
}

}  // namespace

l1sparse_status status_of(const Status& status) {
  return about(static_cast<std::int32_t>(status.code), Argument::none, status.got, status.want);
}

l1sparse_status null_argument(Argument argument) {
  return about(L1SPARSE_NULL_ARGUMENT, argument, 0, 0);
}

l1sparse_status out_of_range(Argument argument, std::int64_t got, std::int64_t bound) {
  return about(L1SPARSE_OUT_OF_RANGE, argument, got, bound);
}

l1sparse_status weight_not_open() {
  return about(L1SPARSE_WEIGHT_NOT_OPEN, Argument::weight, 0, 0);
}

l1sparse_status check_threads(std::int64_t count) {
  constexpr std::int64_t kMost = 1 << 16;  // the core multiplies it by other counts
  if (count < 1) return out_of_range(Argument::threads, count, 1);
  if (count > kMost) return out_of_range(Argument::threads, count, kMost);
  return kOk;
}

l1sparse_status parallel_of(const l1sparse_threads* threads, Parallel* parallel) {
  *parallel = {};
  if (threads == nullptr) return kOk;
  if (threads->run == nullptr) return null_argument(Argument::threads);
  if (l1sparse_status status = check_threads(threads->count); status.code != 0) return status;
  *parallel = {threads->run, threads->pool, threads->count};
  return kOk;
}

}  // namespace l1sparse::capi

void l1sparse_status_text(l1sparse_status status, char* text, size_t capacity) {
  using namespace l1sparse;
  if (text == nullptr || capacity == 0) return;
  const bool named = status.argument >= 0 && status.argument < capi::kNameCount;
  const char* name = named ? capi::kNames[status.argument] : "argument";
  const auto got = static_cast<long long>(status.got), want = static_cast<long long>(status.want);
  switch (status.code) {
    case L1SPARSE_NULL_ARGUMENT:
      std::snprintf(text, capacity, "%s: is a null pointer, expected an address", name);
      return;
    case L1SPARSE_STRUCT_SIZE:
      std::snprintf(text, capacity,
                    "%s: a struct_size of %lld is unknown, expected %lld (call "
                    "l1sparse_conv2d_init)",
                    name, got, want);
      return;
    case L1SPARSE_OUT_OF_RANGE:
      std::snprintf(text, capacity, "%s: %lld is not usable, expected at %s %lld", name, got,
                    got < want ? "least" : "most", want);
      return;
    case L1SPARSE_BAD_CLAMP:
      std::snprintf(text, capacity, "low: is above high or not a number, expected low <= high");
      return;
    case L1SPARSE_WEIGHT_NOT_OPEN:
      std::snprintf(text, capacity,
                    "weight: was not opened, expected one that l1sparse_weight_open filled");
      return;
    case L1SPARSE_UNALIGNED:
      std::snprintf(text, capacity, "%s: starts %lld bytes past a multiple of %lld, expected 0",
                    name, got, want);
      return;
    case L1SPARSE_WORKSPACE_TOO_SMALL:
      std::snprintf(text, capacity, "workspace: has %lld bytes, expected at least %lld", got, want);
      return;
    case L1SPARSE_UNKNOWN_ISA:
      std::snprintf(text, capacity,
                    "name: is no instruction set that this library has and this processor runs");
      return;
    case L1SPARSE_NO_ISA:
      std::snprintf(text, capacity,
                    "library: this processor does not run %s, the instruction set that the library "
                    "was built for",
                    l1sparse_isa());
      return;
    case L1SPARSE_PROGRAM_UNCHECKED:
      std::snprintf(text, capacity,
                    "program: does not end in a checksum, expected a whole file that "
                    "l1sparse.export_executorch wrote");
      return;
    case L1SPARSE_PROGRAM_DAMAGED:
      std::snprintf(text, capacity, "program: has the checksum %08llx, expected %08llx", got, want);
      return;
    default:
      describe({static_cast<Code>(status.code), status.got, status.want}, text, capacity);
  }
}
