# SPDX-License-Identifier: MIT
"""A GPU that is none: calls run on the CPU, time passes as told, and everything is written down."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._at: float | None = None
        self._waits = 0

    def record(self) -> None:
        self._gpu.log.append("event")
        self._gpu.now += self._gpu.tick
        self._at, self._waits = self._gpu.now, self._gpu.waits

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self._at is not None
        assert end._at is not None
        assert self._gpu.waits > end._waits, "asked before the GPU had reached it"
        return end._at - self._at


class FakeGpu:
    """`gpu_timing.Gpu` for tests.

    Args:
        milliseconds: that a replayed call takes, on top of what the call adds to `now` itself.
        tick: milliseconds from one event to the next at least.
    """

    device = torch.device("cpu")

    def __init__(self, milliseconds: float = 1.0, tick: float = 0.0) -> None:
        self.milliseconds, self.tick = milliseconds, tick
        self.now = 0.0
        self.waits = 0
        self.log: list[str] = []
        self.graphs: list[int] = []
        """Calls of each graph."""

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def graph(self, call: Callable[[], object], repeats: int) -> Callable[[], object]:
        self.graphs.append(repeats)
        known = weakref.ref(call)  # as a graph of CUDA's, which keeps none of its tensors

        def replay() -> None:
            self.log.append("replay")
            called = known()
            assert called is not None, "what was captured is gone, and so are its tensors"
            for _ in range(repeats):
                called()
                self.now += self.milliseconds

        return replay

    def flush(self) -> None:
        self.log.append("flush")
        self.now += 1000.0

    def wait(self) -> None:
        self.waits += 1

    def guard(self) -> AbstractContextManager[object]:
        return nullcontext()

    def describe(self) -> dict[str, Any]:
        return {
            "gpu": "Fake",
            "capability": "8.0",
            "torch": torch.__version__,
            "cuda": "13.0",
            "cudnn": 90000,
            "nvidia_smi": [{"driver_version": "580.1"}],
        }
