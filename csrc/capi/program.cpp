// SPDX-License-Identifier: MIT
// The checksum at the end of exported programs: "L1SPCRC1", then the CRC-32 (zlib's) of all bytes
// before that, little-endian. ExecuTorch reads nothing there.
#include <array>
#include <cstring>

#include "capi/arguments.h"

using namespace l1sparse;

namespace {

constexpr char kMagic[] = {'L', '1', 'S', 'P', 'C', 'R', 'C', '1'};
constexpr std::size_t kTrailerBytes = sizeof(kMagic) + 4;

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320u : 0u);
    table[byte] = crc;
  }
  return table;
}

std::uint32_t crc32(const std::uint8_t* data, std::size_t bytes) {
  static constexpr std::array<std::uint32_t, 256> kTable = crc_table();
  std::uint32_t crc = 0xffffffffu;
  for (std::size_t i = 0; i < bytes; ++i) crc = crc >> 8 ^ kTable[(crc ^ data[i]) & 0xff];
  return ~crc;
}

}  // namespace

l1sparse_status l1sparse_program_check(const void* program, size_t bytes) {
  if (program == nullptr) return capi::null_argument(capi::Argument::program);
  const auto* data = static_cast<const std::uint8_t*>(program);
  const auto argument = static_cast<std::int32_t>(capi::Argument::program);
  if (bytes < kTrailerBytes ||
      std::memcmp(data + bytes - kTrailerBytes, kMagic, sizeof(kMagic)) != 0) {
    return {L1SPARSE_PROGRAM_UNCHECKED, argument, 0, 0};
  }
  const std::uint8_t* stored = data + bytes - 4;
  const std::uint32_t expected = std::uint32_t{stored[0]} | std::uint32_t{stored[1]} << 8 |
                                 std::uint32_t{stored[2]} << 16 | std::uint32_t{stored[3]} << 24;
  const std::uint32_t found = crc32(data, bytes - kTrailerBytes);
  if (found != expected) return {L1SPARSE_PROGRAM_DAMAGED, argument, found, expected};
  return capi::kOk;
}
