# SPDX-License-Identifier: MIT
"""The machine that a benchmark runs on: what it is, and how it is kept still."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_DEFAULT_CACHE_BYTES = 32 << 20
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def last_level_cache_bytes(folder: Path = _CACHE) -> int:
    """Size of the largest cache; 32 MiB where the system does not tell."""
    sizes = []
    for file in folder.glob("index*/size"):
        text = file.read_text().strip()
        unit = _UNITS.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KMG")) * unit)
    return max(sizes, default=_DEFAULT_CACHE_BYTES)


def keep_freed_memory() -> bool:
    """Tell the C library to reuse freed memory instead of giving it back to the system.

    Candidates take turns. Without this, what one of them frees goes back to the system, and the
    next one's first call is charged for getting it again, page by page.

    Returns:
        Whether the C library can be told (glibc can).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold, most = -1, -3, 2**30  # names and numbers of <malloc.h>
    return bool(mallopt(trim_threshold, most)) and bool(mallopt(mmap_threshold, most))


@contextmanager
def threads(number: int) -> Iterator[int | None]:
    """Run torch on `number` threads; one thread stays on one core, where the system lets it.

    Yields:
        The core's number, or None. The last core of those allowed is taken: interrupts tend to
        go to the first. (``taskset`` allows others.)
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    allowed: set[int] | None = None
    core: int | None = None
    if number == 1 and hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        core = max(allowed)
        os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        torch.set_num_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def describe(isas: set[str], number: int, core: int | None) -> dict[str, Any]:
    """What every table and file of times has to say about their machine.

    Args:
        isas: instruction sets that the kernels ran on.
        number: threads.
        core: the one that the only thread was held to, or None.
    """
    return {
        "cpu": cpu_model(),
        "isa": ", ".join(sorted(isas)) or "none",
        "threads": number,
        "core": core,
        "torch": torch.__version__,
    }


def headline(machine: dict[str, Any]) -> str:
    """`describe` in a line."""
    number = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    where = "not pinned" if machine["core"] is None else f"pinned to core {machine['core']}"
    return f"{machine['cpu']}, {machine['isa']}, {number} ({where}), torch {machine['torch']}"
