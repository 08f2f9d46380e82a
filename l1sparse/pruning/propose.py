# SPDX-License-Identifier: MIT
"""A plan from measurements: so dense, so accurate or as fast as the sensitivity curves allow.

The accuracy that a network loses is taken to be the SUM of what its layers lose alone, without
retraining. Retraining wins most of it back and layers are not independent, so the sum orders plans
rather than foretelling an accuracy; the loop keeps the target whatever was foretold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import nn

from l1sparse.format import GroupShape
from l1sparse.layer_time import LayerTime
from l1sparse.pruning.curve import LayerSensitivity
from l1sparse.pruning.knapsack import choose
from l1sparse.pruning.layers import conv_weight_count
from l1sparse.pruning.mask import raw_weight
from l1sparse.pruning.plan_layers import LayerDecision, decide_layers
from l1sparse.pruning.plan_schema import LayerRule, PlanFile, SplitSection

Goal = Literal["density", "accuracy", "latency"]

_FINEST = 0.05  # step of sparsity between measured points


@dataclass(frozen=True)
class LayerProposal:
    """What is proposed for one layer.

    Attributes:
        name: the layer.
        group: its group shape; None: keep the layer as it is.
        sparsity: share of its weights to prune.
        drop: accuracy that it loses alone, by its curve.
        dense_ms: time of the dense layer; None where it was not measured.
        ms: time that is foretold.
    """

    name: str
    group: str | None
    sparsity: float
    drop: float
    dense_ms: float | None
    ms: float | None


@dataclass(frozen=True)
class Proposal:
    """A plan and what it is expected to give.

    Attributes:
        goal: ``"density"``, ``"accuracy"`` or ``"latency"``.
        value: of the goal, as given.
        layers: one entry a layer that was measured.
        drop: sum of the layers' drops, without retraining.
        density: conv weights kept over all conv weights.
        dense_ms: sum over the timed layers, dense; None without times.
        ms: likewise, as proposed.
        plan: the plan file.
    """

    goal: Goal
    value: float
    layers: tuple[LayerProposal, ...]
    drop: float
    density: float
    dense_ms: float | None
    ms: float | None
    plan: PlanFile

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        fields = {key: value for key, value in vars(self).items() if key != "plan"}
        layers = [asdict(layer) for layer in self.layers]
        return {**fields, "layers": layers, "plan": self.plan.model_dump()}


@dataclass(frozen=True)
class _Option:
    group: GroupShape | None
    sparsity: float
    drop: float
    ms: float | None


def propose(
    goal: Goal,
    value: float,
    model: nn.Module,
    sensitivities: Iterable[LayerSensitivity],
    template: PlanFile,
    times: Iterable[LayerTime] = (),
) -> Proposal:
    """Choose a group shape and a sparsity for each layer.

    - ``"density"``: keep at most the share `value` of all conv weights, at the least drop.
    - ``"accuracy"``: prune as many weights as the drop `value` allows.
    - ``"latency"``: the fastest network, by `times`, within the drop `value`.

    Args:
        goal: see above.
        value: a fraction of 1.
        model: whose layers they are.
        sensitivities: a layer may have several, with different group shapes.
        template: settings of the run and rules for layers; layers that it keeps stay kept and its
            `max_sparsity` is obeyed. Its `split` is not: the proposal itself decides.
        times: as `l1sparse.convert.layer_times` measures them; needed for ``"latency"``.

    Raises:
        ValueError: if `goal` is unknown, `value` is outside 0..1 or a density that the measured
            sparsities do not reach, or nothing was measured that helps.
        PlanError: if `template` does not fit `model`.
    """
    if goal not in get_args(Goal):
        raise ValueError(f"goal: expected one of {', '.join(get_args(Goal))}; got {goal!r}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{goal}: expected a fraction from 0 to 1, got {value!r}")
    decisions = decide_layers(template, model)
    dense, sparse = _split_times(times)
    if goal == "latency" and not dense:
        raise ValueError("times: latency needs the measured times of layers, got none")
    options = _options(goal, list(sensitivities), decisions, dense, sparse)
    sizes = {name: raw_weight(model.get_submodule(name)).numel() for name in options}
    total = conv_weight_count(model)

    kept = [[(1.0 - o.sparsity) * sizes[name] for o in row] for name, row in options.items()]
    drops = [[o.drop for o in row] for row in options.values()]
    if goal == "density":
        limit = value * total - (total - sum(sizes.values()))
        chosen = choose(drops, kept, limit)
        if chosen is None:
            least = (total - sum(sizes.values()) + sum(min(row) for row in kept)) / total
            raise ValueError(
                f"density: expected at least {least:.4f}, which is what the measured sparsities "
                f"reach; got {value!r}"
            )
    else:
        costs = kept if goal == "accuracy" else [[o.ms or 0.0 for o in r] for r in options.values()]
        found = choose(costs, drops, value)
        assert found is not None  # a layer that is kept loses nothing
        chosen = found
    taken = {name: row[option] for (name, row), option in zip(options.items(), chosen, strict=True)}
    timed = [name for name in taken if taken[name].ms is not None]
    pruned = sum(option.sparsity * sizes[name] for name, option in taken.items())
    return Proposal(
        goal=goal,
        value=value,
        layers=tuple(
            LayerProposal(
                name, str(o.group) if o.group else None, o.sparsity, o.drop, dense.get(name), o.ms
            )
            for name, o in taken.items()
        ),
        drop=sum(option.drop for option in taken.values()),
        density=1.0 - pruned / total,
        dense_ms=sum(dense[name] for name in timed) if timed else None,
        ms=sum(taken[name].ms or 0.0 for name in timed) if timed else None,
        plan=_plan(goal, value, template, taken, decisions),
    )


def _options(
    goal: Goal,
    records: Sequence[LayerSensitivity],
    decisions: Mapping[str, LayerDecision],
    dense: Mapping[str, float],
    sparse: Mapping[tuple[str, GroupShape], Mapping[float, float]],
) -> dict[str, list[_Option]]:
    """Per layer that was measured: first to keep it, then every group shape and sparsity."""
    options: dict[str, list[_Option]] = {}
    for record in records:
        if record.name not in decisions:
            raise ValueError(
                f"sensitivities: {record.name!r} is no layer of the model: {', '.join(decisions)}"
            )
        if record.sensitivity is None:
            continue
        keep_ms = dense.get(record.name)
        row = options.setdefault(record.name, [_Option(None, 0.0, 0.0, keep_ms)])
        decision = decisions[record.name]
        if decision.keep:
            continue
        measured = sparse.get((record.name, record.group), {})
        points = sorted(measured) if goal == "latency" else _grid(record)
        for sparsity in points:
            drop = _drop_at(record, sparsity)
            if drop is None or not 0 < sparsity <= decision.plan.max_sparsity:
                continue
            ms = _time_at(measured, sparsity)
            if ms is None or keep_ms is None:
                ms = keep_ms
            row.append(_Option(record.group, sparsity, drop, ms and min(ms, keep_ms or ms)))
    if not any(len(row) > 1 for row in options.values()):
        raise ValueError(
            f"sensitivities: no layer was measured that the plan lets be pruned, at a group shape "
            f"and sparsity that {goal} needs"
        )
    return options


def _grid(record: LayerSensitivity) -> list[float]:
    """Sparsities up to the largest that was measured."""
    last = record.curve[-1].sparsity
    steps = math.floor(last / _FINEST + 1e-9)
    fine = {round(step * _FINEST, 10) for step in range(1, steps + 1)}
    return sorted(fine | {point.sparsity for point in record.curve})


def _drop_at(record: LayerSensitivity, sparsity: float) -> float | None:
    """The curve's drop, linear between its points and never falling; None beyond its last."""
    assert record.base_accuracy is not None
    left_sparsity = left_drop = 0.0
    for point in record.curve:
        drop = max(left_drop, record.base_accuracy - point.accuracy)
        if sparsity <= point.sparsity:
            width = point.sparsity - left_sparsity
            part = (sparsity - left_sparsity) / width if width else 1.0
            return left_drop + part * (drop - left_drop)
        left_sparsity, left_drop = point.sparsity, drop
    return None


