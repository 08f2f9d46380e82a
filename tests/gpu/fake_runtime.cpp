// SPDX-License-Identifier: MIT
// Stands in for the CUDA runtime under the real launchers and binding: instead of launching, it
// hands the kernel's name, sizes and arguments to a listener. What the compiler makes of `<<<>>>`
// calls these functions (crt/host_runtime.h of the toolkit).
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>

using Listener = void (*)(const char* kernel, const unsigned* grid, const unsigned* block,
                          void** arguments, std::size_t shared, void* stream);

namespace {

struct Launch {
  dim3 grid, block;
  std::size_t shared;
  void* stream;
};

Listener listener = nullptr;
Launch configured;
cudaError_t launch_error = cudaSuccess, device_error = cudaSuccess, last_error = cudaSuccess;
int device = -1;
std::size_t dynamic_limit = 48 * 1024;  // of dynamic shared memory, until a kernel asks for more
std::map<const void*, std::size_t>& allowed_dynamic() {
  static std::map<const void*, std::size_t> sizes;
  return sizes;
}

// Kernels by the address of their host function.
std::map<const void*, const char*>& names() {
  static std::map<const void*, const char*> map;
  return map;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared,
                   void* stream) {
  last_error = launch_error;
  const auto allowed = allowed_dynamic().find(kernel);
  const std::size_t limit = allowed == allowed_dynamic().end() ? dynamic_limit : allowed->second;
  if (shared > limit || grid.y > 65535 || grid.z > 65535 || block.x > 1024) {
    last_error = cudaErrorInvalidValue;
  }
  if (last_error != cudaSuccess || listener == nullptr) return last_error;
  const unsigned grid_sizes[3] = {grid.x, grid.y, grid.z};
  const unsigned block_sizes[3] = {block.x, block.y, block.z};
  listener(names().at(kernel), grid_sizes, block_sizes, arguments, shared, stream);
  return cudaSuccess;
}

}  // namespace

extern "C" {

void fake_listen(Listener to) { listener = to; }
void fake_errors(int of_launch, int of_device) {
  launch_error = static_cast<cudaError_t>(of_launch);
  device_error = static_cast<cudaError_t>(of_device);
}
int fake_device() { return device; }

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  names()[function] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, void* stream) {
  configured = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* stream) {
  *grid = configured.grid;
  *block = configured.block;
  *shared = configured.shared;
  *static_cast<void**>(stream) = configured.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                               std::size_t shared, void* stream) {
  return launch(kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             std::size_t shared, cudaStream_t stream) {
  return launch(kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    allowed_dynamic()[function] = static_cast<std::size_t>(value);
  }
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaSetDevice(int to) {
  device = to;
  return device_error;
}
const char* cudaGetErrorString(cudaError_t) { return "a text from the runtime"; }

}  // extern "C"
