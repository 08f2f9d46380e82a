# SPDX-License-Identifier: MIT
"""The parts a PTX text is made of, as plain data. `parse.py` builds them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Register:
    """A virtual register; two of one name in different scopes are two objects."""

    name: str
    type: str


@dataclass(frozen=True)
class Immediate:
    """A literal: an integer, or a float given by its bits (``0f…``, ``0d…``) or in decimals."""

    value: int | float
    kind: str = "int"  # "int", "f32" (value: 32 bits), "f64" (value: 64 bits), "decimal"


@dataclass(frozen=True, eq=False)
class Variable:
    """A declared piece of memory: a parameter, or shared, local, constant or global data."""

    name: str
    space: str
    type: str
    align: int
    size: int  # bytes; 0 for `.extern .shared x[]`, whose size the launch gives
    initial: bytes | None = None


@dataclass(frozen=True)
class Symbol:
    """A name that is no register: a label, a function or a special register."""

    name: str
    scopes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Address:
    """``[base+offset]``."""

    base: Register | Variable | Symbol | None
    offset: int


@dataclass(frozen=True)
class Vector:
    """``{a, b, …}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """``a|b``, the two results of `setp`, `shfl` and `elect`."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Not:
    """``!p``."""

    operand: Register


@dataclass(frozen=True)
class Group:
    """``(a, b)``, the arguments of `call`."""

    items: tuple[Operand, ...]


Operand = Register | Immediate | Variable | Symbol | Address | Vector | Pair | Not | Group


@dataclass(frozen=True, eq=False)
class Instruction:
    """One statement: ``@!guard name.modifiers operands;``."""

    line: int
    text: str
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None = None
    negated: bool = False

    @property
    def opcode(self) -> str:
        """The name with its modifiers, as written."""
        return ".".join((self.name, *self.modifiers))


@dataclass(eq=False)
class Function:
    """A kernel (`.entry`) or device function (`.func`)."""

    name: str
    entry: bool
    line: int
    parameters: list[Variable] = field(default_factory=list)
    returns: list[Variable] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    body: list[Instruction] = field(default_factory=list)
    labels: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)
    tables: dict[str, tuple[Symbol, ...]] = field(default_factory=dict)  # of brx.idx
    defined: bool = False

    def label(self, symbol: Symbol) -> int | None:
        """The index in `body` of a label, looked up from the scope of its use outwards."""
        for depth in range(len(symbol.scopes), -1, -1):
            place = self.labels.get((symbol.name, symbol.scopes[:depth]))
            if place is not None:
                return place
        return None
