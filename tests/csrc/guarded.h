// SPDX-License-Identifier: MIT
// Memory next to pages that cannot be touched: reading or writing one byte too far is a fault.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace l1sparse {

class GuardedBytes {
 public:
  GuardedBytes() = default;
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  ~GuardedBytes() { unmap(); }

  // Gives `bytes` bytes that end right before an unreadable page, or else begin right after one.
  // They hold NaN of every type, and so do some bytes past their other end.
  std::uint8_t* place(std::int64_t bytes, bool at_end) {
    if (bytes > capacity_ || capacity_ == 0) map(bytes > 0 ? bytes : 1);
    bytes_ = bytes;
    data_ = first_ + (at_end ? capacity_ - bytes : 0);
    const std::int64_t left = capacity_ - bytes;
    slack_bytes_ = left < kMostSlack ? left : kMostSlack;
    slack_ = at_end ? data_ - slack_bytes_ : data_ + bytes;
    std::memset(data_, kFill, static_cast<std::size_t>(bytes));
    std::memset(slack_, kFill, static_cast<std::size_t>(slack_bytes_));
    return data_;
  }

  std::uint8_t* place(const void* content, std::int64_t bytes, bool at_end) {
    place(bytes, at_end);
    if (bytes > 0) std::memcpy(data_, content, static_cast<std::size_t>(bytes));
    return data_;
  }

  std::uint8_t* data() { return data_; }
  std::int64_t bytes() const { return bytes_; }

  // Whether nothing was written past the end that no page guards.
  bool intact() const {
    for (std::int64_t i = 0; i < slack_bytes_; ++i) {
      if (slack_[i] != kFill) return false;
    }
    return true;
  }

 private:
  static constexpr int kFill = 0xff;
  static constexpr std::int64_t kMostSlack = 256;

  void map(std::int64_t bytes) {
    unmap();
    const std::int64_t page = sysconf(_SC_PAGESIZE);
    capacity_ = (bytes + page - 1) / page * page;
    void* const all = mmap(nullptr, static_cast<std::size_t>(capacity_ + 2 * page), PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    first_ = static_cast<std::uint8_t*>(all) + page;
    if (mprotect(first_, static_cast<std::size_t>(capacity_), PROT_READ | PROT_WRITE) != 0) {
      throw std::bad_alloc();
    }
  }

  void unmap() {
    if (capacity_ == 0) return;
    const std::int64_t page = sysconf(_SC_PAGESIZE);
    munmap(first_ - page, static_cast<std::size_t>(capacity_ + 2 * page));
    capacity_ = 0;
  }

  std::uint8_t* first_ = nullptr;  // between the two guards
  std::uint8_t* data_ = nullptr;
  std::uint8_t* slack_ = nullptr;
  std::int64_t capacity_ = 0, bytes_ = 0, slack_bytes_ = 0;
};

}  // namespace l1sparse
