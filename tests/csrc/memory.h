// SPDX-License-Identifier: MIT
// Heap memory of an exact size at a multiple of 64, so that a sanitizer sees the first byte read or
// written past its end.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace l1sparse {

class AlignedBytes {
 public:
  explicit AlignedBytes(std::int64_t bytes) : bytes_(bytes) {
    if (posix_memalign(&data_, 64, static_cast<std::size_t>(bytes)) != 0) throw std::bad_alloc();
  }
  explicit AlignedBytes(const std::vector<std::uint8_t>& content)
      : AlignedBytes(static_cast<std::int64_t>(content.size())) {
    if (!content.empty()) std::memcpy(data_, content.data(), content.size());
  }
  AlignedBytes(AlignedBytes&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  AlignedBytes& operator=(AlignedBytes&&) = delete;
  ~AlignedBytes() { std::free(data_); }

  std::uint8_t* data() { return static_cast<std::uint8_t*>(data_); }
  const std::uint8_t* data() const { return static_cast<const std::uint8_t*>(data_); }
  std::int64_t bytes() const { return bytes_; }
  std::vector<std::uint8_t> content() const { return {data(), data() + bytes_}; }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_;
};

}  // namespace l1sparse
