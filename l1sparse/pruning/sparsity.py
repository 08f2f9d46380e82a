# SPDX-License-Identifier: MIT
"""Thresholds by target sparsity: a quantile of the norms, for one layer or over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from l1sparse.pruning.checks import Side, check_share, check_side, checked_mask
from l1sparse.pruning.threshold import Selection, falling_order


def select_by_sparsity(
    norms: Tensor,
    sizes: Tensor,
    sparsity: float,
    mask: Tensor | None = None,
    prune: Side = "below",
) -> Selection:
    """Prune so that the pruned share of the layer's WEIGHTS is as near as possible to `sparsity`.

    Groups fall in the order of their norms; equal norms fall in the order of the grid, so the
    result is the same on every run and every rank. Groups that `mask` prunes count as pruned. Of
    two equally near shares the smaller is taken.

    Args:
        norms: group L1 norms, of the group grid's shape.
        sizes: int, weights in each group (`group_sizes`), of the same shape.
        sparsity: share of the weights to prune, 0 to 1.
        mask: what is kept so far; None: everything.
        prune: ``"below"`` or ``"above"``.

    Raises:
        ValueError: if `sparsity` is outside 0..1, `prune` is unknown or shapes differ.
        TypeError: if `mask` is not bool.
    """
    masks = None if mask is None else {"": mask}
    return select_globally({"": norms}, {"": sizes}, sparsity, masks, prune)[""]


def select_globally(
    norms: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor],
    sparsity: float,
    masks: Mapping[str, Tensor] | None = None,
    prune: Side = "below",
) -> dict[str, Selection]:
    """As `select_by_sparsity`, with one threshold over the groups of all layers together.

    Args:
        norms: layer name to norms; `sizes` and `masks` have the same names. Equal norms fall in
            the order of this mapping.

    Raises:
        ValueError: as `select_by_sparsity`, or if the names differ.
        TypeError: if a mask is not bool.
    """
    check_share("sparsity", sparsity)
    check_side(prune)
    for argument, given in (("sizes", sizes), ("masks", norms if masks is None else masks)):
        if given.keys() != norms.keys():
            raise ValueError(
                f"{argument}: expected the layers of norms, {list(norms)}, got {list(given)}"
            )
    for name, layer_norms in norms.items():
        if sizes[name].shape != layer_norms.shape:
            raise ValueError(
                f"sizes: expected the shape of norms, {tuple(layer_norms.shape)}, "
                f"got {tuple(sizes[name].shape)}"
            )
    given_masks = {
        name: checked_mask(layer_norms, None if masks is None else masks[name])
        for name, layer_norms in norms.items()
    }
    all_norms, all_sizes, mask = (_flat(part) for part in (norms, sizes, given_masks))

    order = falling_order(all_norms, mask, prune)
    pruned_after = torch.cat([all_sizes[~mask].sum()[None], all_sizes[order]]).cumsum(0)
    count = _nearest(pruned_after, sparsity * float(all_sizes.sum()))
    threshold = _threshold_after(all_norms[order].tolist(), count, prune)
    mask = mask.clone()
    mask[order[:count]] = False

    parts = torch.split(mask, [layer_norms.numel() for layer_norms in norms.values()])
    return {
        name: Selection(part.reshape(layer_norms.shape).to(layer_norms.device), threshold)
        for (name, layer_norms), part in zip(norms.items(), parts, strict=True)
    }


def _flat(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten().cpu() for part in parts.values()])


def _nearest(rising: Tensor, wanted: float) -> int:
    """Index of the entry of strictly `rising` that is nearest to `wanted`; the lower of two."""
    above = int(torch.searchsorted(rising.double(), torch.tensor(wanted, dtype=torch.float64)))
    if above == 0:
        return 0
    if above == len(rising):
        return above - 1
    below = above - 1
    return above if rising[above] - wanted < wanted - rising[below] else below


def _threshold_after(falling_norms: list[float], count: int, prune: Side) -> float:
    """The norm of the first group kept, or just past the last pruned one if none is."""
    if count < len(falling_norms):
        return falling_norms[count]
    if not falling_norms:
        return 0.0
    return math.nextafter(falling_norms[-1], math.inf if prune == "below" else -math.inf)
