# SPDX-License-Identifier: MIT
"""Links arithmetic: for each opcode the function of integer.py or real.py that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np

from . import integer, real
from .errors import PtxError
from .link import Linker, Modifiers, Run, builds
from .machine import Lanes, Machine
from .syntax import Immediate, Instruction
from .types import NUMPY, SIZES, UNSIGNED, is_float, is_integer, is_pair

Function = Callable[..., np.ndarray]

# Sources of an instruction, where what it computes could be called with another number of them.
_SOURCES = {
    **dict.fromkeys(("add", "sub", "mul", "div", "and", "or", "xor"), (2,)),
    **dict.fromkeys(("abs", "neg", "not", "cnot", *real.FUNCTIONS), (1,)),
    **dict.fromkeys(("min", "max"), (2, 3)),
    **dict.fromkeys(("fma", "mad"), (3,)),
}


def compute(function: Function, target: int | None, sources: Sequence[int]) -> Run:
    """A step that applies a function to slots and writes the result to one."""
    if target is None:
        raise PtxError("a result that goes nowhere")
    if len(sources) == 1:
        only = sources[0]

        def run_one(machine: Machine, lanes: Lanes) -> None:
            slots = machine.slots
            if lanes.alone:
                slots[target][...] = function(slots[only])
            else:
                np.copyto(slots[target], function(slots[only]), where=lanes.mask)

        return run_one
    fetch = itemgetter(*sources)

    def run(machine: Machine, lanes: Lanes) -> None:
        slots = machine.slots
        if lanes.alone:
            slots[target][...] = function(*fetch(slots))
        else:
            np.copyto(slots[target], function(*fetch(slots)), where=lanes.mask)

    return run


def simple(
    link: Linker, instruction: Instruction, function: Function, result: str, *kinds: str
) -> Run:
    """A step whose operands are a result and one source of each kind."""
    operands = instruction.operands
    wanted = _SOURCES.get(instruction.name, (len(kinds),))
    if len(operands) != len(kinds) + 1 or len(kinds) not in wanted:
        raise PtxError(f"{wanted[0] + 1} operands expected")
    sources = [link.source(o, k) for o, k in zip(operands[1:], kinds, strict=True)]
    return compute(function, link.target(operands[0], result), sources)


def packed(function: Function, element: str) -> Function:
    """Makes a function of floats one of pairs of them in one register."""
    dtype = NUMPY[element]
    whole = UNSIGNED[2 * dtype.itemsize]

    def on_pairs(*pairs: np.ndarray) -> np.ndarray:
        halves = [np.ascontiguousarray(p).view(dtype).reshape(-1, 2) for p in pairs]
        return np.ascontiguousarray(function(*halves)).view(whole).reshape(-1)

    return on_pairs


# Floating point


def _float(name: str, element: str, modifiers: Modifiers) -> Function:
    """The function of an opcode on floats of one type, its modifiers taken."""
    mode = modifiers.take("rn", "rz", "rm", "rp") or "rn"
    if name in ("add", "sub", "mul", "fma", "mad"):
        chosen = {"add": real.add, "sub": real.subtract, "mul": real.multiply}
        chosen |= {"fma": real.fused, "mad": real.fused}
        operation = chosen[name]
        if element == "f64" and mode != "rn":
            raise PtxError(f".{mode} of .f64 is not known")
        return lambda *values: operation(*values, element, mode)
    if name in ("min", "max"):
        choose = real.minimum if name == "min" else real.maximum
        nan = bool(modifiers.take("NaN"))

        def extreme(a: np.ndarray, b: np.ndarray, *third: np.ndarray) -> np.ndarray:
            result = choose(a, b, element, nan)
            return choose(result, third[0], element, nan) if third else result

        return extreme
    if name in ("neg", "abs"):
        sign = real.negate if name == "neg" else real.absolute
        return lambda a: sign(a, element)
    if mode != "rn":
        raise PtxError(f".{mode} is not known to `{name}`")
    modifiers.take("approx", "full")
    if name == "div":
        return lambda a, b: _by_double(np.divide, element, a, b)
    if name in real.FUNCTIONS:
        function = real.FUNCTIONS[name]
        return lambda a: _by_double(function, element, a)
    raise PtxError(f"`{name}` is not known for floats")


def _by_double(function: Function, element: str, *values: np.ndarray) -> np.ndarray:
    return real.narrow(function(*(real.widen(v, element) for v in values)), element)


def _link_float(instruction: Instruction, link: Linker, modifiers: Modifiers, kind: str) -> Run:
    """A floating-point opcode of one value or a pair."""
    element = kind.removesuffix("x2")
    if kind in ("f16", "bf16") and modifiers.take("f32"):
        return _link_mixed(instruction, link, modifiers, kind)
    flushes = bool(modifiers.take("ftz"))
    saturates, clips = bool(modifiers.take("sat")), bool(modifiers.take("relu"))
    function = _float(instruction.name, element, modifiers)
    modifiers.done()
    if saturates or clips:
        function = _clamped(function, element, saturates)
    if flushes and element == "f32":
        plain = function
        function = lambda *values: real.flush(plain(*map(real.flush, values)))  # noqa: E731
    elif flushes and element == "f16" and instruction.name != "ex2":
        raise PtxError(".ftz is known for f32 alone")
    if kind != element:
        function = packed(function, element)
    return simple(link, instruction, function, kind, *[kind] * (len(instruction.operands) - 1))


def _link_mixed(instruction: Instruction, link: Linker, modifiers: Modifiers, kind: str) -> Run:
    """`add`, `sub`, `fma` of f32 whose factors, or first summand, are 16-bit floats."""
    function = _float(instruction.name, "f32", modifiers)
    modifiers.done()
    narrow = len(instruction.operands) - 2

    def mixed(*values: np.ndarray) -> np.ndarray:
        wide = [real.widen(v, kind).astype(np.float32) for v in values[:narrow]]
        return function(*wide, *values[narrow:])

    return simple(link, instruction, mixed, "f32", *[kind] * narrow, "f32")


def _clamped(function: Function, element: str, saturates: bool) -> Function:
    def clamped(*values: np.ndarray) -> np.ndarray:
        result = real.widen(function(*values), element)
        result = real.saturate(result) if saturates else np.where(result <= 0, 0.0, result)
        return real.narrow(np.where(np.isnan(result), np.nan, result), element)

    return clamped


@builds("fma", "div", "sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh")
def link_real(instruction: Instruction, link: Linker) -> Run:
    """Opcodes of floats alone, but `div`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    if instruction.name == "div" and is_integer(kind):
        return _link_division(instruction, link, modifiers, kind)
    return _link_float(instruction, link, modifiers, kind)


