// SPDX-License-Identifier: MIT
// What every function of the core returns: nothing in the core throws.
#pragma once

#include <cstddef>
#include <cstdint>

namespace l1sparse {

enum class Code : std::int32_t {
  ok = 0,
  bad_group,
  bad_shape,
  mask_cuts_group,
  too_large,
  packed_unaligned,
  packed_too_short,
  packed_magic,
  packed_version,
  packed_dtype,
  packed_strategy,
  packed_field,
  packed_size,
  packed_checksum,
  packed_row_offset,
  packed_entry,
  channels_mismatch,
  groups_mismatch,
  bad_stride,
  bad_padding,
  bad_dilation,
  bad_groups,
  empty_output,
  bad_pool_kernel,
  bad_pool_stride,
  bad_pool_padding,
  pool_strategy,
};

// `got` and `want` are the offending value and its bound, where the code has such a pair.
struct Status {
  Code code = Code::ok;
  std::int64_t got = 0;
  std::int64_t want = 0;

  bool ok() const { return code == Code::ok; }
};

// Writes one line that names the argument, the value it had and what would be right. Always
// ends in a zero byte when `capacity` > 0.
void describe(const Status& status, char* text, std::size_t capacity);

}  // namespace l1sparse
