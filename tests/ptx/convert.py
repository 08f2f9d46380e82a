# SPDX-License-Identifier: MIT
"""Links moves and conversions: `mov`, `cvt`, `cvta`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import real
from .alu import Function, compute
from .errors import PtxError
from .layout import LOCAL_WINDOW, SHARED_WINDOW
from .link import Linker, Modifiers, Run, builds
from .machine import Lanes, Machine
from .syntax import Instruction, Vector
from .types import NUMPY, SIZES, UNSIGNED, is_float, is_integer


@builds("mov")
def link_move(instruction: Instruction, link: Linker) -> Run:
    """`mov`, which also joins small registers into a large one and splits one."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    modifiers.done()
    target, source = instruction.operands
    if isinstance(target, Vector):
        return _split(link, kind, target, link.source(source, _bits(kind)))
    if isinstance(source, Vector):
        return _join(link, kind, source, link.target(target, _bits(kind)))
    return compute(lambda a: a, link.target(target, kind), [link.source(source, kind)])


def _bits(kind: str) -> str:
    return f"b{8 * SIZES[kind]}"


def _split(link: Linker, kind: str, target: Vector, source: int) -> Run:
    part = SIZES[kind] // len(target.items)
    slots = [link.target(item, f"b{8 * part}") for item in target.items]

    def run(machine: Machine, lanes: Lanes) -> None:
        whole = np.ascontiguousarray(machine.slots[source])
        parts = whole.view(UNSIGNED[part]).reshape(-1, len(slots)).copy()
        for column, slot in enumerate(slots):
            if slot is not None:
                np.copyto(machine.slots[slot], parts[:, column], where=lanes.mask)

    return run


def _join(link: Linker, kind: str, source: Vector, target: int | None) -> Run:
    part = SIZES[kind] // len(source.items)
    slots = [link.source(item, f"b{8 * part}") for item in source.items]
    shift = UNSIGNED[SIZES[kind]].type(8 * part)

    def join(*parts: np.ndarray) -> np.ndarray:
        wide = [p.astype(shift.dtype) << shift * i for i, p in enumerate(parts)]
        return np.bitwise_or.reduce(np.broadcast_arrays(*wide), axis=0)

    return compute(join, target, slots)


