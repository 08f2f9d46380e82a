# SPDX-License-Identifier: MIT
"""Links what the lanes of a warp do together: shuffles, votes, reductions, elections."""

from __future__ import annotations

import numpy as np

from .errors import PtxError
from .link import Linker, Members, Modifiers, Run, builds
from .machine import Lanes, Machine
from .syntax import Instruction, Not, Operand, Pair, Register
from .types import NUMPY


def members_of(slot: int) -> Members:
    """Who must take part, by a mask each lane gives; lanes of one warp must give the same."""

    def members(machine: Machine, lanes: Lanes) -> np.ndarray:
        shape = machine.shape
        masks = np.broadcast_to(machine.slots[slot], shape.size)
        own = (masks >> shape.lane.astype(np.uint32)) & np.uint32(1) == 0
        if (own & lanes.mask).any():
            who = machine.shape.name(int(np.flatnonzero(own & lanes.mask)[0]))
            machine.hazard("bad shuffle", f"{who} is not in its own mask")
        rows = lanes.mask.reshape(-1, 32)
        of_warp = np.where(rows, masks.reshape(-1, 32), 0)
        named = np.bitwise_or.reduce(of_warp, axis=1)
        if (rows & (of_warp != named[:, None])).any():
            machine.hazard("bad shuffle", "the lanes of a warp give different masks")
        bits = named[:, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
        return bits.astype(bool).reshape(-1)

    members.checks_masks = True  # type: ignore[attr-defined]
    return members


def _pair(operand: Operand) -> tuple[Operand, Operand | None]:
    if isinstance(operand, Pair):
        return operand.first, operand.second
    return operand, None


@builds("shfl")
def link_shuffle(instruction: Instruction, link: Linker) -> Run:
    """`shfl.sync`."""
    modifiers = Modifiers(instruction)
    modifiers.type("b32")
    mode = modifiers.take("idx", "up", "down", "bfly")
    if not modifiers.take("sync"):
        raise PtxError("only shfl.sync is known")
    modifiers.done()
    results, a, b, c, mask = instruction.operands
    result, flag = _pair(results)
    source, by, clamp = link.source(a, "b32"), link.source(b, "u32"), link.source(c, "u32")
    link.step.members = members_of(link.source(mask, "b32"))
    target = link.target(result, "b32")
    valid = None if flag is None else link.target(flag, "pred")

    def places(machine: Machine, lanes: Lanes) -> tuple[np.ndarray, np.ndarray]:
        """The thread each one reads from, and whether that is the one it asked for."""
        lane = machine.shape.lane[lanes.index]
        value = lanes.pick(machine.slots[by]).astype(np.int64) & 31
        limits = lanes.pick(machine.slots[clamp]).astype(np.int64)
        segment = limits >> 8 & 31
        last = (lane & segment) | (limits & 31 & ~segment)
        if mode == "up":
            other = lane - value
            inside = other >= last
        else:
            other = {
                "down": lane + value,
                "bfly": lane ^ value,
                "idx": (lane & segment) | (value & ~segment),
            }[mode]
            inside = other <= last
        return lanes.index - lane + np.where(inside, other, lane), inside

    def defines(machine: Machine, lanes: Lanes) -> np.ndarray:
        """A result holds a value if the register of the thread it comes from does."""
        if not isinstance(a, Register):
            return lanes.mask
        written = np.zeros(len(lanes.mask), bool)
        written[lanes.index] = machine.written(link_row)[places(machine, lanes)[0]]
        return written

    link_row = link.row(a) if isinstance(a, Register) else 0
    link.step.defines = defines

    def run(machine: Machine, lanes: Lanes) -> None:
        place, inside = places(machine, lanes)
        silent = ~lanes.mask[place]
        if silent.any():
            one = int(np.flatnonzero(silent)[0])
            who = machine.shape.name(int(lanes.index[one]))
            machine.hazard("bad shuffle", f"{who} reads lane {place[one] % 32}, which is not there")
        shuffled = np.broadcast_to(machine.slots[source], len(lanes.mask))[place]
        if target is not None:
            machine.slots[target][lanes.index] = shuffled
        if valid is not None:
            machine.slots[valid][lanes.index] = inside

    return run


def _by_warp(lanes: Lanes, values: np.ndarray) -> np.ndarray:
    """Values a lane as rows of warps."""
    return np.broadcast_to(values, len(lanes.mask)).reshape(-1, 32)


def _spread(rows: np.ndarray) -> np.ndarray:
    """A value a warp as one a lane."""
    return np.repeat(rows, 32)


def _ballot(flags: np.ndarray) -> np.ndarray:
    weights = np.uint32(1) << np.arange(32, dtype=np.uint32)
    return np.where(flags, weights, np.uint32(0)).sum(axis=1, dtype=np.uint32)


@builds("vote")
def link_vote(instruction: Instruction, link: Linker) -> Run:
    """`vote.sync`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type("pred", "b32")
    mode = modifiers.take("all", "any", "uni", "ballot")
    if not modifiers.take("sync") or (mode == "ballot") != (kind == "b32"):
        raise PtxError("this vote is not known")
    modifiers.done()
    result, flag, mask = instruction.operands
    negated = isinstance(flag, Not)
    source = link.source(flag.operand if isinstance(flag, Not) else flag, "pred")
    link.step.members = members_of(link.source(mask, "b32"))
    target = link.target(result, kind)

    def run(machine: Machine, lanes: Lanes) -> None:
        flags = _by_warp(lanes, machine.slots[source]) ^ negated
        rows = lanes.mask.reshape(-1, 32)
        true, false = (flags & rows), (~flags & rows)
        if mode == "ballot":
            value = _ballot(true)
        elif mode == "any":
            value = true.any(axis=1)
        elif mode == "all":
            value = ~false.any(axis=1)
        else:
            value = ~(true.any(axis=1) & false.any(axis=1))
        np.copyto(machine.slots[target], _spread(value), where=lanes.mask)

    return run


@builds("activemask")
def link_active(instruction: Instruction, link: Linker) -> Run:
    """`activemask`: the lanes that execute it together."""
    modifiers = Modifiers(instruction)
    modifiers.type("b32")
    modifiers.done()
    target = link.target(instruction.operands[0], "b32")

    def run(machine: Machine, lanes: Lanes) -> None:
        value = _spread(_ballot(lanes.mask.reshape(-1, 32)))
        np.copyto(machine.slots[target], value, where=lanes.mask)

    return run


@builds("elect")
def link_elect(instruction: Instruction, link: Linker) -> Run:
    """`elect.sync`: the lowest lane of the mask."""
    modifiers = Modifiers(instruction)
    if not modifiers.take("sync"):
        raise PtxError("only elect.sync is known")
    modifiers.done()
    results, mask = instruction.operands
    number, flag = _pair(results)
    if flag is None:
        raise PtxError("two results expected")
    link.step.members = members_of(link.source(mask, "b32"))
    lane_slot, flag_slot = link.target(number, "b32"), link.target(flag, "pred")

    def run(machine: Machine, lanes: Lanes) -> None:
        lowest = _spread(lanes.mask.reshape(-1, 32).argmax(axis=1))
        if lane_slot is not None:
            np.copyto(machine.slots[lane_slot], lowest.astype(np.uint32), where=lanes.mask)
        if flag_slot is not None:
            chosen = lowest == machine.shape.lane
            np.copyto(machine.slots[flag_slot], chosen, where=lanes.mask)

    return run


@builds("redux")
def link_reduce(instruction: Instruction, link: Linker) -> Run:
    """`redux.sync`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type("u32", "s32", "b32", "f32")
    name = modifiers.take("add", "min", "max", "and", "or", "xor")
    if not modifiers.take("sync"):
        raise PtxError("only redux.sync is known")
    modifiers.done()
    result, value, mask = instruction.operands
    source = link.source(value, kind)
    link.step.members = members_of(link.source(mask, "b32"))
    target = link.target(result, kind)
    if kind == "f32":
        reduce, neutral = {"min": (np.fmin, np.inf), "max": (np.fmax, -np.inf)}[name]
    else:
        limits = np.iinfo(NUMPY[kind])
        reduce, neutral = {
            "add": (np.add, 0),
            "min": (np.minimum, limits.max),
            "max": (np.maximum, limits.min),
            "and": (np.bitwise_and, -1 if kind == "s32" else limits.max),
            "or": (np.bitwise_or, 0),
            "xor": (np.bitwise_xor, 0),
        }[name]

    def run(machine: Machine, lanes: Lanes) -> None:
        rows = lanes.mask.reshape(-1, 32)
        values = np.where(rows, _by_warp(lanes, machine.slots[source]), NUMPY[kind].type(neutral))
        reduced = reduce.reduce(values, axis=1, dtype=NUMPY[kind])
        np.copyto(machine.slots[target], _spread(reduced), where=lanes.mask)

    return run


@builds("match")
def link_match(instruction: Instruction, link: Linker) -> Run:
    """`match.any.sync`: the lanes that have the same value."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type("b32", "b64")
    if not modifiers.take("any") or not modifiers.take("sync"):
        raise PtxError("only match.any.sync is known")
    modifiers.done()
    result, value, mask = instruction.operands
    source = link.source(value, kind)
    link.step.members = members_of(link.source(mask, "b32"))
    target = link.target(result, "b32")

    def run(machine: Machine, lanes: Lanes) -> None:
        values = _by_warp(lanes, machine.slots[source])
        rows = lanes.mask.reshape(-1, 32)
        same = (values[:, :, None] == values[:, None, :]) & rows[:, None, :]
        weights = np.uint32(1) << np.arange(32, dtype=np.uint32)
        masks = np.where(same, weights, np.uint32(0)).sum(axis=2, dtype=np.uint32)
        np.copyto(machine.slots[target], masks.reshape(-1), where=lanes.mask)

    return run
