// SPDX-License-Identifier: MIT
// Four float lanes in plain C++: what every other instruction set is compared with, and what runs
// where there is nothing better.
#pragma once

#include <cstdint>

#include "base/half.h"

namespace l1sparse {
namespace {

struct F32x4 {
  static constexpr int kLanes = 4;
  // How many registers sum_lanes() takes at once, and the vector that holds their sums.
  static constexpr int kBatch = 4;
  using Sums = F32x4;
  struct Reg {
    float lane[4];
  };

  static Reg zero() { return {}; }
  static Reg broadcast(float x) { return {{x, x, x, x}}; }
  // T is float, BFloat16 or Float16.
  template <class T>
  static Reg load(const T* from) {
    return load_partial(from, 4);
  }
  // The first n lanes; the others are 0 and their memory is not read. 0 <= n <= kLanes.
  template <class T>
  static Reg load_partial(const T* from, int n) {
    Reg r{};
    for (int i = 0; i < n; ++i) r.lane[i] = to_float(from[i]);
    return r;
  }
  // Every second lane of a, then of b.
  static Reg even(Reg a, Reg b) { return {{a.lane[0], a.lane[2], b.lane[0], b.lane[2]}}; }
  // Lane i where bit i is set; the others are 0 and their memory is not read.
  using Lanes = std::uint32_t;
  static Lanes lanes_of_bits(std::uint32_t bits) { return bits; }
  template <class T>
  static Reg load_lanes(const T* from, Lanes lanes) {
    Reg r{};
    for (int i = 0; i < 4; ++i) r.lane[i] = (lanes >> i & 1) != 0 ? to_float(from[i]) : 0.0f;
    return r;
  }
  template <class T>
  static void store(T* to, Reg r) {
    store_partial(to, r, 4);
  }
  // Past the caches, where that can be said; `to` is a multiple of the vector's size. Other threads
  // see it after finish_streams().
  static void stream(float* to, Reg r) { store(to, r); }
  static void finish_streams() {}
  template <class T>
  static void store_partial(T* to, Reg r, int n) {
    for (int i = 0; i < n; ++i) from_float(r.lane[i], to + i);
  }
  static Reg add(Reg a, Reg b) {
    for (int i = 0; i < 4; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static Reg mul(Reg a, Reg b) {
    for (int i = 0; i < 4; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  static Reg div(Reg a, Reg b) {
    for (int i = 0; i < 4; ++i) a.lane[i] /= b.lane[i];
    return a;
  }
  // A NaN in x comes out.
  static Reg max(Reg bound, Reg x) {
    for (int i = 0; i < 4; ++i) x.lane[i] = x.lane[i] < bound.lane[i] ? bound.lane[i] : x.lane[i];
    return x;
  }
  // The greater of the two, or NaN where one of them is.
  static Reg max_or_nan(Reg a, Reg b) {
    for (int i = 0; i < 4; ++i) {
      const bool keeps_a = a.lane[i] >= b.lane[i] || a.lane[i] != a.lane[i];
      a.lane[i] = keeps_a ? a.lane[i] : b.lane[i];
    }
    return a;
  }
  static Reg min(Reg bound, Reg x) {
    for (int i = 0; i < 4; ++i) x.lane[i] = x.lane[i] > bound.lane[i] ? bound.lane[i] : x.lane[i];
    return x;
  }
  static Reg abs(Reg a) {
    for (int i = 0; i < 4; ++i) a.lane[i] = __builtin_fabsf(a.lane[i]);
    return a;
  }
  static Reg fma(Reg a, Reg b, Reg c) {
    for (int i = 0; i < 4; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
  }
  // Lane i of the result is the sum of the lanes of r[i].
  static Reg sum_lanes(const Reg* r) {
    Reg sums;
    for (int i = 0; i < 4; ++i) {
      sums.lane[i] = (r[i].lane[0] + r[i].lane[1]) + (r[i].lane[2] + r[i].lane[3]);
    }
    return sums;
  }
  // Lane j of r[i] becomes lane i of r[j].
  static void transpose(Reg (&r)[4]) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < i; ++j) {
        const float swapped = r[i].lane[j];
        r[i].lane[j] = r[j].lane[i];
        r[j].lane[i] = swapped;
      }
    }
  }
};

}  // namespace
}  // namespace l1sparse
