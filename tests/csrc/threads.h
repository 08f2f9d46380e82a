// SPDX-License-Identifier: MIT
// A host of the core that really runs the calls side by side.
#pragma once

#include <thread>
#include <vector>

#include "base/parallel.h"

namespace l1sparse {

// One thread a call; the last call starts first.
inline Parallel parallel_threads(std::int64_t threads) {
  Parallel parallel;
  parallel.threads = threads;
  parallel.run = [](void*, std::int64_t count, ParallelBody body, void* context) {
    std::vector<std::thread> running;
    for (std::int64_t i = count - 1; i >= 0; --i) running.emplace_back(body, context, i);
    for (std::thread& thread : running) thread.join();
  };
  return parallel;
}

}  // namespace l1sparse
