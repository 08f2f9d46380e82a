# SPDX-License-Identifier: MIT
"""Tells torch that `l1sparse.gpu.run` has the operators for CUDA tensors."""

from __future__ import annotations

import torch

from l1sparse import _C as _C  # importing it defines the operators
from l1sparse.gpu import run


def register() -> None:
    """Once, when the package is imported; needs neither a GPU nor a CUDA build of torch."""
    for name in ("sparse_conv2d", "group_l1_norm", "pack", "unpack", "packed_info"):
        torch.library.impl(f"l1sparse::{name}", "CUDA")(getattr(run, name))
