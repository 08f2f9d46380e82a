# SPDX-License-Identifier: MIT
"""Checks of arguments that several parts take; every error names the argument and its value."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Side = Literal["below", "above"]
"""Which side of the threshold is pruned. ``"below"`` prunes the small groups, as all magnitude
pruning does; ``"above"`` is the literal reading of claim 2."""


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless `alpha` is a positive finite number."""
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha: expected a finite number above 0, got {alpha!r}")


def check_share(argument: str, value: float) -> None:
    """Raise ValueError, naming `argument`, unless `value` is a fraction from 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{argument}: expected a fraction from 0 to 1, got {value!r}")


def check_side(prune: str) -> None:
    """Raise ValueError unless `prune` is a `Side`."""
    if prune not in get_args(Side):
        raise ValueError(f"prune: expected 'below' or 'above', got {prune!r}")


def checked_mask(norms: Tensor, mask: Tensor | None) -> Tensor:
    """`mask`, or one that keeps everything; TypeError or ValueError if it does not fit `norms`."""
    if mask is None:
        return torch.ones_like(norms, dtype=torch.bool)
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask: expected a torch.bool tensor (True keeps), got {mask.dtype}")
    if mask.shape != norms.shape:
        raise ValueError(
            f"mask: expected the shape of norms, {tuple(norms.shape)}, got {tuple(mask.shape)}"
        )
    return mask
