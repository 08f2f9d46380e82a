# SPDX-License-Identifier: MIT
"""How far a long run is: bars in a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_LINE_SECONDS = 30.0

T = TypeVar("T")


class Countdown:
    """Time left of a run of so many parts, from how long those took that are done.

    Args:
        parts: how many there are in all.
        done: how many of them were done before, such as in a run that was interrupted.
    """

    def __init__(self, parts: int, done: int = 0) -> None:
        self._parts, self._before = parts, done
        self._begun = time.monotonic()

    def skip(self) -> None:
        """One more part is done that took no time."""
        self._before += 1

    def left(self, done: int) -> str:
        """The time that is left once `done` parts are, as ``5:30:00``, ``05:30`` or ``?``."""
        if done <= self._before:
            return "?"
        each = (time.monotonic() - self._begun) / (done - self._before)
        return str(tqdm.format_interval(each * (self._parts - done)))


def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """`items`, with a bar or lines on standard error: how many are done, and the time left.

    Args:
        items: what is worked on, one after the other.
        description: what is being done.
        total: how many `items` there are.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, description, total, leave=False)
        return
    said = time.monotonic()
    countdown = Countdown(total)
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= _LINE_SECONDS:
            said = now
            say(f"{description}: {done} of {total}, {countdown.left(done)} left")


def say(message: str) -> None:
    """A line on standard error, above the bars that are there."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()
