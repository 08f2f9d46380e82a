# SPDX-License-Identifier: MIT
"""One option for each layer, so that the sum of costs is least and another sum stays in a limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BINS = 4000


def choose(
    costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float
) -> list[int] | None:
    """The multiple-choice knapsack, by dynamic programming over a binned limit.

    Weights are rounded up to bins, so the limit holds exactly; what rounding wasted is then
    given to single layers, as long as that lowers the cost.

    Args:
        costs: per layer, the cost of each of its options.
        weights: likewise, what each takes of the limit; none is negative.
        limit: of the sum of weights.

    Returns:
        Per layer, the index of the option chosen; the first of several that are as good. None if
        no choice is within the limit.
    """
    if sum(min(layer) for layer in weights) > limit:
        return None
    chosen = _by_bins(costs, weights, limit)
    if chosen is None:  # only for the rounding
        chosen = [int(np.argmin(layer)) for layer in weights]
    return _polished(chosen, costs, weights, limit)


def _by_bins(
    costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float
) -> list[int] | None:
    unit = limit / _BINS if limit > 0 else 1.0
    # best[b]: least cost of the layers so far with at most b bins.
    best = np.zeros(_BINS + 1)
    choices = []
    for layer_costs, layer_weights in zip(costs, weights, strict=True):
        candidates = np.full((len(layer_costs), _BINS + 1), np.inf)
        for option, (cost, weight) in enumerate(zip(layer_costs, layer_weights, strict=True)):
            bins = int(np.ceil(weight / unit - 1e-9)) if limit > 0 or weight <= 0 else _BINS + 1
            if bins <= _BINS:
                candidates[option, bins:] = best[: _BINS + 1 - bins] + cost
        choices.append((candidates.argmin(0), layer_weights))
        best = candidates.min(0)
    if not np.isfinite(best[-1]):
        return None
    chosen, left = [], _BINS
    for options, layer_weights in reversed(choices):
        option = int(options[left])
        chosen.append(option)
        left -= int(np.ceil(layer_weights[option] / unit - 1e-9))
    return chosen[::-1]


def _polished(
    chosen: list[int],
    costs: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    limit: float,
) -> list[int]:
    """Move single layers to cheaper options while the limit allows, the largest gain first."""
    chosen = list(chosen)
    while True:
        used = sum(layer[option] for layer, option in zip(weights, chosen, strict=True))
        gains = [
            (costs[layer][chosen[layer]] - cost, layer, option)
            for layer in range(len(chosen))
            for option, cost in enumerate(costs[layer])
            if used - weights[layer][chosen[layer]] + weights[layer][option] <= limit
        ]
        gain, layer, option = max(gains, key=lambda each: each[0], default=(0.0, 0, 0))
        if gain <= 0:
            return chosen
        chosen[layer] = option
