// SPDX-License-Identifier: MIT
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstring>
#include <string>

#include "base/isa.h"
#include "check.h"

using l1sparse::Isa;

namespace {

bool is_intel() {
#if defined(__x86_64__)
  unsigned words[4] = {};
  char vendor[13] = {};
  if (__get_cpuid(0, &words[0], &words[1], &words[2], &words[3]) == 0) return false;
  std::memcpy(vendor, &words[1], 4);
  std::memcpy(vendor + 4, &words[3], 4);
  std::memcpy(vendor + 8, &words[2], 4);
  return std::strcmp(vendor, "GenuineIntel") == 0;
#else
  return false;
#endif
}

// Pairs of bfloat16 numbers, which are the first, are slow on Intel's processors.
Isa fastest_usable() {
  int i = 0;
  const auto pays = [](Isa isa) {
    return !(is_intel() && l1sparse::isa_name(isa) == std::string("avx512_bf16"));
  };
  while (!l1sparse::isa_usable(static_cast<Isa>(i)) || !pays(static_cast<Isa>(i))) ++i;
  return static_cast<Isa>(i);
}

void test_scalar_is_always_usable_and_last() {
  CHECK(l1sparse::isa_usable(Isa::scalar));
  CHECK_EQ(static_cast<int>(Isa::scalar), l1sparse::kIsaCount - 1);
}

void test_names_differ() {
  for (int i = 0; i < l1sparse::kIsaCount; ++i) {
    const std::string name = l1sparse::isa_name(static_cast<Isa>(i));
    CHECK(name.starts_with(l1sparse::name_of_kernels(static_cast<Isa>(i))));
    CHECK(!name.empty());
    for (int j = 0; j < i; ++j) CHECK(name != l1sparse::isa_name(static_cast<Isa>(j)));
  }
}

void test_fastest_usable_is_selected_at_first() {
  CHECK_EQ(l1sparse::selected_isa(), fastest_usable());
}

void test_each_usable_one_can_be_forced() {
  for (int i = 0; i < l1sparse::kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    check::context = l1sparse::isa_name(isa);
    const Isa before = l1sparse::selected_isa();
    CHECK_EQ(l1sparse::select_isa(l1sparse::isa_name(isa)), l1sparse::isa_usable(isa));
    CHECK_EQ(l1sparse::selected_isa(), l1sparse::isa_usable(isa) ? isa : before);
  }
  check::context.clear();
}

void test_unknown_names_change_nothing() {
  CHECK(l1sparse::select_isa("scalar"));
  for (const char* name : {"sse", "AVX2", "Scalar", "scalar ", " scalar", "scala", "avx51", "?"}) {
    check::context = name;
    CHECK(!l1sparse::select_isa(name));
    CHECK_EQ(l1sparse::selected_isa(), Isa::scalar);
  }
  check::context.clear();
}

void test_empty_name_frees_the_choice() {
  CHECK(l1sparse::select_isa("scalar"));
  CHECK(l1sparse::select_isa(""));
  CHECK_EQ(l1sparse::selected_isa(), fastest_usable());
}

}  // namespace

int main() {
  test_scalar_is_always_usable_and_last();
  test_names_differ();
  test_fastest_usable_is_selected_at_first();
  test_each_usable_one_can_be_forced();
  test_unknown_names_change_nothing();
  test_empty_name_frees_the_choice();
  return check::finish();
}
