# SPDX-License-Identifier: MIT
"""Links atomics, and instructions that have no effect here: fences, prefetches, policies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import real
from .access import Place, _common, _generic
from .errors import PtxError
from .link import Linker, Modifiers, Run, builds
from .machine import Lanes, Machine
from .syntax import Instruction
from .types import NUMPY, SIZES, is_float

Update = Callable[[np.ndarray, list[np.ndarray]], np.ndarray]


def _update(name: str, kind: str) -> Update:
    """Maps an old value and the operands, arrays of one element, to the new value."""
    if kind in ("f16x2", "bf16x2") or (is_float(kind) and name == "add"):
        if name != "add":
            raise PtxError(f"atomic {name} of .{kind}")
        element = kind.removesuffix("x2")
        dtype = NUMPY[element]
        return lambda old, new: real.add(
            old.view(dtype), np.ascontiguousarray(new[0]).view(dtype), element, "rn"
        ).view(NUMPY[kind])
    table: dict[str, Update] = {
        "add": lambda old, new: old + new[0],
        "min": lambda old, new: np.minimum(old, new[0]),
        "max": lambda old, new: np.maximum(old, new[0]),
        "and": lambda old, new: old & new[0],
        "or": lambda old, new: old | new[0],
        "xor": lambda old, new: old ^ new[0],
        "exch": lambda old, new: new[0],
        "cas": lambda old, new: np.where(old == new[0], new[1], old),
        "inc": lambda old, new: np.where(old >= new[0], old * 0, old + old.dtype.type(1)),
        "dec": lambda old, new: np.where(
            (old == 0) | (old > new[0]), new[0], old - old.dtype.type(1)
        ),
    }
    if is_float(kind):
        raise PtxError(f"atomic {name} of .{kind}")
    return table[name]


@builds("atom", "red")
def link_atomic(instruction: Instruction, link: Linker) -> Run:
    """`atom`, `red`: the threads take their turns in the order of their numbers."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    name = modifiers.take("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
    modifiers.take("noftz")
    space, policy = _common(modifiers)
    modifiers.done()
    operands = list(instruction.operands)
    if policy:
        operands.pop()
    target = link.target(operands.pop(0), kind) if instruction.name == "atom" else None
    place = Place(operands.pop(0), space, link)
    if len(operands) != (2 if name == "cas" else 1):
        raise PtxError("wrong number of operands")
    sources = [link.source(o, kind) for o in operands]
    update, size, dtype = _update(name, kind), SIZES[kind], NUMPY[kind]
    if place.space in ("shared", ""):
        link.program.touches_shared(size)

    def run(machine: Machine, lanes: Lanes) -> None:
        addresses, index = place.addresses(machine, lanes), lanes.index
        values = [lanes.pick(machine.slots[s]) for s in sources]
        old = np.zeros(len(index), dtype)
        every = [(place.space, np.arange(len(index)), addresses)]
        for where, part, inside in every if place.space else _generic(machine, addresses):
            for storage, offsets, chosen in _targets(machine, where, inside, index[part], size):
                data = storage.view(dtype)
                for offset, one in zip(offsets // size, part[chosen], strict=True):
                    before = data[offset : offset + 1].copy()
                    old[one] = before[0]
                    data[offset] = update(before, [v[one : one + 1] for v in values])[0]
        if target is not None:
            machine.slots[target][index] = old

    return run


def _targets(machine: Machine, space: str, addresses: np.ndarray, lanes: np.ndarray, size: int):
    """Yields (storage, offsets, which accesses) of atomics, checked."""
    if space == "shared":
        machine.counts.shared_access(addresses, lanes, size, "atomic")
        offsets, good = machine.shared.locate(addresses, lanes, size, "changes")
        machine.shared.check_atomic(offsets, lanes[good], size)
        yield machine.shared.storage, offsets, good
    elif space == "global":
        memory = machine.memory
        machine.counts.global_access(machine, addresses, lanes, size, "store")
        for buffer, part, offsets in memory.split(machine, addresses, lanes, size, "changes"):
            memory.atomic_access(machine, buffer, offsets, lanes[part], size)
            machine.counts.touch(machine, buffer, offsets, lanes[part], "store")
            yield buffer.storage, offsets, np.arange(len(lanes))[part]
    else:
        raise PtxError(f"an atomic on .{space} memory", machine.step.instruction.line)


def _nothing(machine: Machine, lanes: Lanes) -> None:
    """Memory is always in order here; races are judged by barriers."""


@builds("membar", "fence")
def link_fence(instruction: Instruction, link: Linker) -> Run:
    """`membar`, `fence` between threads; not of proxies."""
    modifiers = Modifiers(instruction)
    modifiers.take("sc", "acq_rel", "acquire", "release")
    modifiers.take("cta", "cluster", "gpu", "sys", "gl")
    modifiers.done()
    return _nothing


@builds("prefetch", "prefetchu")
def link_prefetch(instruction: Instruction, link: Linker) -> Run:
    """`prefetch`."""
    modifiers = Modifiers(instruction)
    modifiers.take("global", "local")
    modifiers.take("L1", "L2", "L2::evict_last", "L2::evict_normal")
    modifiers.done()
    Place(instruction.operands[0], "", link)
    return _nothing


@builds("createpolicy")
def link_policy(instruction: Instruction, link: Linker) -> Run:
    """`createpolicy.fractional`: a cache policy, which is a number nobody looks at here."""
    modifiers = Modifiers(instruction)
    modifiers.type("b64")
    if not modifiers.take("fractional"):
        raise PtxError("only createpolicy.fractional is known")
    while modifiers.take("L2::evict_last", "L2::evict_normal", "L2::evict_first"):
        pass
    modifiers.take("L2::evict_unchanged")
    modifiers.done()
    slot = link.target(instruction.operands[0], "b64")

    def run(machine: Machine, lanes: Lanes) -> None:
        machine.slots[slot][lanes.index] = 0

    return run
