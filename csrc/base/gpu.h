// SPDX-License-Identifier: MIT
// What every user of the GPU launchers needs; errors are cudaError_t as a number, 0 for success.
#pragma once

namespace l1sparse {

// Makes `device` the one that this thread's launches go to.
int select_gpu(int device);

// The text of an error; a name that the toolkit does not know has one too.
const char* gpu_error_text(int error);

}  // namespace l1sparse
