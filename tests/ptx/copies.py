# SPDX-License-Identifier: MIT
"""The asynchronous copies in flight: their groups and waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .shared import SharedMemory


@dataclass
class _Copy:
    lanes: np.ndarray
    pieces: np.ndarray
    group: np.ndarray


class Copies:
    """What each thread has copied without having waited for it."""

    def __init__(self, threads: int) -> None:
        self.committed = np.zeros(threads, np.int64)  # groups of each thread
        self.flying: list[_Copy] = []

    def issue(self, lanes: np.ndarray, pieces: np.ndarray) -> None:
        """Notes copies of the threads `lanes` into pieces of shared memory."""
        self.flying.append(_Copy(lanes, pieces, self.committed[lanes]))

    def commit(self, lanes: np.ndarray) -> None:
        """Closes the group of each of the threads."""
        self.committed[lanes] += 1

    def wait(self, shared: SharedMemory, mask: np.ndarray, newest: int) -> None:
        """Ends all copies of the threads in `mask` but those of their `newest` latest groups."""
        limit = np.where(mask, self.committed - newest, 0)
        left = []
        for copy in self.flying:
            done = copy.group < limit[copy.lanes]
            if done.any():
                lanes, pieces = copy.lanes[done], copy.pieces[done]
                shared.flying[pieces] = False
                # Its bytes may have come at any time until now.
                shared.note_write(pieces, lanes, shared.stamp[lanes][:, None])
            if not done.all():
                left.append(_Copy(copy.lanes[~done], copy.pieces[~done], copy.group[~done]))
        self.flying = left
