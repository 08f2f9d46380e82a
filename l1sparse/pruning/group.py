# SPDX-License-Identifier: MIT
"""The grid of channel groups over a conv weight: norms, sizes and counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.ops import group_l1_norm


def group_norms(weight: Tensor, group: GroupShape | Sequence[int] | str) -> Tensor:
    """Group L1 norm of every channel group, outside of autograd (claim 5).

    Args:
        weight: ``[O, C, kH, kW]``, floating point.
        group: channel-group shape.

    Returns:
        The group grid ``[ceil(O / filters), ceil(C / channels), kH, kW]``, mean of ``|w|``;
        float32, which is what the operator computes in, for a weight of any dtype.
    """
    with torch.no_grad():
        return group_l1_norm(weight.float(), group)


def group_sizes(
    weight_shape: Sequence[int],
    group: GroupShape | Sequence[int] | str,
    device: torch.device | str | None = None,
) -> Tensor:
    """Number of weights in each group; tail groups have fewer.

    Args:
        weight_shape: ``(O, C, kH, kW)``.
        group: channel-group shape.
        device: where the result lies.

    Returns:
        int64, of the group grid's shape.
    """
    shape = GroupShape.of(group)
    grid = shape.grid(weight_shape)
    filters = _extents(weight_shape[0], shape.filters, device)
    channels = _extents(weight_shape[1], shape.channels, device)
    return (filters[:, None] * channels[None, :])[:, :, None, None].expand(grid).contiguous()


def prunable_groups(norms: Tensor, mask: Tensor) -> Tensor:
    """Which groups may still be pruned: those not pruned yet whose norm is not NaN.

    Args:
        norms: group L1 norms, of the group grid's shape.
        mask: bool, of the group grid's shape; False marks a pruned group.

    Returns:
        bool, of the group grid's shape.
    """
    return mask & ~torch.isnan(norms)


def pruned_weights(
    mask: Tensor, weight_shape: Sequence[int], group: GroupShape | Sequence[int] | str
) -> int:
    """How many weights lie in the groups that `mask` prunes.

    Args:
        mask: bool, of the group grid's shape; False marks a pruned group.
        weight_shape: ``(O, C, kH, kW)``.
        group: channel-group shape.
    """
    return int(group_sizes(weight_shape, group, mask.device)[~mask].sum())


def zero_weights(weight: Tensor) -> int:
    """How many entries of `weight` are exactly zero (of either sign)."""
    return weight.numel() - int(torch.count_nonzero(weight.detach()))


def _extents(length: int, step: int, device: torch.device | str | None) -> Tensor:
    starts = torch.arange(0, length, step, device=device)
    return torch.clamp(length - starts, max=step)
