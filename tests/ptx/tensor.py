# SPDX-License-Identifier: MIT
"""Links tensor-core instructions: `mma.sync` and the `ldmatrix`, `stmatrix` that feed it.

Products and their sum over k are computed in float64, where products of 16-bit and tf32 factors
are exact, the accumulator is added last, and the whole is rounded to f32 once. Hardware adds in
an order and with a truncation of its own: it is less exact, by about 2^-23 of the largest term
for each of the terms. Factors of tf32 lose the low 13 bits, as hardware ignores them.
"""

from __future__ import annotations

import numpy as np

from .errors import PtxError
from .link import Linker, Modifiers, Run, builds
from .machine import Lanes, Machine
from .real import bfloat_to_float
from .syntax import Instruction, Operand, Vector

# All 16-bit floats as float64: a lookup is faster than numpy's conversion.
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)


def _whole_warps(machine: Machine, lanes: Lanes) -> np.ndarray:
    return np.repeat(lanes.warp_mask, 32)


def _warps(machine: Machine, lanes: Lanes) -> np.ndarray:
    """The numbers of the warps that take part, which must be whole."""
    warps = np.flatnonzero(lanes.warp_mask)
    if len(lanes.index) != 32 * len(warps):
        machine.hazard("divergent barrier", "lanes of a warp miss an .aligned instruction")
    return warps


def _items(operand: Operand, count: int) -> tuple[Operand, ...]:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise PtxError(f"{count} registers expected")
    return items


def _factors(rows: np.ndarray, kind: str) -> np.ndarray:
    """32-bit registers as the factors they hold, along a new last axis."""
    if kind == "tf32":
        return (rows & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)[..., None]
    halves = np.ascontiguousarray(rows).view(np.uint16).reshape(*rows.shape, 2)
    return _HALVES[halves] if kind == "f16" else bfloat_to_float(halves).astype(np.float64)


@builds("mma")
def link_mma(instruction: Instruction, link: Linker) -> Run:
    """`mma.sync.aligned` m16n8k8 and k16 of f16 and bf16, m16n8k4 and k8 of tf32."""
    modifiers = Modifiers(instruction)
    accumulator, second, first, result = (modifiers.type() for _ in range(4))
    for needed in ("sync", "aligned", "row", "col"):
        if not modifiers.take(needed):
            raise PtxError(f".{needed} expected")
    shape = modifiers.take("m16n8k4", "m16n8k8", "m16n8k16")
    modifiers.done()
    depth = int(shape.split("k")[1])
    in_register = 1 if first == "tf32" else 2
    if (first, depth) not in (
        *(("f16", 8), ("f16", 16), ("bf16", 8), ("bf16", 16)),
        *(("tf32", 4), ("tf32", 8)),
    ):
        raise PtxError(f"{shape} of .{first} is not known")
    if second != first or result != accumulator or accumulator not in ("f32", "f16"):
        raise PtxError(f"types .{result}.{first}.{second}.{accumulator} are not known")
    if accumulator == "f16" and first != "f16":
        raise PtxError("an accumulator of f16 is for factors of f16")
    halves = depth // (4 * in_register)  # registers along k
    d, a, b, c = instruction.operands
    pieces = 4 if accumulator == "f32" else 2
    a_slots = [link.source(item, "b32") for item in _items(a, 2 * halves)]
    b_slots = [link.source(item, "b32") for item in _items(b, halves)]
    c_slots = [link.source(item, "b32") for item in _items(c, pieces)]
    d_slots = [link.target(item, "b32") for item in _items(d, pieces)]
    link.step.members = _whole_warps

    def run(machine: Machine, lanes: Lanes) -> None:
        warps = _warps(machine, lanes)
        count, every = len(warps), len(warps) == len(lanes.warp_mask)

        def read(slots: list[int]) -> np.ndarray:
            rows = [np.broadcast_to(machine.slots[s], len(lanes.mask)) for s in slots]
            stack = np.stack(rows).reshape(len(slots), -1, 8, 4)
            return stack if every else stack[:, warps]

        # Lane 4 g + t holds of A the rows g and g + 8, of B the column g, of the result rows g
        # and g + 8 and columns 2 t, 2 t + 1; along k, t counts the registers' contents.
        x = _factors(read(a_slots), first).reshape(halves, 2, count, 8, 4, in_register)
        x = x.transpose(2, 1, 3, 0, 4, 5).reshape(count, 16, depth)
        y = _factors(read(b_slots), first).reshape(halves, count, 8, 4, in_register)
        y = y.transpose(1, 0, 3, 4, 2).reshape(count, depth, 8)
        products = x @ y
        # Back to registers: (row half, column parity) a register for f32, row half for f16.
        sums = products.reshape(count, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3)
        if accumulator == "f32":
            old = read(c_slots).view(np.float32).reshape(2, 2, count, 8, 4)
            new = (sums + old).astype(np.float32).view(np.uint32).reshape(4, -1)
        else:
            old = _factors(read(c_slots), "f16").transpose(0, 4, 1, 2, 3)
            half = (sums + old).astype(np.float16).transpose(0, 2, 3, 4, 1)
            new = np.ascontiguousarray(half).view(np.uint32).reshape(2, -1)
        for slot, values in zip(d_slots, new, strict=True):
            if every:
                machine.slots[slot][...] = values
            else:
                machine.slots[slot][lanes.index] = values

    return run


