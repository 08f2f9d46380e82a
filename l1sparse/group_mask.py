# SPDX-License-Identifier: MIT
"""Masks on the group grid, in plain torch: any dtype, any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l1sparse.format import GroupShape


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
    shape = _within(GroupShape.of(group), weight_shape)
    out_channels, in_channels = weight_shape[:2]
    full = grid_mask.repeat_interleave(shape.filters, dim=0)
    full = full.repeat_interleave(shape.channels, dim=1)
    return full[:out_channels, :in_channels]


def as_grid_mask(
    mask: Tensor,
    weight_shape: Sequence[int],
    group: GroupShape | Sequence[int] | str,
    argument: str = "mask",
) -> Tensor:
    """Check a mask and bring it to the group grid.

    Args:
        mask: bool, of the group grid's shape or of the weight's; True keeps.
        weight_shape: ``(O, C, kH, kW)``.
        group: channel-group shape.
        argument: the name under which the caller knows `mask`, for errors.

    Returns:
        bool, of the group grid's shape.

    Raises:
        TypeError: if `mask` is not a bool tensor.
        ValueError: if its shape is neither of the two, or it keeps a part of a group only.
    """
    shape = GroupShape.of(group)
    grid, full = shape.grid(weight_shape), tuple(weight_shape)
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{argument}: expected a torch.bool tensor (True keeps), got {found}")
    if mask.shape == grid:
        return mask
    if mask.shape != full:
        raise ValueError(
            f"{argument}: expected the shape of the {shape} group grid, {grid}, or of the weight, "
            f"{full}; got {tuple(mask.shape)}"
        )
    grid_mask = mask[:: shape.filters, :: shape.channels]
    cut = expand_group_mask(grid_mask, full, shape) != mask
    if cut.any():
        filter_, channel, row, column = cut.nonzero()[0].tolist()
        raise ValueError(
            f"{argument}: cuts through a {shape} group at weight "
            f"[{filter_}, {channel}, {row}, {column}], which is {mask[cut][0].item()} while the "
            "group's first weight is not; all weights of a group must have one value"
        )
    return grid_mask


def nonzero_groups(weight: Tensor, group: GroupShape | Sequence[int] | str) -> Tensor:
    """Which groups have a weight other than zero (NaN counts as one).

    Args:
        weight: ``[O, C, kH, kW]``.
        group: channel-group shape.

    Returns:
        bool, of the group grid's shape.
    """
    return sum_groups((weight.detach() != 0).to(torch.float32), GroupShape.of(group)) > 0


def sum_groups(values: Tensor, shape: GroupShape) -> Tensor:
    """Sum of `values` over each group.

    Args:
        values: ``[O, C, kH, kW]``.
        shape: channel-group shape.

    Returns:
        Of the group grid's shape and the values' dtype.
    """
    shape = _within(shape, values.shape)
    rows, columns, height, width = shape.grid(values.shape)
    missing_channels = columns * shape.channels - values.shape[1]
    missing_filters = rows * shape.filters - values.shape[0]
    padded = F.pad(values, (0, 0, 0, 0, 0, missing_channels, 0, missing_filters))
    return padded.reshape(rows, shape.filters, columns, shape.channels, height, width).sum((1, 3))


def _within(shape: GroupShape, weight_shape: Sequence[int]) -> GroupShape:
    """The shape that groups have in a weight: of more filters or channels than it has, all.

    The grid is the same. Memory would else grow with the group and not with the weight.
    """
    filters, channels = (max(1, size) for size in weight_shape[:2])
    if shape.filters <= filters and shape.channels <= channels:
        return shape
    return GroupShape(min(shape.filters, filters), min(shape.channels, channels))
