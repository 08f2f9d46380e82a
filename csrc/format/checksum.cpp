// SPDX-License-Identifier: MIT
#include <cstring>

#include "format/packed.h"

namespace l1sparse {
namespace {

// FNV-1a's step on 64-bit words, with a shift so that high bits reach low ones. Four lanes run
// side by side because one multiplication has to wait for the one before it.
constexpr std::uint64_t kPrime = 0x100000001b3ULL;
constexpr std::uint64_t kBasis = 0xcbf29ce484222325ULL;
constexpr int kLanes = 4;

std::uint64_t step(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * kPrime;
  return hash ^ (hash >> 32);
}

std::uint64_t hash_bytes(const std::uint8_t* data, std::int64_t bytes) {
  std::uint64_t lane[kLanes] = {kBasis, kBasis + 1, kBasis + 2, kBasis + 3};
  std::int64_t at = 0;
  for (; at + 8 * kLanes <= bytes; at += 8 * kLanes) {
    std::uint64_t words[kLanes];
    std::memcpy(words, data + at, sizeof(words));
    for (int i = 0; i < kLanes; ++i) lane[i] = step(lane[i], words[i]);
  }
  for (; at < bytes; ++at) lane[0] = step(lane[0], data[at]);
  std::uint64_t hash = static_cast<std::uint64_t>(bytes);
  for (int i = 0; i < kLanes; ++i) hash = step(hash, lane[i]);
  return hash;
}

}  // namespace

std::uint64_t packed_checksum(const void* buffer, std::int64_t bytes) {
  constexpr std::int64_t kBefore = offsetof(PackedHeader, checksum);
  constexpr std::int64_t kAfter = sizeof(PackedHeader);
  const auto* data = static_cast<const std::uint8_t*>(buffer);
  return step(hash_bytes(data, kBefore), hash_bytes(data + kAfter, bytes - kAfter));
}

}  // namespace l1sparse
