# SPDX-License-Identifier: MIT
"""Links comparisons and choices: `setp`, `set`, `selp`, `slct`."""

from __future__ import annotations

import numpy as np

from . import real
from .alu import Function, compute, simple
from .errors import PtxError
from .link import Linker, Modifiers, Run, builds
from .machine import Lanes, Machine
from .syntax import Instruction, Not, Operand, Pair, Register
from .types import is_bits, is_float

_COMPARE: dict[str, Function] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_FLOAT = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
_COMBINE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def _comparison(name: str, kind: str) -> Function:
    """A comparison. With a NaN the ordered ones are false, `ne` too; those in `…u` are true."""
    if is_bits(kind) and name not in ("eq", "ne"):
        raise PtxError(f"only eq and ne compare .{kind}")
    if not is_float(kind):
        return _COMPARE[_UNSIGNED.get(name, name)]

    def decide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if kind == "bf16":
            a, b = real.bfloat_to_float(a), real.bfloat_to_float(b)
        nan = np.isnan(a) | np.isnan(b)
        if name in ("num", "nan"):
            return nan == (name == "nan")
        if name.endswith("u"):
            return _COMPARE[name[:-1]](a, b) | nan
        return _COMPARE[name](a, b) & ~nan

    return decide


def _predicate(link: Linker, operand: Operand) -> tuple[int, bool]:
    """The slot of a predicate, and whether it is negated."""
    if isinstance(operand, Not):
        return link.source(operand.operand, "pred"), True
    return link.source(operand, "pred"), False


@builds("setp", "set")
def link_compare(instruction: Instruction, link: Linker) -> Run:
    """`setp` with its second result and its combination with a predicate; `set`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    result = modifiers.type("u32", "s32", "f32") if instruction.name == "set" else "pred"
    flushes = bool(modifiers.take("ftz"))
    combine = modifiers.take(*_COMBINE)
    compare = _comparison(modifiers.take(*_COMPARE, *_UNSIGNED, *_FLOAT), kind)
    modifiers.done()
    target, *sources = instruction.operands
    if len(sources) != (3 if combine else 2):
        raise PtxError("wrong number of operands")
    slots = [link.source(s, kind) for s in sources[:2]]
    negated = False
    if combine:
        third, negated = _predicate(link, sources[2])
        slots.append(third)

    def outcomes(a: np.ndarray, b: np.ndarray, *third: np.ndarray) -> list[np.ndarray]:
        if flushes:
            a, b = real.flush(a), real.flush(b)
        first = compare(a, b)
        if not third:
            return [first, ~first]
        other = ~third[0] if negated else third[0]
        return [_COMBINE[combine](value, other) for value in (first, ~first)]

    if isinstance(target, Pair):
        targets = [link.target(t, "pred") for t in (target.first, target.second)]

        def run(machine: Machine, lanes: Lanes) -> None:
            values = outcomes(*(machine.slots[s] for s in slots))
            for slot, value in zip(targets, values, strict=True):
                if slot is not None:
                    np.copyto(machine.slots[slot], value, where=lanes.mask)

        return run
    if result == "pred":
        return compute(lambda *v: outcomes(*v)[0], link.target(target, "pred"), slots)
    true = {"u32": np.uint32(0xFFFFFFFF), "s32": np.int32(-1), "f32": np.float32(1)}[result]
    return compute(
        lambda *v: np.where(outcomes(*v)[0], true, true.dtype.type(0)),
        link.target(target, result),
        slots,
    )


@builds("selp")
def link_select(instruction: Instruction, link: Linker) -> Run:
    """`selp`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    modifiers.done()
    target, a, b, condition = instruction.operands
    predicate, negated = _predicate(link, condition)
    slots = [link.source(a, kind), link.source(b, kind)]
    rows = [link.row(x) if isinstance(x, Register) else None for x in (a, b)]
    if negated:
        slots.reverse()
        rows.reverse()
    row = link.row(condition.operand if isinstance(condition, Not) else condition)

    def defines(machine: Machine, lanes: Lanes) -> np.ndarray:
        """The operand that is not chosen may be unwritten."""
        written = [lanes.mask if r is None else machine.written(r) for r in rows]
        return np.where(machine.slots[predicate], *written) & machine.written(row)

    link.step.defines = defines
    return compute(
        lambda x, y, p: np.where(p, x, y), link.target(target, kind), [*slots, predicate]
    )


@builds("slct")
def link_choose(instruction: Instruction, link: Linker) -> Run:
    """`slct`: by the sign of the third."""
    modifiers = Modifiers(instruction)
    sign = modifiers.type("s32", "f32")
    kind = modifiers.type()
    modifiers.take("ftz")
    modifiers.done()
    return simple(link, instruction, lambda a, b, c: np.where(c >= 0, a, b), kind, kind, kind, sign)
