# SPDX-License-Identifier: MIT
"""From a target sparsity of the network to masks of its layers: per layer or over all of them.

The strategies other than the method prune by these; all of them are pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from l1sparse.pruning.checks import Side
from l1sparse.pruning.sparsity import select_by_sparsity, select_globally
from l1sparse.pruning.threshold import limit_selection


@dataclass(frozen=True)
class PrunableLayer:
    """What has to be known of a layer to draw its mask.

    Attributes:
        norms: group L1 norms, of the group grid's shape.
        sizes: int, weights in each group.
        mask: bool; what is kept so far.
        max_sparsity: most share of its weights to prune.
    """

    norms: Tensor
    sizes: Tensor
    mask: Tensor
    max_sparsity: float = 1.0

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return int(self.sizes.sum())

    def pruned(self, mask: Tensor) -> int:
        """How many of its weights `mask` prunes."""
        return int(self.sizes[~mask].sum())


def cubic_rise(steps: int) -> list[float]:
    """Shares of the final sparsity after each step: ``1 - (1 - i/steps)^3`` (Zhu & Gupta 2017)."""
    return [1.0 - (1.0 - step / steps) ** 3 for step in range(1, steps + 1)]


def even_shares(
    wanted: float, weights: Mapping[str, int], most: Mapping[str, float]
) -> dict[str, float]:
    """One sparsity for all layers that prunes `wanted` weights in all.

    Args:
        wanted: how many weights to prune.
        weights: layer name to its number of weights.
        most: layer name to the most share to prune; what a layer cannot give, the others do.

    Returns:
        Layer name to the share to prune.
    """
    shares: dict[str, float] = {}
    # The layers with the least to give first; those left then share what is left evenly.
    order = sorted(weights, key=lambda name: most[name])
    left, free = wanted, sum(weights.values())
    for name in order:
        share = min(most[name], left / free if free else 0.0)
        shares[name] = share
        left -= share * weights[name]
        free -= weights[name]
    return shares


def select_each(
    layers: Mapping[str, PrunableLayer], shares: Mapping[str, float], prune: Side
) -> dict[str, Tensor]:
    """Masks that prune each layer to its own share, as near as whole groups come to it."""
    masks = {}
    for name, layer in layers.items():
        wished = select_by_sparsity(layer.norms, layer.sizes, shares[name], layer.mask, prune).mask
        masks[name] = _capped(layer, wished, prune)
    return masks


def select_over_all(
    layers: Mapping[str, PrunableLayer], wanted: float, prune: Side
) -> dict[str, Tensor]:
    """Masks by one threshold over all layers that prune `wanted` weights in all.

    A layer that the threshold would take beyond its `max_sparsity` is pruned to that, and the
    threshold drawn anew over the others.
    """
    masks: dict[str, Tensor] = {}
    free = dict(layers)
    while free:
        total = sum(layer.weights for layer in free.values())
        selections = select_globally(
            {name: layer.norms for name, layer in free.items()},
            {name: layer.sizes for name, layer in free.items()},
            min(1.0, max(0.0, wanted / total)),
            {name: layer.mask for name, layer in free.items()},
            prune,
        )
        wished = {name: selection.mask for name, selection in selections.items()}
        capped = {name: _capped(layer, wished[name], prune) for name, layer in free.items()}
        over = [name for name in free if not capped[name].equal(wished[name])]
        if not over:
            return masks | wished
        for name in over:
            masks[name] = capped[name]
            wanted -= free.pop(name).pruned(capped[name])
    return masks


def _capped(layer: PrunableLayer, wished: Tensor, prune: Side) -> Tensor:
    """`wished`, or what of it stays within the layer's `max_sparsity`."""
    most = int(layer.max_sparsity * layer.weights)
    if layer.pruned(wished) <= most:
        return wished
    room = most - layer.pruned(layer.mask)
    return limit_selection(wished, layer.mask, layer.norms, layer.sizes, room, prune)
