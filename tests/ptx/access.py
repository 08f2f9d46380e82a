# SPDX-License-Identifier: MIT
"""Links loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

import numpy as np

from .errors import PtxError
from .layout import LOCAL_WINDOW, SHARED_WINDOW
from .link import Linker, Modifiers, Run, builds
from .machine import Lanes, Machine
from .syntax import Address, Immediate, Instruction, Operand, Register, Symbol, Variable, Vector
from .types import NUMPY, SIZES

# What an access may carry that bears on caches or ordering only. Ordering between threads is
# judged by barriers alone (see shared.py), so `.acquire` and the like add nothing to it.
_CACHE = ("ca", "cg", "cs", "lu", "cv", "wb", "wt")
_HINTS = (
    *("L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last"),
    *("L1::no_allocate", "L2::evict_last", "L2::evict_normal", "L2::evict_first"),
    *("L2::64B", "L2::128B", "L2::256B"),
)
_ORDER = ("weak", "volatile", "relaxed", "acquire", "release", "acq_rel")
_SCOPE = ("cta", "cluster", "gpu", "sys")
_SPACE = ("global", "shared", "shared::cta", "local", "param", "const")


def _common(modifiers: Modifiers) -> tuple[str, bool]:
    """Takes the modifiers all accesses share; returns the space, and whether a policy follows."""
    space = modifiers.take(*_SPACE).split("::")[0]
    for group in (_ORDER, _SCOPE, _CACHE):
        modifiers.take(*group)
    while modifiers.take(*_HINTS):
        pass
    return space, bool(modifiers.take("L2::cache_hint"))


class Place:
    """An address operand: gives the addresses of lanes within a space."""

    def __init__(self, operand: Operand, space: str, link: Linker) -> None:
        if not isinstance(operand, Address):
            raise PtxError("an address expected")
        self.space = space
        self.offset = operand.offset
        self.frame: Variable | None = None
        base = operand.base
        if isinstance(base, Variable):
            if base.space != (space or base.space):
                raise PtxError(f"{base.name} is not in .{space} memory")
            self.space = base.space
            if base in link.program.layout.frames:
                self.frame = base
        if isinstance(base, Symbol):
            raise PtxError(f"unknown name {base.name}")
        self.slot: int | None = None
        if base is not None:
            wide = not isinstance(base, Register) or SIZES[base.type] == 8
            self.slot = link.source(base, "u64" if wide else "u32")
        self.uniform = not isinstance(base, Register)

    def addresses(self, machine: Machine, lanes: Lanes) -> np.ndarray:
        """The address of every lane, 64 bits."""
        if self.slot is None:
            return np.full(len(lanes.index), self.offset, np.int64).view(np.uint64)
        base = lanes.pick(machine.slots[self.slot])
        if base.dtype.itemsize == 4:
            return (base + np.uint32(self.offset & 0xFFFFFFFF)).astype(np.uint64)
        return base + np.uint64(self.offset & 0xFFFF_FFFF_FFFF_FFFF)


def _generic(machine: Machine, addresses: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Splits generic addresses by the space they lie in: (space, which, addresses in it)."""
    windows = {
        "shared": (SHARED_WINDOW, LOCAL_WINDOW),
        "local": (LOCAL_WINDOW, 2 * LOCAL_WINDOW - SHARED_WINDOW),
    }
    found = []
    rest = np.ones(len(addresses), bool)
    for space, (low, high) in windows.items():
        inside = (addresses >= low) & (addresses < high)
        if inside.any():
            found.append((space, np.flatnonzero(inside), addresses[inside] - np.uint64(low)))
            rest &= ~inside
    if rest.any():
        found.append(("global", np.flatnonzero(rest), addresses[rest]))
    return found


def load(machine: Machine, place: Place, lanes: Lanes, size: int) -> np.ndarray:
    """Reads rows of `size` bytes, one a lane."""
    addresses, index = place.addresses(machine, lanes), lanes.index
    if place.space:
        return _load(machine, place.space, place.frame, addresses, index, size)
    rows = np.empty((len(index), size), np.uint8)
    for space, part, inside in _generic(machine, addresses):
        rows[part] = _load(machine, space, None, inside, index[part], size)
    return rows


