// SPDX-License-Identifier: MIT
// Four float lanes of Arm: 64-bit, or 32-bit with NEON and VFPv4. The meaning of each function is
// written in simd_scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "base/half.h"

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
  static Reg load(const BFloat16* from) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&from->bits), 16));
  }
  static Reg load(const Float16* from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)));
  }
  template <class T>
  static Reg load_partial(const T* from, int n) {
    float lane[4] = {};
    for (int i = 0; i < n; ++i) lane[i] = to_float(from[i]);
    return vld1q_f32(lane);
  }
  static Reg even(Reg a, Reg b) { return vuzpq_f32(a, b).val[0]; }
  using Lanes = std::uint32_t;
  static Lanes lanes_of_bits(std::uint32_t bits) { return bits; }
  template <class T>
  static Reg load_lanes(const T* from, Lanes lanes) {
    float lane[4];
    for (int i = 0; i < 4; ++i) lane[i] = (lanes >> i & 1) != 0 ? to_float(from[i]) : 0.0f;
    return vld1q_f32(lane);
  }
  static void store(float* to, Reg r) { vst1q_f32(to, r); }
  static void stream(float* to, Reg r) { store(to, r); }
  static void finish_streams() {}
  static void store(BFloat16* to, Reg r) {
    const uint32x4_t bits = vreinterpretq_u32_f32(r);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t number = vceqq_f32(r, r);
    const uint32x4_t result = vbslq_u32(number, rounded, vdupq_n_u32(0x7fc00000));
    vst1_u16(&to->bits, vshrn_n_u32(result, 16));
  }
  static void store(Float16* to, Reg r) {
    vst1_u16(&to->bits, vreinterpret_u16_f16(vcvt_f16_f32(r)));
  }
  template <class T>
  static void store_partial(T* to, Reg r, int n) {
    float lane[4];
    vst1q_f32(lane, r);
    for (int i = 0; i < n; ++i) from_float(lane[i], to + i);
  }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg div(Reg a, Reg b) {
#if defined(__aarch64__)
    return vdivq_f32(a, b);
#else
    for (int i = 0; i < 4; ++i) a[i] /= b[i];
    return a;
#endif
  }
  static Reg max(Reg bound, Reg x) { return vmaxq_f32(bound, x); }
  static Reg max_or_nan(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static Reg min(Reg bound, Reg x) { return vminq_f32(bound, x); }
  static Reg abs(Reg a) { return vabsq_f32(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg sum_lanes(const Reg* r) {
    return pair_sums(pair_sums(r[0], r[1]), pair_sums(r[2], r[3]));
  }
  static Reg pair_sums(Reg a, Reg b) {
#if defined(__aarch64__)
    return vpaddq_f32(a, b);
#else
    return vcombine_f32(vpadd_f32(vget_low_f32(a), vget_high_f32(a)),
                        vpadd_f32(vget_low_f32(b), vget_high_f32(b)));
#endif
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