# Integers

_BINARY: dict[str, Function] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "abs": integer.absolute,
    "neg": integer.negate,
}


@builds("add", "sub", "min", "max", "abs", "neg")
def link_common(instruction: Instruction, link: Linker) -> Run:
    """Opcodes of integers and floats alike."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    if is_float(kind) or is_pair(kind):
        return _link_float(instruction, link, modifiers, kind)
    function = _BINARY[instruction.name]
    if modifiers.take("sat"):
        saturating = {"add": integer.add_saturating, "sub": integer.subtract_saturating}
        function = saturating[instruction.name]
        if kind != "s32":
            raise PtxError(".sat is known for s32 alone")
    modifiers.done()
    if not is_integer(kind):
        raise PtxError(f"`{instruction.name}` of .{kind}")
    return simple(link, instruction, function, kind, *[kind] * (len(instruction.operands) - 1))


@builds("mul", "mad", "mul24", "mad24")
def link_multiply(instruction: Instruction, link: Linker) -> Run:
    """`mul` and `mad` in their halves; `mul` of floats; `mad` of floats, which is `fma`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    if not is_integer(kind):
        return _link_float(instruction, link, modifiers, kind)
    part = modifiers.take("lo", "hi", "wide")
    modifiers.done()
    if instruction.name.endswith("24"):
        functions = {"lo": integer.multiply_24}
    else:
        functions = {
            "lo": np.multiply,
            "hi": integer.multiply_high,
            "wide": integer.multiply_wide,
        }
    multiply = functions[part]
    result = f"{kind[0]}{int(kind[1:]) * 2}" if part == "wide" else kind
    if instruction.name.startswith("mul"):
        return simple(link, instruction, multiply, result, kind, kind)
    return simple(link, instruction, lambda a, b, c: multiply(a, b) + c, result, kind, kind, result)


@builds("rem")
def link_remainder(instruction: Instruction, link: Linker) -> Run:
    """`rem`."""
    modifiers = Modifiers(instruction)
    return _link_division(instruction, link, modifiers, modifiers.type())