def _load(
    machine: Machine,
    space: str,
    frame: Variable | None,
    addresses: np.ndarray,
    index: np.ndarray,
    size: int,
) -> np.ndarray:
    if space in ("global", "const"):
        return machine.memory.load(machine, addresses, index, size)
    if space == "shared":
        return machine.shared.load(addresses, index, size)
    if space == "local":
        columns = _columns(machine, addresses, index, size, machine.local.shape[1], 16, "local")
        if not machine.local_written[index[:, None], columns].all():
            machine.hazard("uninitialised memory", "local memory read that was never written")
        machine.counts.local_requests += len(np.unique(index // 32))
        return machine.local[index[:, None], columns]
    if frame is not None:
        columns = _columns(machine, addresses, index, size, frame.size, 0, frame.name)
        return machine.frames[frame][index[:, None], columns]
    limit = len(machine.parameters)
    return machine.parameters[_columns(machine, addresses, index, size, limit, 0, "parameter")]


def _columns(
    machine: Machine,
    addresses: np.ndarray,
    index: np.ndarray,
    size: int,
    limit: int,
    start: int,
    what: str,
) -> np.ndarray:
    """The bytes of accesses to memory each thread has for itself, checked."""
    first = addresses.view(np.int64)
    for kind, bad in (
        ("misaligned", first % size != 0),
        ("out of bounds", (first < start) | (first + size > limit)),
    ):
        if bad.any():
            one = int(np.flatnonzero(bad)[0])
            where = f"{size} bytes at {what} address {first[one]} of {limit}"
            machine.hazard(kind, f"{machine.shape.name(index[one])} uses {where}")
            first = np.clip(first // size * size, start, limit - size)
    return first[:, None] + np.arange(size)


def store(machine: Machine, place: Place, lanes: Lanes, rows: np.ndarray) -> None:
    """Writes rows of bytes, one a lane."""
    addresses, index = place.addresses(machine, lanes), lanes.index
    parts = [(place.space, np.arange(len(index)), addresses)]
    for space, part, inside in parts if place.space else _generic(machine, addresses):
        own, size = index[part], rows.shape[1]
        if space == "global":
            machine.memory.store(machine, inside, own, rows[part])
        elif space == "shared":
            machine.shared.store(inside, own, rows[part])
        elif space == "local":
            columns = _columns(machine, inside, own, size, machine.local.shape[1], 16, "local")
            machine.counts.local_requests += len(np.unique(own // 32))
            machine.local[own[:, None], columns] = rows[part]
            machine.local_written[own[:, None], columns] = True
        elif place.frame is not None:
            columns = _columns(machine, inside, own, size, place.frame.size, 0, place.frame.name)
            machine.frames[place.frame][own[:, None], columns] = rows[part]
        else:
            raise PtxError(f"a store to .{space} memory", machine.step.instruction.line)


def _vector(modifiers: Modifiers, operand: Operand) -> list[Operand]:
    width = int((modifiers.take("v2", "v4", "v8") or "v1")[1:])
    items = list(operand.items) if isinstance(operand, Vector) else [operand]
    if len(items) != width:
        raise PtxError(f"{len(items)} registers for a vector of {width}")
    return items


@builds("ld", "ldu")
def link_load(instruction: Instruction, link: Linker) -> Run:
    """`ld`, of one value or a vector."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    space, policy = _common(modifiers)
    modifiers.take("nc")
    operands = list(instruction.operands)
    items = _vector(modifiers, operands[0])
    modifiers.done()
    if len(operands) != 2 + policy:
        raise PtxError("wrong number of operands")
    place = Place(operands[1], space, link)
    targets = [link.target(item, kind) for item in items]
    dtype, size = NUMPY[kind], SIZES[kind] * len(items)
    if size > 32:
        raise PtxError(f"an access of {size} bytes")
    if place.space in ("shared", ""):
        link.program.touches_shared(size)

    def run(machine: Machine, lanes: Lanes) -> None:
        values = load(machine, place, lanes, size).view(dtype)
        for column, target in enumerate(targets):
            if target is not None:
                machine.slots[target][lanes.index] = values[:, column]

    return run


@builds("st")
def link_store(instruction: Instruction, link: Linker) -> Run:
    """`st`, of one value or a vector."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    space, policy = _common(modifiers)
    operands = list(instruction.operands)
    items = _vector(modifiers, operands[1])
    modifiers.done()
    if len(operands) != 2 + policy:
        raise PtxError("wrong number of operands")
    place = Place(operands[0], space, link)
    sources = [link.source(item, kind) for item in items]
    dtype, size = NUMPY[kind], SIZES[kind] * len(items)
    if place.space in ("shared", ""):
        link.program.touches_shared(size)

    def run(machine: Machine, lanes: Lanes) -> None:
        rows = np.empty((len(lanes.index), len(sources)), dtype)
        for column, source in enumerate(sources):
            rows[:, column] = lanes.pick(machine.slots[source])
        store(machine, place, lanes, rows.view(np.uint8))

    return run


@builds("cp")
def link_copy(instruction: Instruction, link: Linker) -> Run:
    """`cp.async`: the copies, and their groups and waits."""
    modifiers = Modifiers(instruction)
    if not modifiers.take("async"):
        raise PtxError("only cp.async is known")
    if modifiers.take("commit_group"):
        modifiers.done()
        return lambda machine, lanes: machine.shared.copies.commit(lanes.index)
    waits_all = bool(modifiers.take("wait_all"))
    if waits_all or modifiers.take("wait_group"):
        modifiers.done()
        return _wait(waits_all, instruction)
    return _copy(instruction, link, modifiers)


def _wait(waits_all: bool, instruction: Instruction) -> Run:
    operand = Immediate(0) if waits_all else instruction.operands[0]
    if not isinstance(operand, Immediate):
        raise PtxError("the number of groups is a literal")
    newest = int(operand.value)

    def run(machine: Machine, lanes: Lanes) -> None:
        copies = machine.shared.copies
        if waits_all:  # also of copies that were not committed
            copies.commit(lanes.index)
        copies.wait(machine.shared, lanes.mask, newest)

    return run


def _copy(instruction: Instruction, link: Linker, modifiers: Modifiers) -> Run:
    if not modifiers.take("ca"):
        modifiers.take("cg")
    for needed in (("shared", "shared::cta"), ("global",)):
        if not modifiers.take(*needed):
            raise PtxError(f".{needed[0]} expected")
    while modifiers.take(*_HINTS):
        pass
    operands = list(instruction.operands)
    if modifiers.take("L2::cache_hint"):
        operands.pop()
    modifiers.done()
    target, source = Place(operands[0], "shared", link), Place(operands[1], "global", link)
    size_operand = operands[2]
    if not isinstance(size_operand, Immediate) or size_operand.value not in (4, 8, 16):
        raise PtxError("a copy of 4, 8 or 16 bytes expected")
    size = int(size_operand.value)
    link.program.touches_shared(size)
    ignored = taken = None
    if len(operands) == 4 and getattr(operands[3], "type", "") == "pred":
        ignored = link.source(operands[3], "pred")
    elif len(operands) == 4:
        taken = link.source(operands[3], "u32")

    def run(machine: Machine, lanes: Lanes) -> None:
        count = np.full(len(lanes.index), size)
        if ignored is not None:
            count[lanes.pick(machine.slots[ignored])] = 0
        if taken is not None:
            count = lanes.pick(machine.slots[taken]).astype(np.int64)
            if (count > size).any():
                machine.hazard("out of bounds", f"{count.max()} of {size} bytes are to be copied")
        rows = np.zeros((len(count), size), np.uint8)
        addresses = source.addresses(machine, lanes)
        whole = np.flatnonzero(count >= size)
        if len(whole):
            rows[whole] = machine.memory.load(machine, addresses[whole], lanes.index[whole], size)
        for one in np.flatnonzero((count > 0) & (count < size)):
            for byte in range(count[one]):  # rare: the ragged end of a row
                address = addresses[one : one + 1] + np.uint64(byte)
                lane = lanes.index[one : one + 1]
                rows[one, byte] = machine.memory.load(machine, address, lane, 1)[0, 0]
        _begin_copy(machine, target.addresses(machine, lanes), lanes.index, rows)

    return run


def _begin_copy(
    machine: Machine, addresses: np.ndarray, lanes: np.ndarray, rows: np.ndarray
) -> None:
    """Writes at once what hardware may write at any time until the wait, and marks it."""
    shared, size = machine.shared, rows.shape[1]
    machine.counts.shared_access(addresses, lanes, size, "store")
    offsets, good = shared.locate(addresses, lanes, size, "copies to")
    lanes = lanes[good]
    changes = np.ones(len(lanes), bool)
    pieces = shared.check_write(offsets, lanes, size, changes)
    clash = (shared.write_stamp[pieces] != shared.stamp[lanes][:, None]).any(axis=1)
    if clash.any():
        shared.race(lanes, offsets, clash, "copies to", "copied to as well")
    shared.scatter(offsets, rows[good])
    shared.written[pieces] = True
    shared.flying[pieces] = True
    shared.copies.issue(lanes, pieces)
