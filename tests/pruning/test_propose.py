# SPDX-License-Identifier: MIT
"""Plans from measurements: the best choice by the additive model, checked against all choices."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from torch import nn

from l1sparse.format import GroupShape
from l1sparse.layer_time import LayerTime
from l1sparse.pruning.curve import LayerSensitivity, SensitivityPoint
from l1sparse.pruning.knapsack import choose
from l1sparse.pruning.plan_file import parse_plan, plan_text
from l1sparse.pruning.plan_layers import make_prune_plan
from l1sparse.pruning.propose import Proposal, propose

TEMPLATE = parse_plan("run: {allowed_drop: 0.01, rounds: 5, target_sparsity: 0.9}")
BASE = 0.9


class Three(nn.Module):
    """1,000 weights each, and 100 in a layer that nobody measured."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(10, 100, 1) for _ in range(3))
        self.rest = nn.Conv2d(10, 10, 1)


def curve(name: str, drops: dict[float, float], group: str = "1x8") -> LayerSensitivity:
    points = tuple(SensitivityPoint(s, s, BASE - drop) for s, drop in drops.items())
    return LayerSensitivity(name, GroupShape.of(group), BASE, points, points[0].accuracy)


CURVES = [
    curve("a", {0.5: 0.001, 0.9: 0.02}),
    curve("b", {0.5: 0.10, 0.9: 0.40}),
    curve("c", {0.5: 0.0, 0.9: 0.004}),
]
TIMES = [
    *(LayerTime(name, None, 0.0, 1.0) for name in "abc"),
    LayerTime("a", GroupShape(1, 8), 0.5, 0.8),
    LayerTime("a", GroupShape(1, 8), 0.9, 0.3),
    LayerTime("b", GroupShape(1, 8), 0.5, 0.7),
    LayerTime("b", GroupShape(1, 8), 0.9, 0.2),
    LayerTime("c", GroupShape(1, 8), 0.5, 1.5),
    LayerTime("c", GroupShape(1, 8), 0.9, 1.1),
]


def chosen(proposal: Proposal) -> dict[str, tuple[str | None, float]]:
    return {layer.name: (layer.group, layer.sparsity) for layer in proposal.layers}


def test_density_is_reached_where_it_costs_least() -> None:
    proposal = propose("density", 0.6, Three(), CURVES, TEMPLATE)
    assert proposal.density <= 0.6
    assert proposal.density == pytest.approx(0.6, abs=0.02)
    found = chosen(proposal)
    assert found["b"] == (None, 0.0), "the sensitive layer is left alone"
    # 1,240 weights have to go: 500 of c for nothing, 500 of a at 0.002 a thousand, and then c's
    # at 0.01 a thousand are cheaper than a's at 0.0475.
    assert found["a"] == ("1x8", 0.5)
    assert found["c"] == ("1x8", 0.75)
    assert proposal.drop == pytest.approx(0.001 + 0.0025)


def test_accuracy_prunes_as_much_as_the_drop_allows() -> None:
    proposal = propose("accuracy", 0.0125, Three(), CURVES, TEMPLATE)
    assert proposal.drop <= 0.0125
    found = chosen(proposal)
    assert (found["b"], found["c"]) == ((None, 0.0), ("1x8", 0.9))
    assert found["a"][1] == pytest.approx(0.65), "0.004 for c; a loses 0.0081 at 0.65"
    nothing = propose("accuracy", 0.0, Three(), CURVES, TEMPLATE)
    assert chosen(nothing) == {"a": (None, 0.0), "b": (None, 0.0), "c": ("1x8", 0.5)}


def test_latency_prunes_what_becomes_faster_and_nothing_else() -> None:
    proposal = propose("latency", 0.03, Three(), CURVES, TEMPLATE, TIMES)
    assert chosen(proposal) == {"a": ("1x8", 0.9), "b": (None, 0.0), "c": (None, 0.0)}
    assert (proposal.dense_ms, proposal.ms) == (3.0, pytest.approx(2.3))
    tight = propose("latency", 0.01, Three(), CURVES, TEMPLATE, TIMES)
    assert chosen(tight)["a"] == ("1x8", 0.5)


def test_latency_takes_the_group_shape_that_is_fastest_within_the_drop() -> None:
    curves = [*CURVES, curve("a", {0.5: 0.001, 0.9: 0.05}, "4x4")]
    times = [
        *TIMES,
        LayerTime("a", GroupShape(4, 4), 0.5, 0.5),
        LayerTime("a", GroupShape(4, 4), 0.9, 0.1),
    ]
    at = {drop: chosen(propose("latency", drop, Three(), curves, TEMPLATE, times))["a"]
          for drop in (0.01, 0.02, 0.06)}  # fmt: skip
    assert at == {0.01: ("4x4", 0.5), 0.02: ("1x8", 0.9), 0.06: ("4x4", 0.9)}


