# SPDX-License-Identifier: MIT
"""Sensitivity of a layer: accuracy lost when that layer ALONE is pruned, without retraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from l1sparse.format import GroupShape
from l1sparse.group_mask import expand_group_mask
from l1sparse.pruning.callables import Evaluate, Progress, Recalibrate, measure_accuracy, silent
from l1sparse.pruning.checks import Side, check_share, check_side
from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.layers import unprunable_reason
from l1sparse.pruning.mask import companion_mask, raw_weight
from l1sparse.pruning.snapshot import Snapshot
from l1sparse.pruning.sparsity import select_by_sparsity


@dataclass(frozen=True)
class SensitivityPoint:
    """One point of a layer's curve; all three are fractions of 1.

    Attributes:
        sparsity: the share of the layer's weights that was asked to be pruned.
        pruned: the share that was pruned: as near as whole groups come to it.
        accuracy: of the network with this layer alone pruned.
    """

    sparsity: float
    pruned: float
    accuracy: float


@dataclass(frozen=True)
class LayerSensitivity:
    """What pruning one layer alone costs.

    Attributes:
        name: the layer's `named_modules` name.
        group: its channel-group shape.
        base_accuracy: of the network as it was.
        curve: one point a sparsity, ascending; empty if the layer cannot be pruned.
        sensitivity: ``base_accuracy - accuracy`` at the sparsity named for ordering; None if the
            layer cannot be pruned.
        reason: why the layer cannot be pruned, or None.
    """

    name: str
    group: GroupShape
    base_accuracy: float
    curve: tuple[SensitivityPoint, ...]
    sensitivity: float | None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values; the group as ``"1x8"``."""
        return {**asdict(self), "group": str(self.group), "curve": [asdict(p) for p in self.curve]}


def measure_sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    layers: Iterable[str],
    group: GroupShape | Sequence[int] | str | Mapping[str, GroupShape | Sequence[int] | str],
    sparsities: Sequence[float] = (0.25, 0.5, 0.75),
    at: float = 0.5,
    *,
    prune: Side = "below",
    recalibrate: Recalibrate | None = None,
    on_progress: Progress = silent,
) -> list[LayerSensitivity]:
    """Prune each layer alone to several sparsities and measure the network's accuracy each time.

    Parameters and buffers are bit for bit what they were when this returns, and also when
    anything in it raises (an interrupt from the keyboard included).

    Args:
        model: any module with `nn.Conv2d` layers.
        evaluate: accuracy of the model, a fraction of 1; called once for the base accuracy and
            once a layer and sparsity.
        layers: `named_modules` names; `conv_layers(model)` gives all.
        group: the channel-group shape of all layers, or a mapping with one for each (claim 6).
        sparsities: shares of a layer's weights to prune.
        at: the one of `sparsities` whose loss of accuracy is the layer's sensitivity.
        prune: the side of the threshold that is pruned.
        recalibrate: called after each pruning, before its accuracy is measured.
        on_progress: called once a measurement.

    Returns:
        One record a layer, in the order of `layers`. A layer that cannot be pruned has a `reason`
        and no sensitivity.

    Raises:
        ValueError: if `layers` is empty or names one twice, `group` is not a group shape or lacks
            a layer, a sparsity is outside 0..1, `at` is not among them, or `evaluate` returns
            anything but a fraction.
    """
    names = list(layers)
    groups = _groups_of(names, group)
    _check_sparsities(sparsities, at)
    check_side(prune)

    untouched = Snapshot(model)
    try:
        base_accuracy = measure_accuracy(evaluate, model)
        on_progress(f"base accuracy {base_accuracy:.4f}")
        records = []
        for name in names:
            reason = unprunable_reason(model, name)
            curve: list[SensitivityPoint] = []
            for sparsity in () if reason else sorted(sparsities):
                untouched.restore()
                pruned = _prune_alone(model.get_submodule(name), groups[name], sparsity, prune)
                if recalibrate is not None:
                    recalibrate(model)
                accuracy = measure_accuracy(evaluate, model)
                curve.append(SensitivityPoint(sparsity, pruned, accuracy))
                on_progress(f"{name} at {pruned:.0%}: accuracy {accuracy:.4f}")
            drops = {point.sparsity: base_accuracy - point.accuracy for point in curve}
            records.append(
                LayerSensitivity(
                    name, groups[name], base_accuracy, tuple(curve), drops.get(at), reason
                )
            )
        return records
    finally:
        untouched.restore()


def order_layers(sensitivities: Iterable[LayerSensitivity]) -> list[LayerSensitivity]:
    """The layers that can be pruned, from most to least sensitive; ties keep their order."""
    measured = [(record.sensitivity, record) for record in sensitivities]
    comparable = [(value, record) for value, record in measured if value is not None]
    return [record for _, record in sorted(comparable, key=lambda pair: -pair[0])]


def _prune_alone(module: nn.Module, group: GroupShape, sparsity: float, prune: Side) -> float:
    assert isinstance(module, nn.Conv2d)
    weight = raw_weight(module)
    companion = companion_mask(module)
    norms = group_norms(module.weight, group)
    sizes = group_sizes(weight.shape, group, norms.device)
    kept = None if companion is None or companion.group != group else companion.mask
    selection = select_by_sparsity(norms, sizes, sparsity, kept, prune)
    with torch.no_grad():
        weight.masked_fill_(~expand_group_mask(selection.mask, weight.shape, group), 0.0)
    return float(sizes[~selection.mask].sum() / sizes.sum())


def _groups_of(names: Sequence[str], group: object) -> dict[str, GroupShape]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise ValueError(f"layers: expected at least one name, each once; got {names}")
    if not isinstance(group, Mapping):
        return dict.fromkeys(names, GroupShape.of(group))  # type: ignore[arg-type]
    missing = [name for name in names if name not in group]
    if missing:
        raise ValueError(f"group: expected a group shape for every layer, none for {missing}")
    return {name: GroupShape.of(group[name]) for name in names}


def _check_sparsities(sparsities: Sequence[float], at: float) -> None:
    for sparsity in sparsities:
        check_share("sparsities", sparsity)
    if at not in sparsities:
        raise ValueError(f"at: expected one of the sparsities {tuple(sparsities)}, got {at!r}")
