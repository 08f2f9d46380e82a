// SPDX-License-Identifier: MIT
// Neighbouring numbers of any activation type that a thread loads and stores at once; arithmetic
// is float32. Nothing here needs more than sm_75.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace l1sparse {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two numbers in a word, converted by one instruction where there is one.
template <class T>
__device__ inline std::uint32_t pair_of(float low, float high) {
  std::uint32_t word;
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&word, &pair, sizeof(word));
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&word, &pair, sizeof(word));
  }
  return word;
}

// N numbers in at most 16 bytes, moved as words so that one instruction moves them all.
template <class T, int N>
struct Vector {
  static constexpr int kBytes = N * static_cast<int>(sizeof(T));
  static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16);
  static constexpr int kWords = kBytes < 4 ? 1 : kBytes / 4;
  std::uint32_t words[kWords];

  __device__ static Vector zero() {
    Vector v;
#pragma unroll
    for (int i = 0; i < kWords; ++i) v.words[i] = 0;
    return v;
  }

  // From memory that no thread of the launch writes.
  __device__ static Vector load(const T* from) {
    Vector v;
    if constexpr (kBytes == 16) {
      const uint4 x = __ldg(reinterpret_cast<const uint4*>(from));
      v.words[0] = x.x, v.words[1] = x.y, v.words[2] = x.z, v.words[3] = x.w;
    } else if constexpr (kBytes == 8) {
      const uint2 x = __ldg(reinterpret_cast<const uint2*>(from));
      v.words[0] = x.x, v.words[1] = x.y;
    } else if constexpr (kBytes == 4) {
      v.words[0] = __ldg(reinterpret_cast<const unsigned*>(from));
    } else {
      v.words[0] = __ldg(reinterpret_cast<const unsigned short*>(from));
    }
    return v;
  }

  __device__ void store(T* to) const {
    if constexpr (kBytes == 16) {
      *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    } else if constexpr (kBytes == 8) {
      *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
    } else if constexpr (kBytes == 4) {
      *reinterpret_cast<unsigned*>(to) = words[0];
    } else {
      *reinterpret_cast<unsigned short*>(to) = static_cast<unsigned short>(words[0]);
    }
  }

  // The same to global memory, in words of PTX: the compiler takes some wide stores apart.
  __device__ void store_global(T* to) const {
    const auto address = __cvta_generic_to_global(to);
    if constexpr (kBytes == 16) {
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(address), "r"(words[0]),
                   "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    } else if constexpr (kBytes == 8) {
      asm volatile("st.global.v2.b32 [%0], {%1, %2};\n" ::"l"(address), "r"(words[0]), "r"(words[1])
                   : "memory");
    } else {
      store(to);
    }
  }

  __device__ void to_floats(float (&x)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (sizeof(T) == 4) {
        x[i] = __uint_as_float(words[i]);
      } else {
        const auto bits = static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2)));
        T value;
        memcpy(&value, &bits, sizeof(bits));
        x[i] = to_float(value);
      }
    }
  }

  __device__ static Vector from_floats(const float (&x)[N]) {
    Vector v = zero();
    if constexpr (sizeof(T) == 2 && N % 2 == 0) {
#pragma unroll
      for (int i = 0; i < N; i += 2) v.words[i / 2] = pair_of<T>(x[i], x[i + 1]);
      return v;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (sizeof(T) == 4) {
        v.words[i] = __float_as_uint(x[i]);
      } else {
        const T value = from_float<T>(x[i]);
        unsigned short bits;
        memcpy(&bits, &value, sizeof(bits));
        v.words[i / 2] |= static_cast<std::uint32_t>(bits) << (16 * (i % 2));
      }
    }
    return v;
  }
};

}  // namespace l1sparse
