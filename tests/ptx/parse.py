# SPDX-License-Identifier: MIT
"""PTX text to `syntax` objects. What the grammar here does not know is an error with its line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import PtxError
from .syntax import (
    Address,
    Function,
    Group,
    Immediate,
    Instruction,
    Not,
    Operand,
    Pair,
    Register,
    Symbol,
    Variable,
    Vector,
)
from .tokens import Token, tokenize
from .types import SIZES

_SPACES = {".shared", ".local", ".global", ".const", ".param"}
_LINKAGE = {".visible", ".extern", ".weak", ".common"}
# Directives that bear on performance or placement only, each with the marks that end it.
_IGNORED_HEADER = {".version", ".target", ".address_size"}
_IGNORED_FUNCTION = {".maxntid", ".reqntid", ".minnctapersm", ".maxnreg", ".noreturn", ".pragma"}


@dataclass
class Module:
    """A parsed PTX text.

    Attributes:
        functions: Kernels and device functions by name.
        variables: Module-wide variables by name.
        programs: Kernels that were linked, see launch.py.
    """

    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    programs: dict[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def parse(text: str) -> Module:
        """Reads PTX as `nvcc` and Triton write it."""
        return _Parser(text).module()

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels in it."""
        return [f.name for f in self.functions.values() if f.entry]

    def kernel(self, name: str) -> Function:
        """The kernel of that name, or the only one whose (mangled) name contains it."""
        found = [k for k in self.kernels if k == name] or [k for k in self.kernels if name in k]
        if len(found) != 1:
            raise PtxError(f"{len(found)} kernels match {name!r}; there are {self.kernels}")
        return self.functions[found[0]]


