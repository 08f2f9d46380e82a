// SPDX-License-Identifier: MIT
#include "base/simd_neon.h"
#include "kernels/group_l1/generic.h"

namespace l1sparse {
void (*const group_l1_neon)(const GroupL1Job& job) = &group_l1<F32x4, F32x4>;
}
