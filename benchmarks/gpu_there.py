# SPDX-License-Identifier: MIT
"""Ends with 0 where the NVIDIA driver has a GPU, else with 2 and a line; needs nothing but Python.

``make gpu-check`` asks first, before it spends minutes on a build that could not be checked.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any


def why_none(load: Callable[[str], Any] = ctypes.CDLL) -> str | None:
    """Why there is no GPU, or None where there is one.

    Args:
        load: opens a library.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit: error {status})"
    number = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(number))
    if status != 0 or number.value < 1:
        return f"the NVIDIA driver has no GPU (cuDeviceGetCount: error {status})"
    return None


if __name__ == "__main__":
    reason = why_none()
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        sys.exit(2)