def test_a_proposal_is_a_plan_that_prunes_what_it_says() -> None:
    model = Three()
    proposal = propose("accuracy", 0.0125, model, CURVES, TEMPLATE, TIMES)
    plan = parse_plan(plan_text(proposal.plan))
    policy = make_prune_plan(plan, model, CURVES)
    assert {one.name: policy.of(one.name).sparsity for one in policy.split.prune} == {
        "a": pytest.approx(0.65), "c": 0.9,
    }  # fmt: skip
    reasons = {one.sensitivity.name: one.reason for one in policy.split.kept}
    assert reasons == {"b": "kept by name: b", "rest": "kept by name: layer"}
    assert (plan.run.allowed_drop, plan.run.rounds, plan.run.target_sparsity) == (0.0125, 5, None)
    assert json.loads(json.dumps(proposal.to_dict()))["layers"][0]["name"] == "a"
    assert propose("density", 0.6, model, CURVES, TEMPLATE).plan.run.allowed_drop == 0.01


def test_what_the_template_keeps_or_caps_is_obeyed() -> None:
    template = parse_plan(
        "run: {allowed_drop: 0.1}\nlayer: {max_sparsity: 0.6}\n"
        "layers: {a: {keep: true}, c: {max_sparsity: 0.3}}"
    )
    proposal = propose("accuracy", 1.0, Three(), CURVES, template)
    assert chosen(proposal) == {"a": (None, 0.0), "b": ("1x8", 0.6), "c": ("1x8", 0.3)}
    assert proposal.plan.layers["c"].max_sparsity == 0.3
    assert proposal.plan.layer.max_sparsity == 0.6


def test_a_curve_never_falls_and_a_gain_is_no_credit() -> None:
    curves = [curve("a", {0.25: 0.02, 0.5: -0.05, 0.75: 0.03})]
    drops = {
        value: propose("density", value, Three(), curves, TEMPLATE).drop
        for value in ((3100 - 500) / 3100, (3100 - 750) / 3100, (3100 - 100) / 3100)
    }
    assert list(drops.values()) == pytest.approx([0.02, 0.03, 0.008])


def test_layers_that_cannot_be_pruned_are_no_part_of_it() -> None:
    stem = LayerSensitivity("rest", GroupShape(1, 8), BASE, (), None, "no channels")
    proposal = propose("density", 0.6, Three(), [stem, *CURVES], TEMPLATE)
    assert "rest" not in chosen(proposal)


def test_what_cannot_be_proposed_is_named() -> None:
    with pytest.raises(ValueError, match=r"density: expected at least 0.1290, which is what"):
        propose("density", 0.1, Three(), CURVES, TEMPLATE)
    with pytest.raises(ValueError, match=r"accuracy: expected a fraction from 0 to 1, got 92"):
        propose("accuracy", 92, Three(), CURVES, TEMPLATE)
    with pytest.raises(ValueError, match=r"goal: expected one of density, .*; got 'speed'"):
        propose("speed", 0.1, Three(), CURVES, TEMPLATE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"times: latency needs the measured times of layers"):
        propose("latency", 0.1, Three(), CURVES, TEMPLATE)
    with pytest.raises(ValueError, match=r"sensitivities: no layer was measured .* latency needs"):
        propose("latency", 0.1, Three(), CURVES, TEMPLATE, TIMES[:3])
    with pytest.raises(ValueError, match=r"sensitivities: 'd' is no layer of the model: a, b, c"):
        propose("density", 0.6, Three(), [curve("d", {0.5: 0.1})], TEMPLATE)


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    draw = random.Random(seed)
    layers = [draw.randint(1, 4) for _ in range(5)]
    costs = [[draw.random() for _ in range(count)] for count in layers]
    weights = [[draw.random() for _ in range(count)] for count in layers]
    limit = draw.uniform(0.5, 4.0)
    within = [
        sum(row[i] for row, i in zip(costs, pick, strict=True))
        for pick in itertools.product(*(range(count) for count in layers))
        if sum(row[i] for row, i in zip(weights, pick, strict=True)) <= limit
    ]
    found = choose(costs, weights, limit)
    if not within:
        assert found is None
        return
    assert found is not None
    assert sum(row[i] for row, i in zip(weights, found, strict=True)) <= limit
    cost = sum(row[i] for row, i in zip(costs, found, strict=True))
    assert cost == pytest.approx(min(within), abs=1e-2)


def test_nothing_to_spend_buys_what_is_free() -> None:
    assert choose([[5.0, 1.0, 0.5], [2.0, 1.0]], [[0.0, 0.0, 0.1], [0.0, 0.2]], 0.0) == [1, 0]
    assert choose([[1.0]], [[0.5]], 0.4) is None
