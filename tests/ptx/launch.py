# SPDX-License-Identifier: MIT
"""Runs a kernel over a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import access, alu, atomics, branch, compare, convert, tensor, warp
from .control import Scheduler
from .counts import Counts
from .errors import Hazard, PtxError
from .layout import round_up
from .link import Linker, Program
from .machine import Machine, Shape
from .memory import Memory
from .parse import Module
from .syntax import Variable
from .types import NUMPY, SIZES, is_float

INSTRUCTIONS = (access, alu, atomics, branch, compare, convert, tensor, warp)
"""The files that know instructions; importing one registers them with `link.builds`."""


@dataclass
class Report:
    """What a launch did.

    Attributes:
        counts: What it cost.
        hazards: Its faults, where they were collected.
    """

    counts: Counts = field(default_factory=Counts)
    hazards: list[Hazard] = field(default_factory=list)


def launch(
    module: Module,
    kernel: str,
    *,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[object],
    memory: Memory,
    dynamic_shared: int = 0,
    collect: bool = False,
    blocks: Sequence[int] | None = None,
    lanes: int = 2048,
) -> Report:
    """Runs a kernel.

    Args:
        module: The parsed PTX.
        kernel: The kernel's name, or a part of it that no other kernel's has.
        grid: Blocks in x (and y, and z).
        block: Threads in x (and y, and z).
        arguments: One for each parameter: a number, a numpy scalar or array, or the bytes of a
            struct.
        memory: The device's memory, to which pointers among the arguments belong.
        dynamic_shared: Bytes of dynamic shared memory.
        collect: Go on behind hazards and return them, where that is possible.
        blocks: Numbers of the blocks to run (x fastest); all if None.
        lanes: About how many threads to run in lock-step.

    Returns:
        The counts and the hazards.
    """
    grid, block = _extents(grid), _extents(block)
    program = link(module, kernel)
    _check(program, arguments)
    parameters = pack_parameters(program, arguments)
    report = Report()
    report.counts.steps = [0] * len(program.steps)
    total = int(np.prod(grid))
    numbers = np.arange(total) if blocks is None else np.asarray(blocks)
    if not ((numbers >= 0) & (numbers < total)).all():
        raise ValueError(f"the grid has {total} blocks")
    base = memory.begin(total)
    batch = max(1, lanes // round_up(int(np.prod(block)), 32))
    with np.errstate(all="ignore"):
        for start in range(0, len(numbers), batch):
            shape = Shape(grid, block, numbers[start : start + batch], base)
            hazards = report.hazards if collect else None
            machine = Machine(
                program, shape, memory, parameters, dynamic_shared, report.counts, hazards
            )
            Scheduler(machine, program).run()
            report.counts.finish_batch(program.steps)
    return report


def link(module: Module, kernel: str) -> Program:
    """Links a kernel of the module once; later calls return the same program."""
    function = module.kernel(kernel)
    if function.name not in module.programs:
        module.programs[function.name] = Linker(module, function).link()
    return module.programs[function.name]


def _extents(extents: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*extents, 1, 1)[:3]
    if len(extents) > 3 or min(x, y, z) < 1:
        raise ValueError(f"extents {tuple(extents)}")
    return int(x), int(y), int(z)


def _check(program: Program, arguments: Sequence[object]) -> None:
    wanted = program.layout.parameters
    if len(arguments) != len(wanted):
        raise ValueError(
            f"{program.kernel.name} takes {len(wanted)} arguments, not {len(arguments)}"
        )


def pack_parameters(program: Program, arguments: Sequence[object]) -> np.ndarray:
    """The bytes of the parameters."""
    layout = program.layout
    result = np.zeros(layout.parameter_size, np.uint8)
    for variable, argument in zip(layout.parameters, arguments, strict=True):
        data = _argument(variable, argument)
        if len(data) != variable.size:
            raise ValueError(f"{variable.name} has {variable.size} bytes, its argument {len(data)}")
        offset = layout.offsets[variable]
        result[offset : offset + variable.size] = np.frombuffer(data, np.uint8)
    return result


def _argument(variable: Variable, argument: object) -> bytes:
    if isinstance(argument, bytes | bytearray):
        return bytes(argument)
    if isinstance(argument, np.ndarray | np.generic):
        return argument.tobytes()
    if isinstance(argument, int) and variable.size == SIZES[variable.type]:
        if not is_float(variable.type):
            return (argument & (1 << 8 * variable.size) - 1).to_bytes(variable.size, "little")
        return NUMPY[variable.type].type(argument).tobytes()
    if isinstance(argument, float) and is_float(variable.type) and variable.type != "bf16":
        return NUMPY[variable.type].type(argument).tobytes()
    raise PtxError(f"argument {argument!r} for {variable.name} (.{variable.type})")
