# SPDX-License-Identifier: MIT
"""A plan file meets a model: which rule decides each layer, and the `PrunePlan` that follows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from l1sparse.format import GroupShape
from l1sparse.pruning.curve import LayerSensitivity
from l1sparse.pruning.layers import group_too_large, layer_candidates, unprunable_reason
from l1sparse.pruning.plan_file import PlanError
from l1sparse.pruning.plan_schema import LayerRule, PlanFile
from l1sparse.pruning.schedule import LayerPlan, PrunePlan
from l1sparse.pruning.split import KeptLayer, LayerSplit, split_layers


@dataclass(frozen=True)
class LayerDecision:
    """What the plan says of one layer.

    Attributes:
        pattern: the key under ``layers`` that matches it; None: the rule is the default.
        group: its group shape.
        keep: as `LayerRule.keep`.
        plan: how it is pruned.
        reason: why it cannot be pruned, or None.
    """

    pattern: str | None
    group: GroupShape
    keep: bool | None
    plan: LayerPlan
    reason: str | None


def decide_layers(plan: PlanFile, model: nn.Module) -> dict[str, LayerDecision]:
    """What the plan says of every layer of `model` (`layer_candidates`), in the model's order.

    Raises:
        PlanError: one line for each name or pattern under ``layers`` that matches no layer, or
            only layers that one before it decides; asks to prune a layer by its name that cannot
            be; or gives a layer a group of more channels than it has.
    """
    names = layer_candidates(model)
    matches = {
        pattern: [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        for pattern in plan.layers
    }
    errors: list[str] = []
    decided: dict[str, str] = {}
    for pattern, found in matches.items():
        new = [name for name in found if name not in decided]
        decided |= dict.fromkeys(new, pattern)
        if not found:
            errors.append(f"layers.{pattern}: {_no_match(pattern, names)}")
        elif not new:
            errors.append(
                f"layers.{pattern}: matches only layers that an earlier key decides: "
                f"{', '.join(found)}; write it before {decided[found[0]]!r}, or remove it"
            )
    decisions = {}
    for name in names:
        key = decided.get(name)
        rule = plan.layer if key is None else plan.layers[key]
        decision = decisions[name] = _decision(plan, rule, model, name, key)
        if decision.reason is None or key is None or rule.keep:
            continue
        # A pattern may well match layers that cannot be pruned; a name is meant.
        if key == name or (rule.group is not None and _is_for_its_group(model, name)):
            errors.append(f"layers.{key}: the layer {name!r} cannot be pruned: {decision.reason}")
    if errors:
        raise PlanError("\n".join(errors))
    return decisions


def sensitivity_groups(plan: PlanFile, model: nn.Module) -> dict[str, GroupShape]:
    """Layer name to group shape, for `measure_sensitivity`; raises as `decide_layers`."""
    return {name: decision.group for name, decision in decide_layers(plan, model).items()}


def make_prune_plan(
    plan: PlanFile,
    model: nn.Module,
    sensitivities: Iterable[LayerSensitivity] = (),
    base_accuracy: float | None = None,
) -> PrunePlan:
    """The policy that a plan file means for a model.

    Args:
        plan: as read.
        model: whose layers are pruned.
        sensitivities: that order and split the layers. Layers without one come after the others,
            in the model's order.
        base_accuracy: of the network as it is; needed for ``run.allowed_drop`` if there are no
            sensitivities, which know it too.

    Raises:
        PlanError: as `decide_layers`; or if a sensitivity is missing that ``split`` needs, or was
            measured with another group shape than the plan's; or the plan has an `allowed_drop`
            and nobody knows the accuracy that it starts from; or its strategy lacks something.
    """
    decisions = decide_layers(plan, model)
    records = _records(decisions, sensitivities, model)
    split = _split(plan, decisions, records)
    target = plan.run.target_accuracy
    if target is None:
        known = [r.base_accuracy for r in records.values() if r.base_accuracy is not None]
        base = base_accuracy if base_accuracy is not None else next(iter(known), None)
        if base is None:
            raise PlanError(
                f"run.allowed_drop: {plan.run.allowed_drop} below which accuracy? Expected "
                "sensitivities or base_accuracy, got neither"
            )
        target = max(0.0, base - (plan.run.allowed_drop or 0.0))
    run = plan.run
    try:
        return PrunePlan(
            target_accuracy=target,
            split=split,
            layers={record.name: decisions[record.name].plan for record in split.prune},
            prune=run.side,
            strategy=run.strategy,
            target_sparsity=run.target_sparsity,
            threshold=run.threshold,
            step=run.step,
            retries=run.retries,
            rounds=run.rounds,
            min_rounds=run.min_rounds,
            total_rounds=run.total_rounds,
            passes=run.passes,
            pruning_rounds=run.pruning_rounds,
        )
    except ValueError as error:
        raise PlanError(f"run.{error}") from error


def _decision(
    plan: PlanFile, rule: LayerRule, model: nn.Module, name: str, pattern: str | None
) -> LayerDecision:
    own = rule if rule.alpha is not None or rule.sparsity is not None else plan.layer
    most = plan.layer.max_sparsity if rule.max_sparsity is None else rule.max_sparsity
    group = GroupShape.of(rule.group or plan.layer.group)
    reason = unprunable_reason(model, name) or group_too_large(model, name, group)
    layer = LayerPlan(own.alpha, own.sparsity, most)
    return LayerDecision(pattern, group, rule.keep, layer, reason)


def _is_for_its_group(model: nn.Module, name: str) -> bool:
    """Whether a layer that cannot be pruned could be with a smaller group."""
    return unprunable_reason(model, name) is None


def _no_match(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the layers are {', '.join(names)}"
    return f"matches no conv layer of the model; {hint}"


def _records(
    decisions: Mapping[str, LayerDecision],
    sensitivities: Iterable[LayerSensitivity],
    model: nn.Module,
) -> dict[str, LayerSensitivity]:
    """One record a layer: the one measured, or one that knows no more than the plan does."""
    measured: dict[str, list[LayerSensitivity]] = {}
    for record in sensitivities:
        if record.name not in decisions:
            raise PlanError(
                f"sensitivities: {record.name!r} is no layer of this {type(model).__name__}; "
                f"measure its own: {', '.join(decisions)}"
            )
        measured.setdefault(record.name, []).append(record)
    records = {}
    for name, decision in decisions.items():
        found = measured.get(name, [])
        fitting = [record for record in found if record.group == decision.group]
        if found and not fitting and not decision.keep and decision.reason is None:
            groups = ", ".join(str(record.group) for record in found)
            raise PlanError(
                f"sensitivities: {name!r} was measured with group {groups}, the plan says "
                f"{decision.group}; measure again, or change the plan"
            )
        blank = LayerSensitivity(name, decision.group, None, (), None, decision.reason)
        records[name] = fitting[0] if fitting else blank
    return records


def _split(
    plan: PlanFile,
    decisions: Mapping[str, LayerDecision],
    records: Mapping[str, LayerSensitivity],
) -> LayerSplit:
    forced, kept, free, unprunable = [], [], [], []
    for name, record in records.items():
        decision = decisions[name]
        if record.reason is not None:
            unprunable.append(record)
        elif decision.keep:
            kept.append(KeptLayer(record, f"kept by name: {decision.pattern or 'layer'}"))
        elif decision.keep is False:
            forced.append(record)
        else:
            free.append(record)
    rules = plan.split
    unmeasured = [record for record in free if record.sensitivity is None]
    if unmeasured and (rules.allowed_drop is not None or rules.keep_count):
        raise PlanError(
            f"split: needs the sensitivity of every layer that it decides, but "
            f"{', '.join(record.name for record in unmeasured)} has none; measure first"
        )
    try:
        split = split_layers(
            [*(r for r in free if r.sensitivity is not None), *unprunable],
            allowed_drop=rules.allowed_drop,
            keep_count=rules.keep_count,
        )
    except ValueError as error:
        raise PlanError(f"split.{error}") from error
    prune = sorted(
        (*split.prune, *forced, *unmeasured),
        key=lambda r: float("inf") if r.sensitivity is None else -r.sensitivity,
    )
    return LayerSplit(tuple(prune), (*kept, *split.kept))
