// SPDX-License-Identifier: MIT
#include "base/simd_x86.h"
#include "kernels/group_l1/generic.h"

namespace l1sparse {
void (*const group_l1_avx512)(const GroupL1Job& job) = &group_l1<F32x16, F32x8>;
}