def _link_division(instruction: Instruction, link: Linker, modifiers: Modifiers, kind: str) -> Run:
    modifiers.done()
    function = integer.divide if instruction.name == "div" else integer.remainder
    divisor = link.source(instruction.operands[2], kind)
    divide = simple(link, instruction, function, kind, kind, kind)

    def run(machine: Machine, lanes: Lanes) -> None:
        zero = lanes.pick(machine.slots[divisor]) == 0
        if zero.any():
            who = machine.shape.name(int(lanes.index[np.flatnonzero(zero)[0]]))
            machine.hazard("arithmetic", f"{who} divides by zero")
        divide(machine, lanes)

    return run


# Bits

_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}


@builds("and", "or", "xor", "not", "cnot")
def link_logic(instruction: Instruction, link: Linker) -> Run:
    """Bitwise logic, of predicates too."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type("pred", "b16", "b32", "b64")
    modifiers.done()
    if instruction.name == "cnot":
        return simple(link, instruction, lambda a: (a == 0).astype(a.dtype), kind, kind)
    function = _LOGIC[instruction.name]
    return simple(link, instruction, function, kind, *[kind] * (len(instruction.operands) - 1))


@builds("shl", "shr")
def link_shift(instruction: Instruction, link: Linker) -> Run:
    """`shl`, `shr`."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    modifiers.done()
    left = instruction.name == "shl"
    amount = instruction.operands[2]
    if isinstance(amount, Immediate) and 0 <= amount.value < 8 * SIZES[kind]:
        # The common case without the tests for too large an amount.
        function = np.left_shift if left else np.right_shift
        return simple(link, instruction, function, kind, kind, kind)
    function = integer.shift_left if left else integer.shift_right
    return simple(link, instruction, function, kind, kind, "u32")


@builds("shf")
def link_funnel(instruction: Instruction, link: Linker) -> Run:
    """`shf`."""
    modifiers = Modifiers(instruction)
    modifiers.type("b32")
    left, wrap = modifiers.take("l", "r") == "l", modifiers.take("wrap", "clamp") == "wrap"
    modifiers.done()
    return simple(
        link,
        instruction,
        lambda a, b, c: integer.funnel(a, b, c, left, wrap),
        *("b32", "b32", "b32", "u32"),
    )


@builds("popc", "clz", "brev", "bfind", "bfe", "bfi", "prmt")
def link_bits(instruction: Instruction, link: Linker) -> Run:
    """Counting, finding, cutting out and moving bits."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type()
    name = instruction.name
    shift_amount = name == "bfind" and bool(modifiers.take("shiftamt"))
    modifiers.done()
    table: dict[str, tuple[Function, str, tuple[str, ...]]] = {
        "popc": (integer.count_ones, "u32", (kind,)),
        "clz": (integer.leading_zeros, "u32", (kind,)),
        "brev": (integer.reverse_bits, kind, (kind,)),
        "bfind": (lambda a: integer.find(a, shift_amount), "u32", (kind,)),
        "bfe": (integer.extract_field, kind, (kind, "u32", "u32")),
        "bfi": (integer.insert_field, kind, (kind, kind, "u32", "u32")),
        "prmt": (integer.permute_bytes, "b32", ("b32", "b32", "b32")),
    }
    function, result, kinds = table[name]
    return simple(link, instruction, function, result, *kinds)


@builds("lop3")
def link_lop3(instruction: Instruction, link: Linker) -> Run:
    """`lop3`."""
    modifiers = Modifiers(instruction)
    modifiers.type("b32")
    modifiers.done()
    target, *sources, table = instruction.operands
    if not isinstance(table, Immediate):
        raise PtxError("the table is a literal")
    value = int(table.value)
    slots = [link.source(s, "b32") for s in sources]
    return compute(lambda a, b, c: integer.logic(a, b, c, value), link.target(target, "b32"), slots)


@builds("dp4a")
def link_dot(instruction: Instruction, link: Linker) -> Run:
    """`dp4a`."""
    modifiers = Modifiers(instruction)
    second, first = modifiers.type("u32", "s32"), modifiers.type("u32", "s32")
    modifiers.done()
    result = "s32" if "s32" in (first, second) else "u32"
    function = lambda a, b, c: integer.dot_4(a, b, c, (first, second))  # noqa: E731
    return simple(link, instruction, function, result, "b32", "b32", result)
