# SPDX-License-Identifier: MIT
"""Timing that compares: alternatives take turns, medians are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: the median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float


def alternate(
    candidates: Mapping[str, Callable[[], object]], rounds: int = 15, round_seconds: float = 0.002
) -> dict[str, Timing]:
    """Time the candidates in turn, A B A B, so that a drift of the machine hits all alike.

    A turn's first call is not timed: it finds the caches as another candidate left them, which
    would cost a short call more, relative to its time, than a long one.

    Args:
        candidates: calls to time, by name; each is warmed up first.
        rounds: how many turns each gets.
        round_seconds: a turn repeats its call until about this long, so that short calls are
            not lost in the clock's resolution.

    Returns:
        Per name, the time of one call.
    """
    repeats = {name: _calls_in(call, round_seconds) for name, call in candidates.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - start) * 1e3 / repeats[name])
    return {name: summary(values) for name, values in samples.items()}


def fastest_at_first(
    ways: Mapping[str, Callable[[Tensor], Tensor]], rounds: int = 7
) -> Callable[[Tensor], Tensor]:
    """A function that is the fastest of `ways`, by what its first call measures on its argument."""
    fastest: Callable[[Tensor], Tensor] | None = None

    def call(input: Tensor) -> Tensor:
        nonlocal fastest
        if fastest is None:
            times = alternate({name: partial(way, input) for name, way in ways.items()}, rounds)
            fastest = ways[min(times, key=lambda name: times[name].median)]
        return fastest(input)

    return call


def _calls_in(call: Callable[[], object], seconds: float) -> int:
    call()
    start = time.perf_counter()
    call()
    return max(1, round(seconds / max(time.perf_counter() - start, 1e-9)))


def summary(values: list[float]) -> Timing:
    """Median and percentiles of milliseconds, at least one."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Timing(
        statistics.median(ordered), ordered[round(0.1 * last)], ordered[round(0.9 * last)]
    )
