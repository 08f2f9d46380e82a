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
    begun = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= _LINE_SECONDS:
            said = now
            left = tqdm.format_interval((now - begun) / done * (total - done))
            say(f"{description}: {done} of {total}, {left} left")


def say(message: str) -> None:
    """A line on standard error, above the bars that are there."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()
