# SPDX-License-Identifier: MIT
"""Which accesses come before which, where barriers of fewer threads than a block are used.

Every thread has a clock that such a barrier advances, and knows of every other thread of its
block up to which clock all it did lies in the past (a vector clock). A barrier of the whole block
needs none of this: it starts a new epoch, and all is forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .machine import Shape


class Order:
    """Vector clocks of all threads of a batch."""

    def __init__(self, shape: Shape, entries: int) -> None:
        self.shape = shape
        self.clock = np.ones(shape.size, np.int32)
        # past[thread, other]: what `other` did at this clock and earlier lies before `thread`.
        self.past = np.zeros((shape.size, shape.stride), np.int32)
        self.write_clock = np.zeros(entries, np.int32)
        self.read_clock = np.zeros(entries, np.int32)

    def note(self, clocks: np.ndarray, pieces: np.ndarray, lanes: np.ndarray) -> None:
        """Notes when threads touched pieces; of several readers the latest counts for all."""
        now = np.broadcast_to(self.clock[lanes][:, None], pieces.shape)
        clocks[pieces] = np.maximum(now, 0)

    def reset(self, index: np.ndarray) -> None:
        """Forgets all, behind a barrier of the whole block."""
        self.clock[index] = 1
        self.past[index] = 0

    def join(self, index: np.ndarray, keys: np.ndarray) -> None:
        """A barrier of the threads of each key."""
        for key in np.unique(keys):
            members = index[keys == key]
            past = self.past[members].max(axis=0)
            past[self.shape.in_block[members]] = self.clock[members]
            self.past[members] = past
            self.clock[members] += 1

    def before(self, who: np.ndarray, clock: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Whether what `who` did at `clock` lies before what the threads `lanes` do now.

        Where several threads did it, all threads of the warp, or of the block, must have passed
        that clock, which may report a race that is none, but misses none.
        """
        from .shared import WARP

        past = self.past[lanes]
        row = np.arange(len(who))
        result = past[row, np.minimum(who, self.shape.stride - 1)] >= clock
        for several in np.flatnonzero(who >= WARP):
            warp = who[several] - WARP
            others = slice(warp * 32, warp * 32 + 32) if warp < 32 else slice(None)
            mine = self.shape.in_block[lanes[several]]
            known = past[several].copy()
            known[mine] = clock[several]  # the own accesses need no barrier
            exists = np.arange(self.shape.stride) < self.shape.threads_a_block
            result[several] = (known >= clock[several])[others][exists[others]].all()
        return result
