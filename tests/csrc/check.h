// SPDX-License-Identifier: MIT
// Checks that count and go on: a failure prints its place, its values and the current context.
#pragma once

#include <cstdio>
#include <sstream>
#include <string>
#include <type_traits>

namespace check {

struct Counts {
  long passed = 0, failed = 0;
};
inline Counts counts;
inline std::string context;  // printed with failures: what a loop is at

template <class T>
std::string text_of(const T& value) {
  std::ostringstream text;
  if constexpr (std::is_enum_v<T>) {
    text << static_cast<long long>(value);
  } else {
    text << value;
  }
  return text.str();
}

inline void report(bool ok, const char* file, int line, const std::string& what) {
  ++(ok ? counts.passed : counts.failed);
  if (ok) return;
  std::printf("%s:%d: failed: %s\n", file, line, what.c_str());
  if (!context.empty()) std::printf("  with %s\n", context.c_str());
  std::fflush(stdout);  // a sanitizer may end the program next
}

template <class A, class B>
void report_equal(const A& a, const B& b, const char* file, int line, const char* what) {
  const bool ok = a == b;
  report(ok, file, line, ok ? "" : what + (": " + text_of(a)) + " against " + text_of(b));
}

// Prints the closing line; returns the exit status of the program.
inline int finish() {
  std::printf("%ld passed, %ld failed\n", counts.passed, counts.failed);
  return counts.failed == 0 && counts.passed > 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(condition) check::report((condition), __FILE__, __LINE__, #condition)
#define CHECK_EQ(a, b) check::report_equal((a), (b), __FILE__, __LINE__, #a " == " #b)
