// SPDX-License-Identifier: MIT
// Version, features and the instruction set.
#include <cstring>
#include <initializer_list>

#include "base/isa.h"
#include "capi/arguments.h"

using namespace l1sparse;

int32_t l1sparse_version(void) {
  return L1SPARSE_VERSION_MAJOR * 10000 + L1SPARSE_VERSION_MINOR * 100 + L1SPARSE_VERSION_PATCH;
}

int32_t l1sparse_has(const char* name) {
  if (name == nullptr) return 0;
  for (int i = 0; i < kIsaCount; ++i) {
    if (std::strcmp(name, isa_name(static_cast<Isa>(i))) == 0) return 1;
  }
  for (const char* feature : {"float16", "bfloat16", "threads", "pack", "group_l1_norm"}) {
    if (std::strcmp(name, feature) == 0) return 1;
  }
  return 0;
}

const char* l1sparse_isa(void) { return isa_name(selected_isa()); }

l1sparse_status l1sparse_select_isa(const char* name) {
  if (name == nullptr) return capi::null_argument(capi::Argument::name);
  if (select_isa(name)) return capi::kOk;
  return {L1SPARSE_UNKNOWN_ISA, static_cast<std::int32_t>(capi::Argument::name), 0, 0};
}
