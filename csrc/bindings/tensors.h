// SPDX-License-Identifier: MIT
// What the operators need of tensors and threads: checks that name the argument, memory, layouts.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"  // in torch's own headers
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#pragma GCC diagnostic pop

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/parallel.h"
#include "base/status.h"
#include "kernels/conv2d/conv2d.h"

namespace l1sparse::bindings {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

[[noreturn]] void fail(const std::string& text);

// Throws what `status` says, unless it is fine.
void check(Status status);

// An operator's `str` argument, which this takes and deletes. Torch's own way to a std::string
// leaks one at every call (`to<std::string>` in the headers of torch 2.13).
std::string take_string(StringHandle argument);

std::string shape_text(const Tensor& tensor);

std::string sizes_text(const std::vector<int64_t>& sizes);

bool is_float(ScalarType dtype);

std::string dtype_text(ScalarType dtype);

DType dtype_of(const Tensor& tensor);

void check_tensor(const char* name, const Tensor& tensor, bool dtype_fits,
                  const std::string& dtype_names, int64_t rank);

void check_float(const char* name, const Tensor& tensor, int64_t rank);

void check_sizes(const char* name, const Tensor& tensor, const std::vector<int64_t>& wanted,
                 const char* whose);

std::array<int64_t, 2> pair(const char* name, const std::vector<int64_t>& values);

std::array<int64_t, 4> sizes_of(const Tensor& tensor);

Strides4 strides_of(const Tensor& tensor);

Parallel torch_threads();

// Working memory of one call, or of several that share it, one after the other.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t bytes) { reserve(bytes); }

  // Makes it at least so large. What it holds is lost where it was smaller.
  void reserve(int64_t bytes) {
    if (bytes <= bytes_) return;
    const size_t rounded = (static_cast<size_t>(bytes) / kAlignment + 1) * kAlignment;
    data_.reset(std::aligned_alloc(kAlignment, rounded));
    bytes_ = data_ == nullptr ? 0 : bytes;
    if (data_ == nullptr) fail("no memory for " + std::to_string(bytes) + " bytes of scratch");
  }
  void* data() const { return data_.get(); }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t bytes_ = -1;
};

// Not by torch::stable::empty, which takes a microsecond to find the operator by its name.
Tensor empty(const std::vector<int64_t>& size, ScalarType dtype,
             MemoryFormat format = MemoryFormat::Contiguous);

// As contiguous in a format, without a copy where it is that already.
Tensor as_contiguous(const Tensor& tensor, MemoryFormat format = MemoryFormat::Contiguous);

// As contiguous float32, likewise.
Tensor as_float32(const Tensor& tensor);

}  // namespace l1sparse::bindings