@builds("cvta")
def link_address(instruction: Instruction, link: Linker) -> Run:
    """`cvta`: an address of a space to a generic one, or back."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type("u64", "u32")
    back = bool(modifiers.take("to"))
    space = modifiers.take("global", "shared", "shared::cta", "local", "const", "param")
    modifiers.done()
    windows = {"shared": SHARED_WINDOW, "shared::cta": SHARED_WINDOW, "local": LOCAL_WINDOW}
    if space in ("", "param") or kind != "u64":
        raise PtxError("an address of this space is not generic here")
    window = np.uint64(windows.get(space, 0))
    target, source = instruction.operands
    change = np.subtract if back else np.add
    return compute(
        lambda a: change(a, window), link.target(target, kind), [link.source(source, kind)]
    )


_ROUND = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


@builds("cvt")
def link_convert(instruction: Instruction, link: Linker) -> Run:
    """`cvt` between all types, of one value or of two into a pair."""
    modifiers = Modifiers(instruction)
    source, target = modifiers.type(), modifiers.type()
    rounding = modifiers.take("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")
    flushes, saturates = bool(modifiers.take("ftz")), bool(modifiers.take("sat"))
    clips = bool(modifiers.take("relu"))
    modifiers.done()
    if target == "tf32":
        if source != "f32" or rounding not in ("rna", "rn") or flushes or saturates or clips:
            raise PtxError("this conversion to tf32 is not known")
        return _finish(link, instruction, lambda a: _to_tf32(a, rounding), "b32", ["f32"])
    if target in ("f16x2", "bf16x2"):
        if source != "f32" or flushes or saturates:
            raise PtxError(f"a conversion from .{source} to .{target}")
        element, mode = target.removesuffix("x2"), rounding or "rn"
        return _finish(
            link, instruction, lambda a, b: _pair(a, b, element, mode, clips), target, [source] * 2
        )
    if clips:
        raise PtxError(".relu of one value is not known")
    function = _conversion(target, source, rounding, saturates)
    if flushes:
        if source == "f32":
            from_source = function
            function = lambda a: from_source(real.flush(a))  # noqa: E731
        if target == "f32":
            to_target = function
            function = lambda a: real.flush(to_target(a))  # noqa: E731
    return _finish(link, instruction, function, target, [source])


def _finish(
    link: Linker, instruction: Instruction, function: Function, target: str, kinds: Sequence[str]
) -> Run:
    first, *rest = instruction.operands
    sources = [link.source(o, k) for o, k in zip(rest, kinds, strict=True)]
    return compute(function, link.target(first, target), sources)


def _to_tf32(a: np.ndarray, mode: str) -> np.ndarray:
    """The f32 bits rounded to 10 bits of mantissa: ties away from zero, or to even."""
    bits = a.view(np.uint32)
    half = np.uint32(0x1000) if mode == "rna" else np.uint32(0xFFF) + (bits >> np.uint32(13) & 1)
    rounded = (bits + half) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(a), rounded, bits)


def _pair(high: np.ndarray, low: np.ndarray, element: str, mode: str, clips: bool) -> np.ndarray:
    """Two f32 as a pair: the first goes to the upper half."""
    halves = []
    for value in (high, low):
        if clips:
            value = np.where(value > 0, value, np.where(np.isnan(value), value, 0))
        halves.append(real.narrow(value.astype(np.float64), element, mode).view(np.uint16))
    return halves[0].astype(np.uint32) << np.uint32(16) | halves[1]


def _conversion(target: str, source: str, rounding: str, saturates: bool) -> Function:
    """The conversion of one value."""
    if not (is_float(target) or is_integer(target)) or not (is_float(source) or is_integer(source)):
        raise PtxError(f"a conversion from .{source} to .{target}")
    if not is_float(source) and not is_float(target):
        return lambda a: _integer_to_integer(a, NUMPY[target], saturates)
    if not is_float(source):
        if source in ("s64", "u64") and target in ("bf16", "f16"):
            raise PtxError(f"a conversion from .{source} to .{target}")
        return lambda a: _integer_to_float(a, target, rounding or "rn")
    if not is_float(target):
        if rounding not in _ROUND:
            raise PtxError("a rounding to an integer expected")
        return lambda a: _float_to_integer(real.widen(a, source), target, _ROUND[rounding])
    if rounding in _ROUND:
        whole = _ROUND[rounding]
        function = lambda a: real.narrow(whole(real.widen(a, source)), target)  # noqa: E731
    else:
        mode = rounding or "rn"
        function = lambda a: real.narrow(real.widen(a, source), target, mode)  # noqa: E731
    if not saturates:
        return function
    return lambda a: real.narrow(real.saturate(real.widen(function(a), target)), target)


def _integer_to_integer(a: np.ndarray, dtype: np.dtype, saturates: bool) -> np.ndarray:
    if saturates:
        limits, own = np.iinfo(dtype), np.iinfo(a.dtype)
        a = np.clip(a, max(limits.min, own.min), min(limits.max, own.max))
    return a.astype(dtype)


def _integer_to_float(a: np.ndarray, kind: str, mode: str) -> np.ndarray:
    if kind == "f64" or (kind == "f32" and mode == "rn"):
        return a.astype(NUMPY[kind])
    value = a.astype(np.float64)
    # Of 64 bits float64 may lose some: what it lost decides about the rounding.
    lost = (a - value.astype(a.dtype)).astype(np.float64) if a.dtype.itemsize == 8 else 0.0
    return real.narrow(value, kind, mode, lost)


def _float_to_integer(a: np.ndarray, kind: str, whole: Function) -> np.ndarray:
    """Values past the range become its ends, NaN becomes 0."""
    limits = np.iinfo(NUMPY[kind])
    value = np.where(np.isnan(a), 0, whole(a))
    low, high = value <= float(limits.min), value >= float(limits.max)
    inside = np.where(low | high, 0, value).astype(NUMPY[kind])
    ends = np.where(high, limits.max, limits.min).astype(NUMPY[kind])
    return np.where(low | high, ends, inside)
