// SPDX-License-Identifier: MIT
// GCC 12's own AVX-512 intrinsics read an uninitialised dummy (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include "base/simd_x86.h"
#include "kernels/linear/generic.h"

namespace l1sparse {
const LinearKernels linear_avx512 = L1SPARSE_LINEAR_KERNELS(F32x16);
}