def _time_at(measured: Mapping[float, float], sparsity: float) -> float | None:
    """Linear between measured sparsities; None outside of them."""
    below = max((each for each in measured if each <= sparsity), default=None)
    above = min((each for each in measured if each >= sparsity), default=None)
    if below is None or above is None:
        return None
    part = (sparsity - below) / (above - below) if above > below else 0.0
    return measured[below] + part * (measured[above] - measured[below])


def _split_times(
    times: Iterable[LayerTime],
) -> tuple[dict[str, float], dict[tuple[str, GroupShape], dict[float, float]]]:
    dense: dict[str, float] = {}
    sparse: dict[tuple[str, GroupShape], dict[float, float]] = {}
    for time in times:
        if time.group is None:
            dense[time.name] = time.ms
        else:
            sparse.setdefault((time.name, time.group), {})[time.sparsity] = time.ms
    return dense, sparse


def _plan(
    goal: Goal,
    value: float,
    template: PlanFile,
    taken: Mapping[str, _Option],
    decisions: Mapping[str, LayerDecision],
) -> PlanFile:
    """The template with one rule a layer, everything else kept."""
    rules = {}
    for name, option in taken.items():
        if option.group is None:
            rules[name] = LayerRule(keep=True)
            continue
        most = decisions[name].plan.max_sparsity
        rules[name] = LayerRule(
            group=str(option.group),
            sparsity=option.sparsity,
            max_sparsity=None if most == template.layer.max_sparsity else most,
        )
    run: dict[str, Any] = {"target_sparsity": None}
    if goal != "density":
        run |= {"allowed_drop": value, "target_accuracy": None}
    return template.model_copy(
        update={
            "layer": template.layer.model_copy(
                update={"keep": True, "alpha": None, "sparsity": None}
            ),
            "layers": rules,
            "split": SplitSection(),
            "run": template.run.model_copy(update=run),
        }
    )
