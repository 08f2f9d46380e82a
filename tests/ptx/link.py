# SPDX-License-Identifier: MIT
"""A kernel made ready to run: instructions become steps, operands become numbered slots.

A slot is an array with one value a thread (or a constant of one element): a register seen through
a type, a literal, a special register, or a variable's address. Steps name slots by number, so a
program is linked once and its slots are filled anew for every batch of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import PtxError
from .layout import Layout
from .parse import Module
from .syntax import Function, Immediate, Instruction, Operand, Register, Symbol, Variable
from .types import NUMPY, SIZES, UNSIGNED, is_float, is_signed

if TYPE_CHECKING:
    from .machine import Lanes, Machine

Run = Callable[["Machine", "Lanes"], None]
Slot = Callable[["Machine"], np.ndarray]
Members = Callable[["Machine", "Lanes"], np.ndarray]


@dataclass(eq=False)
class Step:
    """One linked instruction.

    Attributes:
        run: What it does to the lanes that execute it; None for control flow.
        control: Control flow: maps (scheduler, place, lanes) to the next place, see control.py.
        guard: Slot of its predicate, if it has one.
        reads: Rows of the registers it reads, for the check that they were written.
        writes: Rows it writes.
        members: For instructions that threads of a warp execute together: who must take part.
        lasting: Its effect is more than its results: no register it reads may be unwritten.
        defines: Which threads' results hold a value, if that is not as for the sources.
    """

    instruction: Instruction
    run: Run | None = None
    control: Any = None
    guard: int | None = None
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    members: Members | None = None
    lasting: bool = False
    defines: Members | None = None


@dataclass
class Program:
    """A linked kernel with the device functions it calls."""

    kernel: Function
    steps: list[Step] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    rows: dict[Register, int] = field(default_factory=dict)  # registers, numbered
    layout: Layout = field(default_factory=Layout)
    users: list[list[int]] = field(default_factory=list)  # steps by register
    partial_barriers: bool = False
    granule: int = 16  # bytes of the smallest access to shared memory

    def touches_shared(self, size: int) -> None:
        """Notes an access of so many bytes to shared memory."""
        self.granule = min(self.granule, size)


# Instructions that do nothing but compute registers from registers: these may compute with
# registers that were never written, as long as nobody uses the result.
_PURE = """
    abs add and bfe bfi bfind brev clz cnot cos cvt cvta div dp4a ex2 fma lg2 lop3 mad mad24 max
    min mov mul mul24 neg not or popc prmt rcp rem rsqrt selp set setp shf shfl shl shr sin slct
    sqrt sub tanh xor
"""
PURE = frozenset(_PURE.split())

Builder = Callable[[Instruction, "Linker"], Run | None]
BUILDERS: dict[str, Builder] = {}


def builds(*names: str) -> Callable[[Builder], Builder]:
    """Registers the function that links instructions of these names."""

    def register(builder: Builder) -> Builder:
        for name in names:
            BUILDERS[name] = builder
        return builder

    return register


class Modifiers:
    """The modifiers of an instruction, taken one by one: what is left at the end is unknown."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.left = list(instruction.modifiers)

    def take(self, *names: str) -> str:
        """Removes and returns the one of these that is there, or returns an empty string."""
        for name in names:
            if name in self.left:
                self.left.remove(name)
                return name
        return ""

    def type(self, *allowed: str) -> str:
        """Removes and returns the last modifier, which is a type."""
        kind = self.left.pop() if self.left else ""
        if kind not in (allowed or SIZES):
            raise PtxError(f"type .{kind} is not known here")
        return kind

    def done(self) -> None:
        """Raises if modifiers are left over."""
        if self.left:
            raise PtxError(f"modifier .{self.left[0]} is not known to `{self.instruction.name}`")


