// SPDX-License-Identifier: MIT
#include "base/isa.h"

#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__arm__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace l1sparse {
namespace {

constexpr int kAutomatic = -1, kUnknown = -1;
std::atomic<int> forced{kAutomatic};
// Threads that find it unknown find the same answer, so no guard is needed, whose lock would come
// from the C++ runtime.
std::atomic<int> fastest{kUnknown};

#if defined(__x86_64__)
// Older compilers' __builtin_cpu_supports does not know this name. A build of plain C++ alone has
// no use for it.
[[maybe_unused]] bool supports_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

// Whether the instruction set is faster than those after it. Intel's processors take so long for
// pairs of bfloat16 numbers that widening them to float32 is faster: docs/kernels.md has figures.
bool isa_pays([[maybe_unused]] Isa isa) {
#if defined(__x86_64__) && !defined(L1SPARSE_WITHOUT_AVX512) && \
    !defined(L1SPARSE_WITHOUT_AVX512_BF16)
  if (isa == Isa::avx512_bf16) return !__builtin_cpu_is("intel");
#endif
  return true;
}

Isa fastest_usable() {
  for (int i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (isa_usable(isa) && isa_pays(isa)) return isa;
  }
  return static_cast<Isa>(kIsaCount - 1);
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
#define L1SPARSE_ISA(name, kernels) \
  case Isa::name:                   \
    return #name;
#include "base/isa.inc"
#undef L1SPARSE_ISA
  }
  return "unknown";
}

const char* name_of_kernels(Isa isa) {
  switch (isa) {
#define L1SPARSE_ISA(name, kernels) \
  case Isa::name:                   \
    return #kernels;
#include "base/isa.inc"
#undef L1SPARSE_ISA
  }
  return "unknown";
}

bool isa_usable(Isa isa) {
  switch (isa) {
#if defined(__x86_64__) && !defined(L1SPARSE_WITHOUT_AVX512)
#if !defined(L1SPARSE_WITHOUT_AVX512_BF16)
    case Isa::avx512_bf16:
      return isa_usable(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
#endif
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
#endif
#if defined(__x86_64__) && !defined(L1SPARSE_WITHOUT_AVX2)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
#endif
#if defined(__aarch64__) && !defined(L1SPARSE_WITHOUT_NEON)
    case Isa::neon:
      return true;  // part of the 64-bit Arm base instruction set
#elif defined(__arm__) && !defined(L1SPARSE_WITHOUT_NEON)
    case Isa::neon:  // with fused multiply-add and conversion of float16, as VFPv4 has them
      return (getauxval(AT_HWCAP) & (HWCAP_NEON | HWCAP_VFPv4)) == (HWCAP_NEON | HWCAP_VFPv4);
#endif
#if !defined(L1SPARSE_WITHOUT_SCALAR)
    case Isa::scalar:
      return true;
#endif
  }
  return false;
}

Isa selected_isa() {
  const int choice = forced.load(std::memory_order_relaxed);
  if (choice != kAutomatic) return static_cast<Isa>(choice);
  int found = fastest.load(std::memory_order_relaxed);
  if (found == kUnknown) {
    found = static_cast<int>(fastest_usable());
    fastest.store(found, std::memory_order_relaxed);
  }
  return static_cast<Isa>(found);
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
