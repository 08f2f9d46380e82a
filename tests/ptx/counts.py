# SPDX-License-Identifier: MIT
"""What a launch cost: instructions, sectors of global memory, wavefronts of shared memory.

All figures are sums over warps. They depend on the kernel and its input alone, not on a chip.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .link import Step

if TYPE_CHECKING:
    from .machine import Machine
    from .memory import Buffer


@dataclass
class Counts:
    """Counts of one launch.

    Attributes:
        instructions: Warp-instructions by opcode with all its modifiers.
        branches: Branches executed by warps.
        divergent_branches: Those at which a warp split.
        barriers: Barriers passed by blocks (or by the threads that a named one is for).
        global_load_requests: Instructions of warps that read global memory (`cp.async` too).
        global_load_sectors: The 32-byte sectors those touched, summed over requests.
        global_load_bytes: The bytes their threads asked for.
        global_load_ideal: Sectors touched at all, each counted once a block.
        global_load_unique: Sectors touched at all, each counted once.
        shared_requests: Instructions of warps that access shared memory.
        shared_phases: Wavefronts they need at least: one for 128 bytes of a warp's lanes.
        shared_wavefronts: Wavefronts they need, with bank conflicts.
        executed: Warp-instructions of all launches of this process.
    """

    executed: ClassVar[int] = 0
    steps: list[int] = field(default_factory=list, repr=False)
    instructions: Counter[str] = field(default_factory=Counter)
    branches: int = 0
    divergent_branches: int = 0
    barriers: int = 0
    global_load_requests: int = 0
    global_load_sectors: int = 0
    global_load_bytes: int = 0
    global_load_ideal: int = 0
    global_load_unique: int = 0
    global_store_requests: int = 0
    global_store_sectors: int = 0
    global_store_bytes: int = 0
    global_store_ideal: int = 0
    global_store_unique: int = 0
    shared_requests: int = 0
    shared_phases: int = 0
    shared_wavefronts: int = 0
    local_requests: int = 0
    _patterns: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _touched: dict[tuple[str, int], tuple[Buffer, np.ndarray]] = field(
        default_factory=dict, repr=False
    )
    _ever: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def total(self) -> int:
        """All warp-instructions."""
        return sum(self.instructions.values())

    @property
    def mma(self) -> int:
        """Matrix instructions."""
        return self.of("mma")

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts beyond those needed at least."""
        return self.shared_wavefronts - self.shared_phases

    def of(self, name: str) -> int:
        """Warp-instructions of a name, whatever their modifiers."""
        return sum(n for opcode, n in self.instructions.items() if opcode.split(".")[0] == name)

    # Kept by the machine

    def global_access(
        self, machine: Machine, addresses: np.ndarray, lanes: np.ndarray, size: int, verb: str
    ) -> None:
        """Counts one instruction's access to global memory."""
        # What matters is where the addresses lie within the first one's sector and each other.
        relative = addresses - (addresses[0] & ~np.uint64(31))
        key = hash((relative.tobytes(), lanes.tobytes(), size, "global"))
        if key not in self._patterns:
            sectors = np.unique(
                (lanes.astype(np.int64) // 32 << 44) + (relative.view(np.int64) >> 5)
            )
            self._patterns[key] = (len(np.unique(lanes // 32)), len(sectors))
        requests, sectors = self._patterns[key]
        self._add(f"global_{verb}_requests", requests)
        self._add(f"global_{verb}_sectors", sectors)
        self._add(f"global_{verb}_bytes", len(lanes) * size)

    def _add(self, name: str, amount: int) -> None:
        setattr(self, name, getattr(self, name) + amount)

    def touch(
        self, machine: Machine, buffer: Buffer, offsets: np.ndarray, lanes: np.ndarray, verb: str
    ) -> None:
        """Notes the sectors that the blocks of the batch touch."""
        key = (verb, id(buffer))
        if key not in self._touched:
            shape = (machine.shape.blocks, -(-len(buffer.storage) // 32))
            self._touched[key] = (buffer, np.zeros(shape, bool))
        self._touched[key][1][machine.shape.block_index[lanes], offsets >> 5] = True

    def shared_access(self, addresses: np.ndarray, lanes: np.ndarray, size: int, verb: str) -> None:
        """Counts one instruction's access to shared memory."""
        del verb
        relative = addresses.astype(np.int64) - int(addresses[0]) // 4 * 4
        key = hash((relative.tobytes(), lanes.tobytes(), size, "shared"))
        if key not in self._patterns:
            phases, wavefronts = wavefronts_of(relative, lanes, size)
            self._patterns[key] = (len(np.unique(lanes // 32)), phases, wavefronts)
        requests, phases, wavefronts = self._patterns[key]
        self.shared_requests += requests
        self.shared_phases += phases
        self.shared_wavefronts += wavefronts

    def finish_batch(self, steps: list[Step]) -> None:
        """Adds up what was noted per step and per block."""
        for step, count in zip(steps, self.steps, strict=True):
            if count:
                self.instructions[step.instruction.opcode] += count
                Counts.executed += count
        self.steps = [0] * len(steps)
        for key, (_, touched) in self._touched.items():
            self._add(f"global_{key[0]}_ideal", int(np.count_nonzero(touched)))
            ever = touched.any(axis=0)
            self._ever[key] = ever | self._ever.get(key, False)
        self._touched.clear()
        for verb in ("load", "store"):
            unique = sum(int(e.sum()) for key, e in self._ever.items() if key[0] == verb)
            setattr(self, f"global_{verb}_unique", unique)


def wavefronts_of(addresses: np.ndarray, lanes: np.ndarray, size: int) -> tuple[int, int]:
    """Phases and wavefronts of an access to shared memory.

    The lanes of a warp go together as long as they ask for 128 bytes: all 32 for up to 4 bytes,
    16 for 8, and 8 for 16. In one wavefront each of the 32 banks, 4 bytes wide, gives one word;
    lanes that want the same word share it.
    """
    words = max(1, size // 4)
    phase = (lanes // 32) * words + (lanes % 32) // (32 // words)
    names, phase = np.unique(phase, return_inverse=True)
    word = (addresses[:, None] >> 2) + np.arange(words)
    distinct = np.unique((phase[:, None] << 32) + word + (1 << 30))
    bank = (distinct >> 32) * 32 + distinct % 32
    load = np.bincount(bank, minlength=32 * len(names)).reshape(-1, 32)
    return len(names), int(load.max(axis=1).sum())
