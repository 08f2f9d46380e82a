// SPDX-License-Identifier: MIT
#include "base/status.h"

#include <cstdio>

namespace l1sparse {
namespace {

// Each format takes `got` and `want`, in this order.
const char* format_of(Code code) {
  switch (code) {
    case Code::ok:
      return "ok";
    case Code::bad_group:
      return "group: a side of %lld is not usable, expected a whole number from 1 to %lld";
    case Code::bad_shape:
      return "weight: a dimension of %lld is not usable, expected 1 to %lld";
    case Code::mask_cuts_group:
      return "mask: channel group %lld has both kept and pruned weights, expected one value for "
             "all weights of a group";
    case Code::too_large:
      return "size: the arguments need %lld bytes or more, which cannot be addressed";
    case Code::packed_unaligned:
      return "packed: its memory starts %lld bytes past a multiple of %lld, expected 0 (copy "
             "it, a tensor by clone())";
    case Code::packed_too_short:
      return "packed: %lld bytes are too few, expected at least the header's %lld";
    case Code::packed_magic:
      return "packed: the buffer does not start with 'L1SPARSE', expected a result of pack()";
    case Code::packed_version:
      return "packed: format version %lld cannot be read, expected version %lld";
    case Code::packed_dtype:
      return "packed: value type %lld is unknown or not what the values are, expected %lld "
             "(float32)";
    case Code::packed_strategy:
      return "packed: strategy %lld is unknown, expected 0 to %lld";
    case Code::packed_field:
      return "packed: a header field holds %lld, expected 1 to %lld";
    case Code::packed_size:
      return "packed: the buffer has %lld bytes, expected the %lld that its header describes";
    case Code::packed_checksum:
      return "packed: the checksum does not match the content, the buffer was damaged";
    case Code::packed_row_offset:
      return "packed: a row offset of %lld is out of order, expected at most %lld";
    case Code::packed_entry:
      return "packed: a group position of %lld is out of range, expected at most %lld and in "
             "ascending order";
    case Code::channels_mismatch:
      return "input: has %lld channels, expected %lld (the packed weight's channels times groups)";
    case Code::groups_mismatch:
      return "groups: %lld does not divide the weight's %lld output channels";
    case Code::bad_stride:
      return "stride: %lld is not usable, expected a whole number of at least %lld";
    case Code::bad_padding:
      return "padding: %lld is not usable, expected a whole number of at least %lld";
    case Code::bad_dilation:
      return "dilation: %lld is not usable, expected a whole number of at least %lld";
    case Code::bad_groups:
      return "groups: %lld is not usable, expected a whole number of at least %lld";
    case Code::bad_pool_kernel:
      return "pool_kernel: %lld is not usable, expected a whole number of at least %lld";
    case Code::bad_pool_stride:
      return "pool_stride: %lld is not usable, expected a whole number of at least %lld";
    case Code::bad_pool_padding:
      return "pool_padding: %lld is not usable, expected 0 or more, at most half of pool_kernel: "
             "%lld";
    case Code::pool_strategy:
      return "packed: is for strategy number %lld, which does not pool, expected number %lld, "
             "pixels";
    case Code::empty_output:
      return "input: the output would have a size of %lld, expected at least %lld";
  }
  return "unknown status";
}

}  // namespace

void describe(const Status& status, char* text, std::size_t capacity) {
  if (capacity == 0) return;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-extra-args"
  std::snprintf(text, capacity, format_of(status.code), static_cast<long long>(status.got),
                static_cast<long long>(status.want));
#pragma GCC diagnostic pop
}

}  // namespace l1sparse
