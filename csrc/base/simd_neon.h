// SPDX-License-Identifier: MIT
// Four float lanes of 64-bit Arm. The meaning of each function is written in simd_scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace l1sparse {
namespace {

struct F32x4 {
  static constexpr int kLanes = 4;
  static constexpr int kBatch = 4;
  using Sums = F32x4;
  using Reg = float32x4_t;

  static Reg zero() { return vdupq_n_f32(0.0f); }
  static Reg broadcast(float x) { return vdupq_n_f32(x); }
  static Reg load(const float* from) { return vld1q_f32(from); }
  static Reg load_partial(const float* from, int n) {
    float lane[4] = {};
    for (int i = 0; i < n; ++i) lane[i] = from[i];
    return vld1q_f32(lane);
  }
  static Reg even(Reg a, Reg b) { return vuzp1q_f32(a, b); }
  using Lanes = std::uint32_t;
  static Lanes lanes_of_bits(std::uint32_t bits) { return bits; }
  static Reg load_lanes(const float* from, Lanes lanes) {
    float lane[4];
    for (int i = 0; i < 4; ++i) lane[i] = (lanes >> i & 1) != 0 ? from[i] : 0.0f;
    return vld1q_f32(lane);
  }
  static void store(float* to, Reg r) { vst1q_f32(to, r); }
  static void store_partial(float* to, Reg r, int n) {
    float lane[4];
    vst1q_f32(lane, r);
    for (int i = 0; i < n; ++i) to[i] = lane[i];
  }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg relu(Reg a) { return vmaxq_f32(a, zero()); }
  static Reg abs(Reg a) { return vabsq_f32(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg sum_lanes(const Reg* r) {
    return vpaddq_f32(vpaddq_f32(r[0], r[1]), vpaddq_f32(r[2], r[3]));
  }
  static void transpose(Reg (&r)[4]) {
    const float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
  }
};

}  // namespace
}  // namespace l1sparse
