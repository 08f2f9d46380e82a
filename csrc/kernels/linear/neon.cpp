// SPDX-License-Identifier: MIT
#include "base/simd_neon.h"
#include "kernels/linear/generic.h"

namespace l1sparse {
const LinearKernels linear_neon = L1SPARSE_LINEAR_KERNELS(F32x4);
}
