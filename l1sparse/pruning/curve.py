# SPDX-License-Identifier: MIT
"""The record of one layer's sensitivity: what pruning it alone costs, at several sparsities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from l1sparse.format import GroupShape
from l1sparse.pruning.checks import Side


@dataclass(frozen=True)
class SensitivityPoint:
    """One point of a layer's curve; shares and accuracy are fractions of 1.

    Attributes:
        sparsity: the share of the layer's weights that was asked to be pruned.
        pruned: the share that was pruned: as near as whole groups come to it.
        accuracy: of the network with this layer alone pruned.
        loss: likewise; None where `evaluate` gives none.
    """

    sparsity: float
    pruned: float
    accuracy: float
    loss: float | None = None


@dataclass(frozen=True)
class LayerSensitivity:
    """What pruning one layer alone costs.

    Attributes:
        name: the layer's `named_modules` name.
        group: its channel-group shape.
        base_accuracy: of the network as it was; None if nothing was measured.
        curve: one point a sparsity, ascending; empty if the layer cannot be pruned.
        sensitivity: ``base_accuracy - accuracy`` at the sparsity named for ordering; None if the
            layer cannot be pruned or nothing was measured.
        reason: why the layer cannot be pruned, or None.
        base_loss: of the network as it was; None where `evaluate` gives none.
        recalibrated: whether batch-norm statistics were re-estimated after each pruning.
        prune: the side of the threshold that was pruned.
    """

    name: str
    group: GroupShape
    base_accuracy: float | None
    curve: tuple[SensitivityPoint, ...]
    sensitivity: float | None
    reason: str | None = None
    base_loss: float | None = None
    recalibrated: bool = False
    prune: Side = "below"

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values; the group as ``"1x8"``."""
        return {**asdict(self), "group": str(self.group), "curve": [asdict(p) for p in self.curve]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerSensitivity:
        """The record that `to_dict` wrote."""
        curve = tuple(SensitivityPoint(**point) for point in values["curve"])
        return cls(**{**values, "group": GroupShape.of(values["group"]), "curve": curve})


def order_layers(sensitivities: Iterable[LayerSensitivity]) -> list[LayerSensitivity]:
    """The layers that can be pruned, from most to least sensitive; ties keep their order."""
    measured = [(record.sensitivity, record) for record in sensitivities]
    comparable = [(value, record) for value, record in measured if value is not None]
    return [record for _, record in sorted(comparable, key=lambda pair: -pair[0])]


def curve_rows(sensitivities: Iterable[LayerSensitivity]) -> list[dict[str, Any]]:
    """One flat row a point of a curve, for a CSV file; a layer without a curve has one row."""
    rows = []
    for record in sensitivities:
        head = {"layer": record.name, "group": str(record.group)}
        tail = {
            "base_accuracy": record.base_accuracy,
            "base_loss": record.base_loss,
            "sensitivity": record.sensitivity,
            "recalibrated": record.recalibrated,
            "side": record.prune,
            "reason": record.reason,
        }
        blank = {"sparsity": None, "pruned": None, "accuracy": None, "loss": None}
        points = [asdict(point) for point in record.curve] or [blank]
        rows += [{**head, **point, **tail} for point in points]
    return rows
