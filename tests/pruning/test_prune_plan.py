# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from l1sparse.format import GroupShape
from l1sparse.pruning.curve import LayerSensitivity
from l1sparse.pruning.schedule import LayerPlan, PrunePlan
from l1sparse.pruning.split import LayerSplit

SPLIT = LayerSplit((LayerSensitivity("middle", GroupShape(1, 8), 1.0, (), 0.1),))


def test_a_layer_has_its_own_plan_or_the_common_one() -> None:
    own, common = LayerPlan(alpha=2.0), LayerPlan(sparsity=0.5)
    plan = PrunePlan(0.9, SPLIT, layer=common, layers={"middle": own})
    assert plan.of("middle") is own
    assert plan.of("other") is common


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_accuracy": 98.5}, "target_accuracy: expected a fraction from 0 to 1, got 98.5"),
        ({"step": 0.0}, "step: expected a share above 0 and up to 1, got 0.0"),
        ({"step": 1.5}, "step: expected a share above 0 and up to 1, got 1.5"),
        ({"rounds": -1}, "rounds: expected 0 or more, got -1"),
        ({"min_rounds": -1}, "min_rounds: expected 0 or more, got -1"),
        ({"min_rounds": 4}, "min_rounds: expected at most rounds=3, got 4"),
        ({"threshold": "mine"}, "threshold: expected one of layer, global; got 'mine'"),
        ({"retries": -1}, "retries: expected 0 or more, got -1"),
        ({"total_rounds": -1}, "total_rounds: expected 0 or more, got -1"),
        ({"passes": -2}, "passes: expected 0 or more, got -2"),
        ({"prune": "both"}, "prune: expected 'below' or 'above', got 'both'"),
        ({"layers": {"head": LayerPlan()}}, r"layers: .* to prune, \['middle'\]; got \['head'\]"),
    ],
)
def test_a_bad_plan_is_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        PrunePlan(**{"target_accuracy": 0.9, "split": SPLIT, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.0, "sparsity": 0.5}, "sparsity: .* not by both; got alpha=1.0 and spars"),
        ({"alpha": 0.0}, "alpha: expected a finite number above 0, got 0.0"),
        ({"sparsity": 75}, "sparsity: expected a fraction from 0 to 1, got 75"),
        ({"max_sparsity": -0.1}, "max_sparsity: expected a fraction from 0 to 1, got -0.1"),
    ],
)
def test_a_bad_layer_plan_is_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        LayerPlan(**arguments)
