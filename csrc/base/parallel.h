// SPDX-License-Identifier: MIT
// How the core asks its host for threads; the core starts none itself.
#pragma once

#include <cstdint>

namespace l1sparse {

using ParallelBody = void (*)(void* context, std::int64_t index);

struct Parallel {
  // Calls body(context, i) once for every i in [0, count), on any threads, and returns when all
  // calls have. Null: the calls are made one after the other on the calling thread.
  void (*run)(void* pool, std::int64_t count, ParallelBody body, void* context) = nullptr;
  // The host's own, handed to `run` as it is.
  void* pool = nullptr;
  // How many calls may run at the same time; at least 1.
  std::int64_t threads = 1;

  void for_each(std::int64_t count, ParallelBody body, void* context) const {
    if (run != nullptr && threads > 1 && count > 1) {
      run(pool, count, body, context);
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) body(context, i);
  }
};

}  // namespace l1sparse
