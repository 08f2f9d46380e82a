# SPDX-License-Identifier: MIT
"""The state of a batch of blocks that run in lock-step: threads, registers and their checks.

All threads of all blocks of a batch lie behind one another in arrays of one value a thread; a
block is padded to whole warps with threads that do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .counts import Counts
from .errors import Hazard
from .layout import round_up
from .link import Program, Step
from .memory import Memory
from .shared import SharedMemory
from .syntax import Variable
from .types import NUMPY, UNSIGNED


class Shape:
    """Which thread of which block each place in the arrays is."""

    def __init__(
        self, grid: Sequence[int], block: Sequence[int], first_blocks: np.ndarray, base: int
    ) -> None:
        self.threads_a_block = int(np.prod(block))
        self.stride = round_up(self.threads_a_block, 32)
        self.blocks = len(first_blocks)
        self.size = self.blocks * self.stride
        self.warps_a_block = self.stride // 32
        place = np.arange(self.size)
        self.block_index = place // self.stride  # within the batch
        self.in_block = place % self.stride
        self.lane = place % 32
        self.warp_in_block = self.in_block // 32
        self.exists = self.in_block < self.threads_a_block
        self.block_id = first_blocks[self.block_index]  # within the grid
        self.owner = (self.block_id + base).astype(np.int32)  # in the shadow of global memory
        self.thread = _split(self.in_block, block)
        self.block = _split(self.block_id, grid)
        self.block_size = [np.array([extent]) for extent in block]
        self.grid_size = [np.array([extent]) for extent in grid]

    def name(self, place: int) -> str:
        """A thread, for messages."""
        thread = ",".join(str(axis[place]) for axis in self.thread)
        block = ",".join(str(axis[place]) for axis in self.block)
        return f"thread ({thread}) of block ({block})"


def _split(index: np.ndarray, extents: Sequence[int]) -> list[np.ndarray]:
    x, y, _ = extents
    return [index % x, index // x % y, index // (x * y)]


class Lanes:
    """The threads that execute an instruction together.

    Attributes:
        mask: One bool a thread of the batch.
        alone: No other thread is alive, so registers may be written without a mask.
    """

    __slots__ = ("__dict__", "alone", "mask")

    def __init__(self, mask: np.ndarray, alone: bool) -> None:
        self.mask = mask
        self.alone = alone

    @cached_property
    def index(self) -> np.ndarray:
        """Their places in the arrays."""
        return np.flatnonzero(self.mask)

    @cached_property
    def warp_mask(self) -> np.ndarray:
        """For each warp of the batch whether it takes part."""
        return self.mask.reshape(-1, 32).any(axis=1)

    @cached_property
    def warps(self) -> int:
        """How many warps take part."""
        return int(np.count_nonzero(self.warp_mask))

    def pick(self, slot: np.ndarray) -> np.ndarray:
        """The values of a slot for these threads only."""
        if len(slot) == len(self.mask):
            return slot[self.index]
        return np.broadcast_to(slot, self.index.shape)

    def where(self, condition: np.ndarray) -> Lanes:
        """Those for whom the condition holds."""
        mask = self.mask & condition
        if np.array_equal(mask, self.mask):
            return self
        return Lanes(mask, False)


class Machine:
    """A batch of blocks: registers, memories, and what is known of them."""

    def __init__(
        self,
        program: Program,
        shape: Shape,
        memory: Memory,
        parameters: np.ndarray,
        dynamic_shared: int,
        counts: Counts,
        hazards: list[Hazard] | None,
    ) -> None:
        self.program = program
        self.shape = shape
        self.memory = memory
        self.counts = counts
        self.hazards = hazards
        self.dynamic_shared = dynamic_shared
        self.parameters = parameters
        self.step: Step = program.steps[0]
        self.live = shape.exists.copy()
        self.all_live = bool(self.live.all())
        layout = program.layout
        start = layout.place_dynamic(dynamic_shared)
        areas = [*layout.shared, (start, dynamic_shared)]
        self.shared = SharedMemory(self, areas, program.granule, program.partial_barriers)
        self.local = np.zeros((shape.size, layout.local_size), np.uint8)
        self.local_written = np.zeros((shape.size, layout.local_size), bool)
        self.frames = {v: np.zeros((shape.size, v.size), np.uint8) for v in layout.frames}
        self._rows = [np.zeros(shape.size, _storage(r.type)) for r in program.rows]
        self._written = np.zeros((len(self._rows), shape.size), bool)
        self._known = [False] * len(self._rows)
        # Steps whose registers are not yet known to be all written; see `track`.
        self.untracked = [True] * len(program.steps)
        self.slots = [fill(self) for fill in program.slots]

    def register(self, row: int, dtype: np.dtype) -> np.ndarray:
        """A register seen through a type, which may be narrower than it."""
        storage = self._rows[row]
        ratio = storage.dtype.itemsize // dtype.itemsize
        return storage.view(dtype)[::ratio]

    def address(self, variable: Variable) -> np.ndarray:
        """The address of a variable in its own space."""
        if variable.space in ("global", "const"):
            return np.array([self.memory.module_variable(variable)], np.uint64)
        return np.array([self.program.layout.offsets[variable]], np.uint64)

    def hazard(self, kind: str, message: str) -> None:
        """Reports a fault of the step that runs: raises it, or keeps it where asked to."""
        instruction = self.step.instruction
        error = Hazard(kind, message, instruction.line, instruction.text)
        if self.hazards is None:
            raise error
        self.hazards.append(error)

    def track(self, number: int, step: Step, lanes: Lanes) -> None:
        """Follows which registers hold a value, and reports the use of one that does not.

        Compilers compute with unwritten registers where they never use the result, so what comes
        of one counts as unwritten in turn, until it decides about a branch, is an address, goes
        to memory or enters an `mma`. Once all registers of a step are written by all threads, they
        need not be followed there any more.
        """
        mask = lanes.mask
        defined = mask
        for row in step.reads:
            if not self._known[row]:
                defined = defined & self._written[row]
        complete = defined is mask or np.array_equal(defined, mask)
        if not complete and step.lasting:
            self._report_unwritten(step.reads, mask)
            complete, defined = True, mask
        if step.defines is not None:
            defined = step.defines(self, lanes)
        for row in step.writes:
            if not (self._known[row] and complete):
                np.copyto(self._written[row], defined, where=mask)
                known = bool((self._written[row] | ~self.live).all())
                if self._known[row] and not known:
                    for user in self.program.users[row]:
                        self.untracked[user] = True
                self._known[row] = known
        self.untracked[number] = not all(self._known[row] for row in (*step.reads, *step.writes))

    def written(self, row: int) -> np.ndarray:
        """For each thread whether a register holds a value."""
        return self._written[row]

    def check_guard(self, step: Step, lanes: Lanes) -> None:
        """Reports a predicate that decides but holds no value."""
        assert step.instruction.guard is not None
        row = self.program.rows[step.instruction.guard]
        if not self._known[row]:
            self._report_unwritten((row,), lanes.mask)

    def _report_unwritten(self, rows: Sequence[int], mask: np.ndarray) -> None:
        for row in rows:
            missing = np.flatnonzero(mask & ~self._written[row])
            if len(missing):
                name, who = list(self.program.rows)[row].name, self.shape.name(int(missing[0]))
                message = f"{who} uses {name}, which was never written or comes of such a register"
                self.hazard("uninitialised register", message)


def _storage(kind: str) -> np.dtype:
    return NUMPY["pred"] if kind == "pred" else UNSIGNED[NUMPY[kind].itemsize]
