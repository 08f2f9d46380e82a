// SPDX-License-Identifier: MIT
#include <cuda_runtime.h>

#include "base/gpu.h"

namespace l1sparse {

int select_gpu(int device) { return cudaSetDevice(device); }

const char* gpu_error_text(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace l1sparse
