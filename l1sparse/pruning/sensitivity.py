# SPDX-License-Identifier: MIT
"""Sensitivity of a layer: accuracy lost when that layer ALONE is pruned, without retraining."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from l1sparse.format import GroupShape
from l1sparse.group_mask import expand_group_mask
from l1sparse.pruning import ranks
from l1sparse.pruning.callables import (
    Evaluate,
    Evaluation,
    Progress,
    Recalibrate,
    measure,
    silent,
)
from l1sparse.pruning.checks import Side, check_share, check_side
from l1sparse.pruning.curve import LayerSensitivity, SensitivityPoint
from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.layers import (
    conv_layers,
    group_too_large,
    layer_candidates,
    unprunable_reason,
)
from l1sparse.pruning.mask import companion_mask, raw_weight
from l1sparse.pruning.snapshot import Snapshot
from l1sparse.pruning.sparsity import select_by_sparsity

GroupLike = GroupShape | Sequence[int] | str

_SEED = 0
_SAME_ACCURACY = 0.005  # more than evaluation on another device differs by


def measure_sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    layers: Iterable[str] | None,
    group: GroupLike | Mapping[str, GroupLike],
    sparsities: Sequence[float] = (0.25, 0.5, 0.75),
    at: float = 0.5,
    *,
    prune: Side = "below",
    recalibrate: Recalibrate | None = None,
    on_progress: Progress = silent,
    done: Iterable[LayerSensitivity] = (),
    on_layer: Callable[[LayerSensitivity], object] | None = None,
    split_over_ranks: bool = False,
) -> list[LayerSensitivity]:
    """Prune each layer alone to several sparsities and measure the network's accuracy each time.

    Parameters and buffers are bit for bit what they were when this returns, and also when
    anything in it raises (an interrupt from the keyboard included). Every measurement starts from
    the same random seed, and leaves the caller's random state alone: a record depends neither on
    the order of the layers, nor on an interruption, nor on how many processes share the work.

    Args:
        model: any module with `nn.Conv2d` layers.
        evaluate: accuracy of the model, a fraction of 1, or an `Evaluation` with the loss; called
            once for the base accuracy and once a layer and sparsity.
        layers: `named_modules` names; None: all that `layer_candidates` lists.
        group: the channel-group shape of all layers, or a mapping with one for each (claim 6).
        sparsities: shares of a layer's weights to prune.
        at: the one of `sparsities` whose loss of accuracy is the layer's sensitivity.
        prune: the side of the threshold that is pruned.
        recalibrate: called after each pruning, before its accuracy is measured.
        on_progress: called once a measurement.
        done: records of layers that need not be measured again, from `on_layer` of a run that
            was interrupted.
        on_layer: called with each new record, in its turn.
        split_over_ranks: let the processes of `torch.distributed` measure different layers at a
            time. `evaluate` and `recalibrate` then run for one rank alone, on all of the data;
            without it every rank measures every layer, and they may share the data. Either way
            the records are the same on all ranks.

    Returns:
        One record a layer, in the order of `layers`. A layer that cannot be pruned, has fewer
        input channels than its group, or is never run by `evaluate`, has a `reason` and no
        sensitivity.

    Raises:
        ValueError: if `model` has no layer, `layers` is empty or names one twice, `group` is not a
            group shape or lacks a layer, a sparsity is outside 0..1, `at` is not among them,
            `evaluate` returns anything but a fraction, or `done` was measured otherwise or on
            another model.
        RuntimeError: if another rank failed.
    """
    names = layer_candidates(model) if layers is None else list(layers)
    if layers is None and not names:
        raise ValueError(f"model: this {type(model).__name__} has no convolution to prune")
    groups = _groups_of(names, group)
    _check_sparsities(sparsities, at)
    check_side(prune)
    reasons = {name: unprunable_reason(model, name) for name in names}
    for name in names:
        reasons[name] = reasons[name] or group_too_large(model, name, groups[name])
    records = {record.name: record for record in done}
    for record in records.values():
        _check_done(record, groups, sorted(sparsities), prune, recalibrate is not None)
    left = [name for name in names if name not in records]
    if not left:
        return [records[name] for name in names]

    def take(record: LayerSensitivity) -> None:
        records[record.name] = record
        if on_layer is not None:
            on_layer(record)

    untouched = Snapshot(model)
    try:
        with _same_random_numbers(model), _layers_that_run(model) as ran:
            base = _base_of(records.values(), measure(evaluate, model))
        on_progress(f"base accuracy {base.accuracy:.4f}")
        meter = _Meter(
            model, evaluate, recalibrate, on_progress, untouched, base, sorted(sparsities), at,
            prune, split_over_ranks,
        )  # fmt: skip
        for name in left:
            reason = reasons[name] or _not_run(name, ran)
            if reason is not None:
                take(meter.record(name, groups[name], reason=reason))
        left = [name for name in left if name not in records]
        width = ranks.count() if split_over_ranks else 1
        for start in range(0, len(left), width):
            for record in meter.measured(left[start : start + width], groups):
                take(record)
        return [records[name] for name in names]
    finally:
        untouched.restore()


@dataclass
class _Meter:
    model: nn.Module
    evaluate: Evaluate
    recalibrate: Recalibrate | None
    on_progress: Progress
    untouched: Snapshot
    base: Evaluation
    sparsities: Sequence[float]
    at: float
    prune: Side
    alone: bool

    def record(
        self,
        name: str,
        group: GroupShape,
        curve: Sequence[SensitivityPoint] = (),
        reason: str | None = None,
    ) -> LayerSensitivity:
        drops = {point.sparsity: self.base.accuracy - point.accuracy for point in curve}
        return LayerSensitivity(
            name=name,
            group=group,
            base_accuracy=self.base.accuracy,
            curve=tuple(curve),
            sensitivity=drops.get(self.at),
            reason=reason,
            base_loss=self.base.loss,
            recalibrated=self.recalibrate is not None,
            prune=self.prune,
        )

    def measured(
        self, names: Sequence[str], groups: Mapping[str, GroupShape]
    ) -> list[LayerSensitivity]:
        """The records of `names`: of one layer by all ranks, or of one layer by each rank."""
        if not self.alone:
            return [self._measure(name, groups[name]) for name in names]
        record = failure = None
        try:
            if ranks.rank() < len(names):
                name = names[ranks.rank()]
                record = self._measure(name, groups[name])
        except Exception as error:  # told to the other ranks, which would wait for ever
            failure = error
        outcomes = ranks.of_all((record, None if failure is None else repr(failure)))
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(outcomes):
            if message is not None:
                raise RuntimeError(f"sensitivity: rank {rank} failed with {message}")
        return [found for found, _ in outcomes if found is not None]

    def _measure(self, name: str, group: GroupShape) -> LayerSensitivity:
        curve = []
        for sparsity in self.sparsities:
            self.untouched.restore()
            pruned = _prune_alone(self.model.get_submodule(name), group, sparsity, self.prune)
            with _same_random_numbers(self.model):
                if self.recalibrate is not None:
                    self.recalibrate(self.model)
                found = measure(self.evaluate, self.model, self.alone)
            curve.append(SensitivityPoint(sparsity, pruned, found.accuracy, found.loss))
            self.on_progress(f"{name} at {pruned:.0%}: accuracy {found.accuracy:.4f}")
        return self.record(name, group, curve)


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


@contextmanager
def _same_random_numbers(model: nn.Module) -> Iterator[None]:
    used = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(used)):
        torch.manual_seed(_SEED)
        yield


@contextmanager
def _layers_that_run(model: nn.Module) -> Iterator[dict[str, bool]]:
    """Which conv layers run forward inside of the ``with``."""
    ran = dict.fromkeys(conv_layers(model), False)

    def note(name: str) -> None:
        ran[name] = True

    handles = [
        conv.register_forward_pre_hook(lambda *_, name=name: note(name))
        for name, conv in conv_layers(model).items()
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _not_run(name: str, ran: Mapping[str, bool]) -> str | None:
    # An `evaluate` that runs none of the modules has the network in another form: that says
    # nothing of a single layer.
    if ran[name] or not any(ran.values()):
        return None
    return (
        "evaluate never runs it: the network does not reach it, or uses its weight by a "
        "functional call"
    )


def _base_of(done: Iterable[LayerSensitivity], now: Evaluation) -> Evaluation:
    """The base that `done` was measured against; without any, the one of now."""
    for record in done:
        saved = record.base_accuracy
        if saved is None or abs(saved - now.accuracy) > _SAME_ACCURACY:
            raise ValueError(
                f"done: {record.name!r} was measured on a model of accuracy {saved}, this one has "
                f"{now.accuracy}; measure again, or give the same model"
            )
        return Evaluation(saved, record.base_loss)
    return now


def _check_done(
    record: LayerSensitivity,
    groups: Mapping[str, GroupShape],
    sparsities: Sequence[float],
    prune: Side,
    recalibrated: bool,
) -> None:
    if record.name not in groups:
        raise ValueError(f"done: expected records of {list(groups)}, got {record.name!r}")
    at = [point.sparsity for point in record.curve]
    found = (str(record.group), at or list(sparsities), record.prune, record.recalibrated)
    wanted = (str(groups[record.name]), list(sparsities), prune, recalibrated)
    if found != wanted:
        raise ValueError(
            f"done: {record.name!r} was measured with (group, sparsities, prune, recalibrated) "
            f"{found}, now it is {wanted}; measure again, or ask for the same"
        )


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
