// SPDX-License-Identifier: MIT
#include "base/simd_x86.h"
#include "kernels/linear/generic.h"

namespace l1sparse {
const LinearKernels linear_avx2 = L1SPARSE_LINEAR_KERNELS(F32x8);
}
