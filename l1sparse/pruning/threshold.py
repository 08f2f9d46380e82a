# SPDX-License-Identifier: MIT
"""Which groups a threshold prunes: pure functions from norms to masks.

A mask is bool and of the group grid's shape; True keeps. A mask only ever extends: every function
that is given one returns a mask that keeps a subset of it. A group whose norm is NaN is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l1sparse.pruning.checks import Side, check_alpha, check_side, checked_mask
from l1sparse.pruning.group import prunable_groups


@dataclass(frozen=True)
class Selection:
    """A mask and the threshold that draws it.

    Attributes:
        mask: bool, of the group grid's shape; True keeps.
        threshold: groups with a norm on the pruned side of it are pruned; a norm equal to it may
            be on either side only where several groups have that same norm.
    """

    mask: Tensor
    threshold: float


def claims_threshold(weight: Tensor, alpha: float = 1.0) -> float:
    """``theta = alpha * (1 / all) * sum |w_j|`` over all weights, zeros included (claim 5).

    Because pruned zeros count, theta falls as pruning goes on. `alpha`, one per layer (claim 6),
    is this project's choice.

    Args:
        weight: any shape, floating point.
        alpha: factor, > 0.

    Raises:
        ValueError: if `alpha` is not a positive finite number, or `weight` is empty or holds NaN
            or an infinity (theta would be one too, and the mask meaningless).
    """
    check_alpha(alpha)
    if weight.numel() == 0:
        raise ValueError(f"weight: has no elements (shape {tuple(weight.shape)}), so no mean")
    mean = float(weight.detach().abs().double().mean())
    if not math.isfinite(mean):
        bad = int((~torch.isfinite(weight.detach())).sum())
        raise ValueError(
            f"weight: {bad} of {weight.numel()} values are NaN or infinite, so theta would be "
            f"{alpha * mean}; every value must be finite"
        )
    return alpha * mean


def select_by_threshold(
    norms: Tensor, threshold: float, mask: Tensor | None = None, prune: Side = "below"
) -> Tensor:
    """The mask after pruning every group on the `prune` side of `threshold`.

    Args:
        norms: group L1 norms, of the group grid's shape.
        threshold: theta, in the unit of the norms; a norm equal to it is kept.
        mask: what is kept so far; None: everything.
        prune: ``"below"``, or ``"above"`` for the literal reading of claim 2.

    Raises:
        ValueError: if `prune` is neither, or the shapes differ.
        TypeError: if `mask` is not bool.
    """
    check_side(prune)
    mask = checked_mask(norms, mask)
    # In float64: in the norms' own precision a threshold next to a norm would round onto it.
    exact = norms.double()
    beyond = exact < threshold if prune == "below" else exact > threshold
    return mask & ~beyond


def limit_selection(
    selection: Tensor, mask: Tensor, norms: Tensor, sizes: Tensor, most: int, prune: Side = "below"
) -> Tensor:
    """Of the groups that `selection` newly prunes, prune only the first ones to fall.

    Args:
        selection: the mask wished for, of the group grid's shape; keeps a subset of `mask`.
        mask: what is kept so far.
        norms: group L1 norms.
        sizes: int, weights in each group.
        most: most weights to prune beyond `mask`.
        prune: ``"below"`` or ``"above"``.

    Returns:
        The mask after the longest run of groups, in falling order, with at most `most` weights.
    """
    order = falling_order(norms.flatten(), (mask & ~selection).flatten(), prune)
    within = sizes.flatten()[order].cumsum(0) <= most
    limited = mask.flatten().clone()
    limited[order[within]] = False
    return limited.reshape(mask.shape)


def falling_order(norms: Tensor, mask: Tensor, prune: Side) -> Tensor:
    """Indices of the prunable groups, first to fall first; equal norms keep the grid's order.

    Args:
        norms: ``[groups]``.
        mask: bool ``[groups]``; only groups that it keeps, and whose norm is not NaN, are listed.
        prune: ``"below"`` or ``"above"``.
    """
    candidates = prunable_groups(norms, mask).nonzero()[:, 0]
    falling = torch.argsort(norms[candidates], stable=True, descending=prune == "above")
    return candidates[falling]
