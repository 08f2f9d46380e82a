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
    sums = _sum_groups(weight.abs(), shape)
    sizes = _sum_groups(torch.ones_like(weight), shape)
    return sums / sizes


def expand_group_mask(
    grid_mask: Tensor, weight_shape: Sequence[int], group: GroupShape | Sequence[int] | str
) -> Tensor:
    """Repeat a mask of the group grid's shape over the weights of each group.

    Args:
        grid_mask: ``[ceil(O / filters), ceil(C / channels), kH, kW]``, any dtype.
        weight_shape: ``(O, C, kH, kW)``.
        group: channel-group shape.

    Returns:
        ``[O, C, kH, kW]``, of the mask's dtype.
    """
    shape = GroupShape.of(group)
    out_channels, in_channels = weight_shape[:2]
    full = grid_mask.repeat_interleave(shape.filters, dim=0)
    full = full.repeat_interleave(shape.channels, dim=1)
    return full[:out_channels, :in_channels]


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
) -> Tensor:
    """Convolve with the weights that `mask` keeps, then add `residual`, then apply `activation`.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C / groups, kH, kW]``, dense.
        mask: bool, of the weight's shape; False marks a pruned weight.
        bias: ``[O]`` or None.
        residual: of the output's shape, or None.
        activation: ``"none"`` or ``"relu"``.
    """
    kept = torch.where(mask, weight, torch.zeros_like(weight))
    output = F.conv2d(
        input, kept, bias, tuple(stride), tuple(padding), tuple(dilation), groups
    )
    if residual is not None:
        output = output + residual
    return torch.relu(output) if activation == "relu" else output


def _sum_groups(values: Tensor, shape: GroupShape) -> Tensor:
    rows, columns, height, width = shape.grid(values.shape)
    padded = F.pad(
        values,
        (0, 0, 0, 0)
        + (0, columns * shape.channels - values.shape[1])
        + (0, rows * shape.filters - values.shape[0]),
    )
    return padded.reshape(rows, shape.filters, columns, shape.channels, height, width).sum((1, 3))
