# SPDX-License-Identifier: MIT
"""Every operator again in plain torch: slow, obvious, any float dtype, differentiable.

The native kernels are tested against these functions, and a reader can learn from them what the
kernels compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.group_mask import sum_groups


def group_l1_norm(weight: Tensor, group: GroupShape | Sequence[int] | str) -> Tensor:
    """Mean absolute weight of every channel group.

    ``norm[i, j, y, x] = mean(|w|)`` over the weights of group ``(i, j)`` at tap ``(y, x)``; a
    shorter last group is averaged over the weights it has. (Claim 5 of CN111242287A; that the sum
    is divided by the group's own size is this project's choice.)

    Args:
        weight: ``[O, C, kH, kW]``, floating point.
        group: channel-group shape.

    Returns:
        ``[ceil(O / filters), ceil(C / channels), kH, kW]``, of the weight's dtype.
    """
    shape = GroupShape.of(group)
    sums = sum_groups(weight.abs(), shape)
    sizes = sum_groups(torch.ones_like(weight), shape)
    return sums / sizes


def sparse_conv2d(
    input: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    residual: Tensor | None = None,
    activation: str = "none",
    clamp: tuple[float, float] = (0.0, 6.0),
) -> Tensor:
    """Convolve with the weights that `mask` keeps, then add `residual`, then apply `activation`.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, kH, kW]``, dense.
        mask: bool, of the weight's shape; False marks a pruned weight.
        bias: ``[O]`` or None.
        residual: of the output's shape, or None.
        activation: see `activate`.
        clamp: see `activate`.
    """
    kept = torch.where(mask, weight, torch.zeros_like(weight))
    output = F.conv2d(input, kept, bias, tuple(stride), tuple(padding), tuple(dilation), groups)
    if residual is not None:
        output = output + residual
    return activate(output, activation, *clamp)


def activate(x: Tensor, activation: str, low: float = 0.0, high: float = 6.0) -> Tensor:
    """What `l1sparse.sparse_conv2d` does to its output last.

    Args:
        x: any shape, floating point.
        activation: ``"none"``, ``"relu"``, ``"relu6"``, ``"clamp"`` or ``"hardswish"``.
        low: least output of ``"clamp"``.
        high: greatest output of ``"clamp"``.

    Raises:
        KeyError: if `activation` is unknown.
    """
    return {
        "none": lambda: x,
        "relu": lambda: torch.relu(x),
        "relu6": lambda: F.relu6(x),
        "clamp": lambda: torch.clamp(x, low, high),
        "hardswish": lambda: F.hardswish(x),
    }[activation]()
