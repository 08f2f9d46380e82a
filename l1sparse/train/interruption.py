# SPDX-License-Identifier: MIT
"""Ctrl-C and a request to terminate: noted, so that a run can end where it can go on later."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from l1sparse.train.progress import say


class StoppedError(Exception):
    """The run was asked to stop, and has saved a checkpoint."""


class Interruption:
    """Within a ``with``, the first SIGINT or SIGTERM is noted; the second one interrupts at once.

    Attributes:
        requested: whether there was one.
    """

    _signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        """Listen."""
        self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(self, *error: object) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say("stopping after this step; once more to stop at once, without a checkpoint")
