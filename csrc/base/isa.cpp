// SPDX-License-Identifier: MIT
#include "base/isa.h"

#include <atomic>
#include <cstring>

namespace l1sparse {
namespace {

constexpr int kAutomatic = -1;
std::atomic<int> forced{kAutomatic};

Isa best_usable() {
  for (int i = 0; i < kIsaCount; ++i) {
    if (isa_usable(static_cast<Isa>(i))) return static_cast<Isa>(i);
  }
  return Isa::scalar;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
#define L1SPARSE_ISA(name) \
  case Isa::name:          \
    return #name;
#include "base/isa.inc"
#undef L1SPARSE_ISA
  }
  return "unknown";
}

bool isa_usable(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
#elif defined(__aarch64__)
    case Isa::neon:
      return true;  // part of the 64-bit Arm base instruction set
#endif
    case Isa::scalar:
      return true;
  }
  return false;
}

Isa selected_isa() {
  static const Isa best = best_usable();
  const int choice = forced.load(std::memory_order_relaxed);
  return choice == kAutomatic ? best : static_cast<Isa>(choice);
}

bool select_isa(const char* name) {
  if (name[0] == '\0') {
    forced.store(kAutomatic, std::memory_order_relaxed);
    return true;
  }
  for (int i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (std::strcmp(name, isa_name(isa)) == 0 && isa_usable(isa)) {
      forced.store(i, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace l1sparse
