# SPDX-License-Identifier: MIT
"""What the loop did: records that become JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from l1sparse.pruning.group import zero_weights
from l1sparse.pruning.layers import conv_layers
from l1sparse.pruning.split import LayerSplit
from l1sparse.version import installed_version


@dataclass(frozen=True)
class PruneStep:
    """One step in which groups were pruned: a layer's turn, or all layers at once.

    Attributes:
        pass_number: of the pass over the layers, from 1; of the step, where all go at once.
        layer: the layer's name; None: all layers to prune at once.
        threshold: theta, in the unit of the weights; None where it is not finite, or every layer
            has its own.
        pruned_weights: how many weights were pruned.
        density: share of the layer's weights (or of all layers to prune) that the masks kept
            after it.
        accuracy_pruned: of the network before retraining.
        accuracy: of the network after the last round.
        rounds: rounds of retraining that were used.
        accepted: False if the target was missed and the step rolled back.
    """

    pass_number: int
    layer: str | None
    threshold: float | None
    pruned_weights: int
    density: float
    accuracy_pruned: float
    accuracy: float
    rounds: int
    accepted: bool


@dataclass(frozen=True)
class RoundRecord:
    """The network after one round of training. Accuracies and shares are fractions of 1.

    Attributes:
        round: its number, from 1; 0 is the network as it was given.
        phase: ``"baseline"``, ``"retrain"`` after a step, or ``"fine-tune"`` once pruning ended.
        layer: whose step it was for; None where it was for all.
        accuracy: on held-out data; None if it was NaN.
        loss: on held-out data; None where `evaluate` gives none, or it was not finite.
        train_loss: as `train` returned it; None where it returned none, or it was not finite.
        pruned_share: zero conv weights over all conv weights, as trained in this round; a step
            may have been rolled back afterwards.
    """

    round: int
    phase: str
    layer: str | None
    accuracy: float | None
    loss: float | None
    train_loss: float | None
    pruned_share: float


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
    """What the run did. Accuracies and shares are fractions of 1.

    Attributes:
        target_accuracy: as planned.
        base_accuracy: of the network as it was given.
        accuracy: of the network as it was left.
        pruned_share: zero conv weights over all conv weights of the network.
        ended: why the pruning ended.
        passes: passes over the layers, the unfinished one included; steps, where all layers go
            at once.
        rounds: rounds of training in all.
        layers: one record a conv layer of the network, in its order.
        steps: in order of time.
        history: one record a round, in order of time; the first is the network as given.
        activations: each conv layer's data while the network as given was evaluated (claim 4):
            layer name to `LayerActivations.to_dict`; empty if `evaluate` did not run them.
        diverged: a loss or accuracy was no finite number; the last good state was kept.
        base_loss: on held-out data, of the network as it was given; None if not known.
        loss: of the network as it was left.
        plan: `PrunePlan.to_dict`.
        ranks: how many processes worked together.
        versions: of l1sparse, torch and python.
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
    history: tuple[RoundRecord, ...] = ()
    activations: dict[str, Any] = field(default_factory=dict)
    diverged: bool = False
    base_loss: float | None = None
    loss: float | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    ranks: int = 1
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values, and ``target_reached``."""
        return {**asdict(self), "target_reached": self.accuracy >= self.target_accuracy}


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


def versions() -> dict[str, str]:
    """Of what the result depends upon."""
    return {
        "l1sparse": installed_version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def finite_or_none(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None
