// SPDX-License-Identifier: MIT
// Which instruction sets were compiled, which this processor can run, which one is in use.
#pragma once

namespace l1sparse {

enum class Isa : int {
#define L1SPARSE_ISA(name, kernels) name,
#include "base/isa.inc"
#undef L1SPARSE_ISA
};

// One past the last instruction set, for loops.
constexpr int kIsaCount = 0
#define L1SPARSE_ISA(name, kernels) +1
#include "base/isa.inc"
#undef L1SPARSE_ISA
    ;

const char* isa_name(Isa isa);

// The name of the one whose kernels run where `isa` has none of its own.
const char* name_of_kernels(Isa isa);

// Whether this processor and its operating system run `isa`.
bool isa_usable(Isa isa);

// The instruction set that kernels run on: the fastest usable one until `select_isa` names another.
// Only where the plain C++ kernels were left out can it be one that is not usable.
Isa selected_isa();

// Forces the instruction set called `name`; an empty name goes back to the fastest usable one.
// Returns false, and changes nothing, when the name is unknown or not usable here.
bool select_isa(const char* name);

}  // namespace l1sparse
