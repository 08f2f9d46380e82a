# SPDX-License-Identifier: MIT
"""What the loop did: records that become JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from l1sparse.pruning.group import zero_weights
from l1sparse.pruning.layers import conv_layers
from l1sparse.pruning.split import LayerSplit


@dataclass(frozen=True)
class PruneStep:
    """One layer's turn in which groups were pruned.

    Attributes:
        pass_number: of the pass over the layers, from 1.
        layer: the layer's name.
        threshold: theta, in the unit of the weights; None where it is not finite.
        pruned_weights: how many weights were pruned.
        density: share of the layer's weights that the mask kept after it.
        accuracy_pruned: of the network before retraining.
        accuracy: of the network after the last round.
        rounds: rounds of retraining that were used.
        accepted: False if the target was missed and the step rolled back.
    """

    pass_number: int
    layer: str
    threshold: float | None
    pruned_weights: int
    density: float
    accuracy_pruned: float
    accuracy: float
    rounds: int
    accepted: bool


@dataclass(frozen=True)
class LayerRecord:
    """How one conv layer of the network ended.

    Attributes:
        name: `named_modules` name.
        group: group shape, such as ``"1x8"``; None for a layer that the plan does not name.
        sensitivity: as it was measured; None where it was not.
        threshold: theta of the layer's last turn, accepted or not; None if it had none.
        weights: number of weights.
        density: share of the weights that are not zero.
        closed: why the layer was pruned no further.
    """

    name: str
    group: str | None
    sensitivity: float | None
    threshold: float | None
    weights: int
    density: float
    closed: str


@dataclass(frozen=True)
class PruneResult:
    """What the loop did. Accuracies and shares are fractions of 1.

    Attributes:
        target_accuracy: as planned.
        base_accuracy: of the network as it was given.
        accuracy: of the network as it was left.
        pruned_share: zero conv weights over all conv weights of the network.
        ended: why the loop ended.
        passes: passes over the layers, the unfinished one included.
        rounds: rounds of retraining in all.
        layers: one record a conv layer of the network, in its order.
        steps: in order of time.
    """

    target_accuracy: float
    base_accuracy: float
    accuracy: float
    pruned_share: float
    ended: str
    passes: int
    rounds: int
    layers: tuple[LayerRecord, ...]
    steps: tuple[PruneStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return asdict(self)


def layer_records(
    model: nn.Module,
    split: LayerSplit,
    thresholds: Mapping[str, float | None],
    closed: Mapping[str, str],
) -> tuple[LayerRecord, ...]:
    """One record for every conv layer of `model`, those outside of `split` included.

    Args:
        thresholds: theta of the last turn of each layer to prune.
        closed: why each layer to prune was pruned no further.
    """
    measured = {record.name: record for record in split.prune}
    measured |= {kept.sensitivity.name: kept.sensitivity for kept in split.kept}
    reasons = {kept.sensitivity.name: kept.reason for kept in split.kept} | dict(closed)
    records = []
    for name, conv in conv_layers(model).items():
        sensitivity = measured.get(name)
        weights = conv.weight.numel()
        records.append(
            LayerRecord(
                name=name,
                group=None if sensitivity is None else str(sensitivity.group),
                sensitivity=None if sensitivity is None else sensitivity.sensitivity,
                threshold=thresholds.get(name),
                weights=weights,
                density=1.0 - zero_weights(conv.weight) / weights,
                closed=reasons.get(name, "not in the plan"),
            )
        )
    return tuple(records)


def finite_or_none(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