@dataclass
class _Scope:
    number: int
    registers: dict[str, Register] = field(default_factory=dict)
    ranges: list[tuple[str, int, str]] = field(default_factory=list)  # prefix, count, type
    variables: dict[str, Variable] = field(default_factory=dict)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens = tokenize(text)
        self.place = 0
        self.scopes: list[_Scope] = []
        self.scope_count = 0
        self.result = Module()

    # Tokens

    @property
    def next(self) -> Token:
        return self.tokens[self.place]

    def take(self, text: str | None = None) -> str:
        token = self.next
        if text is not None and token.text != text:
            raise PtxError(f"{text!r} expected, not {token.text!r}", token.line)
        self.place += 1
        return token.text

    def skip(self, text: str) -> bool:
        if self.next.text == text:
            self.place += 1
            return True
        return False

    def integer(self) -> int:
        negative = self.skip("-")
        token = self.next
        if token.kind != "number":
            raise PtxError(f"a number expected, not {token.text!r}", token.line)
        value = int(self.take().rstrip("U"), 0)
        return -value if negative else value

    # Declarations

    def module(self) -> Module:
        while self.next.kind != "end":
            word = self.next.text
            if word in _IGNORED_HEADER:
                line = self.next.line
                while self.next.line == line:
                    self.take()
            elif word in _LINKAGE:
                self.take()
            elif word in (".entry", ".func"):
                self.function()
            elif word in _SPACES:
                variable = self.variable()
                self.result.variables[variable.name] = variable
                self.take(";")
            else:
                raise PtxError(f"unknown directive {word!r}", self.next.line)
        return self.result

    def variable(self) -> Variable:
        line = self.next.line
        space, align, kind = self.take()[1:], 0, ""
        while self.next.text.startswith("."):
            word = self.take()[1:]
            if word == "align":
                align = self.integer()
            elif word in SIZES:
                kind = word
            elif word not in ("ptr", "global", "shared", "const", "local"):
                raise PtxError(f"unknown attribute .{word}", line)
            # `.param .u64 .ptr .global .align 16 p`: that alignment is of what p points to.
            if word == "ptr":
                while self.next.text.startswith("."):
                    if self.take() == ".align":
                        self.integer()
        if not kind:
            raise PtxError("a variable without a type", line)
        name, count = self.take(), 1
        while self.skip("["):
            count *= 0 if self.next.text == "]" else self.integer()
            self.take("]")
        initial = self.initial_value(kind, count) if self.skip("=") else None
        size = SIZES[kind] * count
        return Variable(name, space, kind, align or SIZES[kind], size, initial)

    def initial_value(self, kind: str, count: int) -> bytes:
        values = []
        braces = self.skip("{")
        while True:
            operand = self.literal()
            if operand.kind == "int":
                bits = int(operand.value) & (1 << 8 * SIZES[kind]) - 1
                values.append(bits.to_bytes(SIZES[kind], "little"))
            elif operand.kind == "decimal":
                values.append({4: np.float32, 8: np.float64}[SIZES[kind]](operand.value).tobytes())
            else:
                values.append(int(operand.value).to_bytes(SIZES[kind], "little"))
            if not self.skip(","):
                break
        if braces:
            self.take("}")
        return b"".join(values).ljust(count * SIZES[kind], b"\0")

    def parameters(self) -> list[Variable]:
        found: list[Variable] = []
        self.take("(")
        while not self.skip(")"):
            if self.next.text not in (".param", ".reg"):
                raise PtxError(f"a parameter expected, not {self.next.text!r}", self.next.line)
            found.append(self.variable())
            self.skip(",")
        return found

    def function(self) -> None:
        line, entry = self.next.line, self.take() == ".entry"
        returns = self.parameters() if self.next.text == "(" else []
        function = Function(self.take(), entry, line, returns=returns)
        self.push_scope()
        if self.next.text == "(":
            function.parameters = self.parameters()
        for variable in (*function.parameters, *returns):
            self.scopes[-1].variables[variable.name] = variable
        while self.next.text in _IGNORED_FUNCTION:
            self.take()
            while self.next.kind in ("number", "string") or self.next.text == ",":
                self.take()
        if not self.skip(";"):
            function.defined = True
            self.take("{")
            self.body(function)
        self.scopes.pop()
        known = self.result.functions.get(function.name)
        if known is None or not known.defined:
            self.result.functions[function.name] = function

    def push_scope(self) -> None:
        self.scope_count += 1
        self.scopes.append(_Scope(self.scope_count))

    # Statements

    def body(self, function: Function) -> None:
        depth = 1
        while depth:
            token = self.next
            if token.kind == "end":
                raise PtxError("the text ends inside a function", token.line)
            if self.skip("{"):
                self.push_scope()
                depth += 1
            elif self.skip("}"):
                if depth > 1:
                    self.scopes.pop()
                depth -= 1
            elif self.skip(";"):
                pass
            elif token.text == ".reg":
                self.registers()
            elif token.text in _SPACES:
                variable = self.variable()
                self.take(";")
                self.scopes[-1].variables[variable.name] = variable
                function.variables.append(variable)
            elif token.text == ".pragma":
                while self.take() != ";":
                    pass
            elif self.tokens[self.place + 1].text == ":":
                self.label(function)
            elif (token.kind == "word" and not token.text.startswith(".")) or token.text == "@":
                function.body.append(self.instruction())
            else:
                raise PtxError(f"unknown statement {token.text!r}", token.line)

    def registers(self) -> None:
        line = self.next.line
        self.take(".reg")
        kind = self.take()[1:]
        if kind not in SIZES:
            raise PtxError(f"unknown register type .{kind}", line)
        while True:
            name = self.take()
            if self.skip("<"):
                self.scopes[-1].ranges.append((name, self.integer(), kind))
                self.take(">")
            else:
                self.scopes[-1].registers[name] = Register(name, kind)
            if not self.skip(","):
                break
        self.take(";")

    def label(self, function: Function) -> None:
        name = self.take()
        self.take(":")
        if self.skip(".branchtargets"):
            targets = []
            while True:
                targets.append(Symbol(self.take(), self.scope_path()))
                if not self.skip(","):
                    break
            self.take(";")
            function.tables[name] = tuple(targets)
        else:
            function.labels[name, self.scope_path()] = len(function.body)

    def scope_path(self) -> tuple[int, ...]:
        return tuple(scope.number for scope in self.scopes)

    def instruction(self) -> Instruction:
        first, guard, negated = self.next, None, False
        if self.skip("@"):
            negated = self.skip("!")
            guard_operand = self.named(self.take(), first.line)
            if not isinstance(guard_operand, Register):
                raise PtxError("the guard is not a register", first.line)
            guard = guard_operand
        name, *modifiers = self.take().split(".")
        operands: list[Operand] = []
        while self.next.text != ";":
            operands.append(self.operand())
            if not self.skip(","):
                break
        end = self.next.start
        self.take(";")
        text = " ".join(self.text[first.start : end].split()) + ";"
        return Instruction(
            first.line, text, name, tuple(modifiers), tuple(operands), guard, negated
        )

    # Operands

    def operand(self) -> Operand:
        token = self.next
        if self.skip("{"):
            return Vector(self.items("}"))
        if self.skip("("):
            return Group(self.items(")"))
        if self.skip("["):
            return self.address()
        if self.skip("!"):
            operand = self.named(self.take(), token.line)
            if not isinstance(operand, Register):
                raise PtxError("'!' before what is no register", token.line)
            return Not(operand)
        if token.kind == "number" or token.text == "-":
            return self.literal()
        if token.kind != "word":
            raise PtxError(f"an operand expected, not {token.text!r}", token.line)
        operand = self.named(self.take(), token.line)
        if self.skip("|"):
            return Pair(operand, self.named(self.take(), token.line))
        return operand

    def items(self, closing: str) -> tuple[Operand, ...]:
        found: list[Operand] = []
        while not self.skip(closing):
            found.append(self.operand())
            self.skip(",")
        return tuple(found)

    def address(self) -> Address:
        base: Register | Variable | Symbol | None = None
        offset, line = 0, self.next.line
        if self.next.kind == "word":
            named = self.named(self.take(), line)
            if not isinstance(named, Register | Variable | Symbol):
                raise PtxError("not an address", line)
            base = named
        while not self.skip("]"):
            self.skip("+")
            offset += self.integer()
        return Address(base, offset)

    def literal(self) -> Immediate:
        negative = self.skip("-")
        token = self.next
        text = self.take()
        if token.kind != "number":
            raise PtxError(f"a number expected, not {text!r}", token.line)
        if text[:2] in ("0f", "0F", "0d", "0D"):
            kind, sign = ("f32", 31) if text[1] in "fF" else ("f64", 63)
            bits = int(text[2:], 16)
            return Immediate(bits ^ (1 << sign) if negative else bits, kind)
        if "." in text:
            return Immediate(-float(text) if negative else float(text), "decimal")
        value = int(text.rstrip("U"), 0)
        return Immediate(-value if negative else value)

    def named(self, name: str, line: int) -> Operand:
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return scope.registers[name]
            if name in scope.variables:
                return scope.variables[name]
            for prefix, count, kind in scope.ranges:
                number = name[len(prefix) :]
                if name.startswith(prefix) and number.isdecimal() and int(number) < count:
                    scope.registers[name] = Register(name, kind)
                    return scope.registers[name]
        if name in self.result.variables:
            return self.result.variables[name]
        return Symbol(name, self.scope_path())
