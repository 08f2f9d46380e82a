// SPDX-License-Identifier: MIT
// What the functions of the C interface check before the core sees anything.
#pragma once

#include <cstdint>

#include "base/parallel.h"
#include "base/status.h"
#include "format/packed.h"
#include "include/l1sparse.h"

namespace l1sparse::capi {

// Arguments by the name that a text gives them; the order is free, `none` is first.
enum class Argument : std::int32_t {
#define L1SPARSE_ARGUMENT(name) name,
#include "capi/arguments.inc"
#undef L1SPARSE_ARGUMENT
};

l1sparse_status status_of(const Status& status);

constexpr l1sparse_status kOk{};

l1sparse_status null_argument(Argument argument);
l1sparse_status out_of_range(Argument argument, std::int64_t got, std::int64_t bound);

// Whether so many bytes, or kTooLarge, can be one piece of this processor's memory.
inline bool fits_memory(std::int64_t bytes) { return bytes < PTRDIFF_MAX; }

// The view of an opened weight, or null where it is none.
const PackedView* view_of(const l1sparse_weight* weight);
l1sparse_status weight_not_open();

// Whether a convolution can be planned for so many threads.
l1sparse_status check_threads(std::int64_t count);

// Null `threads` is the calling thread.
l1sparse_status parallel_of(const l1sparse_threads* threads, Parallel* parallel);

}  // namespace l1sparse::capi