class Linker:
    """Links one kernel; builders use it to turn operands into slots."""

    def __init__(self, module: Module, kernel: Function) -> None:
        self.module = module
        self.program = Program(kernel)
        self.functions: dict[str, int] = {}  # name -> index of its first step
        self.function = kernel
        self._slots: dict[Any, int] = {}
        self.step = Step(None)  # type: ignore[arg-type]
        self.reads: list[int] = []
        self.writes: list[int] = []

    def link(self) -> Program:
        """Links the kernel and every function it reaches."""
        program = self.program
        for variable in self.module.variables.values():
            program.layout.add(variable)
        pending = [program.kernel]
        while pending:
            function = pending.pop()
            if function.name in self.functions:
                continue
            self.functions[function.name] = len(program.steps)
            self.function = function
            for variable in (*function.parameters, *function.returns, *function.variables):
                kernel_parameter = function.entry and variable in function.parameters
                program.layout.add(variable, kernel_parameter)
            program.steps.extend(self._step(instruction) for instruction in function.body)
            # Falling off the end returns.
            end = Instruction(function.line, "end of function", "ret", (), ())
            program.steps.append(self._step(end))
            for instruction in function.body:
                for operand in instruction.operands if instruction.name == "call" else ():
                    name = operand.name if isinstance(operand, Symbol) else ""
                    if name in self.module.functions and self.module.functions[name].defined:
                        pending.append(self.module.functions[name])
        for step in program.steps:
            if hasattr(step.control, "resolve"):
                step.control.resolve(self)
        program.users = [[] for _ in program.rows]
        for number, step in enumerate(program.steps):
            for row in {*step.reads, *step.writes}:
                program.users[row].append(number)
        return program

    def _step(self, instruction: Instruction) -> Step:
        self.step = Step(instruction)
        self.reads, self.writes = [], []
        try:
            if instruction.name not in BUILDERS:
                raise PtxError(f"instruction `{instruction.name}` is not known")
            if instruction.guard is not None:
                self.step.guard = self.source(instruction.guard, "pred")
            self.step.run = BUILDERS[instruction.name](instruction, self)
        except PtxError as error:
            if error.line:
                raise
            raise PtxError(str(error), instruction.line, instruction.text) from error
        except (ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
            message = f"operands or modifiers not understood ({error!r})"
            raise PtxError(message, instruction.line, instruction.text) from error
        self.step.lasting = instruction.name not in PURE
        self.step.reads, self.step.writes = tuple(set(self.reads)), tuple(set(self.writes))
        return self.step

    def row(self, register: Register) -> int:
        """The number of a register in this program."""
        return self.program.rows.setdefault(register, len(self.program.rows))

    def slot(self, key: Any, fill: Slot) -> int:
        """The slot of that key, made if it is new."""
        if key not in self._slots:
            self._slots[key] = len(self.program.slots)
            self.program.slots.append(fill)
        return self._slots[key]

    def constant(self, value: int | float, kind: str) -> int:
        """The slot of a literal, as the type `kind` holds it."""
        array = literal(value, kind)
        return self.slot((array.tobytes(), array.dtype), lambda machine: array)

    def source(self, operand: Operand, kind: str) -> int:
        """The slot of an operand read as `kind`; a wider register gives its low bits."""
        dtype = NUMPY[kind]
        if isinstance(operand, Register):
            if SIZES[operand.type] < SIZES[kind] or (operand.type == "pred") != (kind == "pred"):
                raise PtxError(f"register {operand.name} (.{operand.type}) used as .{kind}")
            row = self.row(operand)
            self.reads.append(row)
            return self.slot((row, dtype), lambda machine: machine.register(row, dtype))
        if isinstance(operand, Immediate):
            return self.constant_of(operand, kind)
        if isinstance(operand, Variable):
            return self.slot(
                (operand, dtype), lambda machine: machine.address(operand).astype(dtype)
            )
        if isinstance(operand, Symbol):
            name = operand.name
            if name == "WARP_SZ":
                return self.constant(32, kind)
            from .special import SPECIAL

            if name not in SPECIAL:
                raise PtxError(f"unknown name {name}")
            special = SPECIAL[name]
            return self.slot((name, dtype), lambda machine: special(machine).astype(dtype))
        raise PtxError(f"a register or literal expected, not {operand}")

    def constant_of(self, operand: Immediate, kind: str) -> int:
        """The slot of a literal operand."""
        if operand.kind == "int" or operand.kind == "decimal":
            return self.constant(operand.value, kind)
        if operand.kind == "f32" and SIZES[kind] == 4:
            bits = np.array([operand.value], np.uint32)
        elif operand.kind == "f64" and SIZES[kind] == 8:
            bits = np.array([operand.value], np.uint64)
        elif operand.kind == "f64" and kind == "f32":
            value = np.array([operand.value], np.uint64).view(np.float64)
            bits = value.astype(np.float32).view(np.uint32)
        else:
            raise PtxError(f"a literal of {operand.kind} used as .{kind}")
        array = bits.view(NUMPY[kind])
        return self.slot((array.tobytes(), array.dtype), lambda machine: array)

    def target(self, operand: Operand, kind: str) -> int | None:
        """The slot of a result of type `kind`; None for the sink `_`.

        A register may be wider than the type where the instruction extends its result: the slot
        is then an integer of the register's width, signed if the type is.
        """
        if isinstance(operand, Symbol) and operand.name == "_":
            return None
        if not isinstance(operand, Register):
            raise PtxError(f"a register expected as result, not {operand}")
        size = SIZES[operand.type]
        if size < SIZES[kind] or (operand.type == "pred") != (kind == "pred"):
            raise PtxError(f"register {operand.name} (.{operand.type}) cannot hold .{kind}")
        row = self.row(operand)
        self.writes.append(row)
        if size == SIZES[kind]:
            dtype = NUMPY[kind]
        elif is_float(kind):
            raise PtxError(f"register {operand.name} (.{operand.type}) is wider than .{kind}")
        else:
            dtype = np.dtype(f"i{size}") if is_signed(kind) else UNSIGNED[size]
        return self.slot((row, dtype), lambda machine: machine.register(row, dtype))


def literal(value: int | float, kind: str) -> np.ndarray:
    """A literal of one element, wrapped to the type's width."""
    if kind == "pred":
        return np.array([bool(value)])
    if is_float(kind) and kind != "bf16":
        return np.array([value], NUMPY[kind])
    if kind == "bf16" or isinstance(value, float):
        raise PtxError(f"literal {value} used as .{kind}")
    size = SIZES[kind]
    return np.array([value & (1 << 8 * size) - 1], UNSIGNED[size]).view(NUMPY[kind])
