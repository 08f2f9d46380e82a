# SPDX-License-Identifier: MIT
"""The kernels on NumPy arrays, without torch.

``import l1sparse.runtime`` neither imports torch nor needs it. Arrays may have any strides and
alignment; what the kernels can't read in place is copied. Computation releases the interpreter's
lock and runs on the calling thread, so several threads may compute at the same time.
"""

from __future__ import annotations

import os

from l1sparse import _runtime
from l1sparse.runtime.file import load
from l1sparse.runtime.ops import Weight, conv2d, group_l1_norm, pack, unpack

try:
    _runtime.select_isa(os.environ.get("L1SPARSE_FORCE_ARCH", ""))
except ValueError as error:
    raise ValueError(
        f"L1SPARSE_FORCE_ARCH: got {os.environ['L1SPARSE_FORCE_ARCH']!r}: {error}"
    ) from None

__all__ = ["Weight", "conv2d", "group_l1_norm", "load", "pack", "unpack"]