@builds("ldmatrix", "stmatrix")
def link_matrix(instruction: Instruction, link: Linker) -> Run:
    """`ldmatrix`, `stmatrix` of 8 by 8 elements of 16 bits."""
    modifiers = Modifiers(instruction)
    modifiers.type("b16")
    for needed in (("sync",), ("aligned",), ("m8n8",), ("shared", "shared::cta")):
        if not modifiers.take(*needed):
            raise PtxError(f".{needed[0]} expected")
    count = int((modifiers.take("x1", "x2", "x4") or "x1")[1:])
    transposed = bool(modifiers.take("trans"))
    modifiers.done()
    from .access import Place

    loads = instruction.name == "ldmatrix"
    registers, address = instruction.operands if loads else reversed(instruction.operands)
    items = _items(registers, count)
    place = Place(address, "shared", link)
    slots = [link.target(i, "b32") if loads else link.source(i, "b32") for i in items]
    link.program.touches_shared(16)
    link.step.members = _whole_warps

    def rows_of(machine: Machine, lanes: Lanes) -> tuple[np.ndarray, np.ndarray]:
        """Who gives the address of a row, and these addresses."""
        chosen = np.flatnonzero(machine.shape.lane[lanes.index] < 8 * count)
        return lanes.index[chosen], place.addresses(machine, lanes)[chosen]

    def load(machine: Machine, lanes: Lanes) -> None:
        warps = _warps(machine, lanes)
        givers, addresses = rows_of(machine, lanes)
        rows = machine.shared.load(addresses, givers, 16)
        # A lane gets two neighbours of row lane / 4: one 32-bit word.
        if transposed:
            square = rows.view(np.uint16).reshape(len(warps), count, 8, 8)
            rows = np.ascontiguousarray(square.transpose(0, 1, 3, 2))
        words = rows.view(np.uint32).reshape(len(warps), count, 32)
        for number, slot in enumerate(slots):
            machine.slots[slot][lanes.index] = words[:, number].reshape(-1)

    def store(machine: Machine, lanes: Lanes) -> None:
        warps = _warps(machine, lanes)
        givers, addresses = rows_of(machine, lanes)
        words = np.stack([lanes.pick(machine.slots[s]).reshape(-1, 32) for s in slots], axis=1)
        square = words.view(np.uint16).reshape(len(warps), count, 8, 8)
        if transposed:
            square = np.ascontiguousarray(square.transpose(0, 1, 3, 2))
        machine.shared.store(addresses, givers, square.view(np.uint8).reshape(len(givers), 16))

    return load if loads else store
