# SPDX-License-Identifier: MIT
"""A plan file on a model: patterns, splits, and what does not fit."""

from __future__ import annotations

import re

import pytest
from torch import nn

from l1sparse.format import GroupShape
from l1sparse.pruning.curve import LayerSensitivity
from l1sparse.pruning.plan_file import PlanError, parse_plan
from l1sparse.pruning.plan_layers import decide_layers, make_prune_plan, sensitivity_groups
from l1sparse.pruning.schedule import LayerPlan, PrunePlan

RUN = "run: {target_accuracy: 0.9}\n"


class Blocks(nn.Module):
    """Convs with 3, 8 and 16 input channels, one of them under two names, one depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 8, 1)) for _ in range(2)
        )
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.again = self.blocks[0][0]


def record(name: str, sensitivity: float | None, group: str = "1x8") -> LayerSensitivity:
    return LayerSensitivity(name, GroupShape.of(group), 0.95, (), sensitivity)


SENSITIVITIES = [
    record("blocks.0.0", 0.01),
    record("blocks.0.1", 0.20),
    record("blocks.1.0", 0.10),
    record("blocks.1.1", 0.05),
]


def prune_plan(text: str, sensitivities=SENSITIVITIES, **others) -> PrunePlan:
    return make_prune_plan(parse_plan(RUN + text), Blocks(), sensitivities, **others)


def pruned(plan: PrunePlan) -> list[str]:
    return [one.name for one in plan.split.prune]


def kept(plan: PrunePlan) -> dict[str, str]:
    return {one.sensitivity.name: one.reason for one in plan.split.kept}


def test_layers_are_pruned_in_descending_sensitivity_and_the_rest_has_a_reason() -> None:
    plan = prune_plan("")
    assert pruned(plan) == ["blocks.0.1", "blocks.1.0", "blocks.1.1", "blocks.0.0"]
    assert plan.target_accuracy == 0.9
    reasons = kept(plan)
    assert set(reasons) == {"stem", "depthwise", "again"}
    assert "3 input channels, fewer than the 8 of group 1x8; at most 1x3" in reasons["stem"]
    assert "no channels to group" in reasons["depthwise"]
    assert "same module as 'blocks.0.0'" in reasons["again"]


def test_the_first_pattern_that_matches_decides_and_the_default_fills_in() -> None:
    plan = prune_plan(
        """
layer: {alpha: 3, max_sparsity: 0.9}
layers:
  blocks.0.0: {sparsity: 0.5}
  blocks.*.1: {max_sparsity: 0.8, group: 1x4}
  blocks.*: {alpha: 2}
""",
        [
            record(r.name, r.sensitivity, "1x4" if r.name.endswith("1") else "1x8")
            for r in SENSITIVITIES
        ],
    )
    assert plan.of("blocks.0.0") == LayerPlan(sparsity=0.5, max_sparsity=0.9)
    assert plan.of("blocks.1.1") == LayerPlan(alpha=3.0, max_sparsity=0.8)
    assert plan.of("blocks.1.0") == LayerPlan(alpha=2.0, max_sparsity=0.9)
    groups = {one.name: str(one.group) for one in plan.split.prune}
    assert groups == {
        "blocks.0.0": "1x8", "blocks.0.1": "1x4", "blocks.1.0": "1x8", "blocks.1.1": "1x4",
    }  # fmt: skip


def test_layers_are_kept_by_name_by_count_and_by_allowed_drop() -> None:
    plan = prune_plan("layers: {blocks.1.*: {keep: true}}\nsplit: {keep_count: 1}")
    assert pruned(plan) == ["blocks.0.0"]
    reasons = kept(plan)
    assert reasons["blocks.1.0"] == reasons["blocks.1.1"] == "kept by name: blocks.1.*"
    assert reasons["blocks.0.1"] == "kept as number 1 of the 1 most sensitive"
    assert pruned(prune_plan("split: {allowed_drop: 0.05}")) == ["blocks.1.1", "blocks.0.0"]


def test_keep_false_prunes_whatever_the_split_says() -> None:
    plan = prune_plan("layers: {blocks.0.1: {keep: false}}\nsplit: {allowed_drop: 0.05}")
    assert pruned(plan) == ["blocks.0.1", "blocks.1.1", "blocks.0.0"]


def test_all_but_the_named_layers_can_be_kept() -> None:
    plan = prune_plan("layer: {keep: true}\nlayers: {blocks.1.0: {keep: false}}")
    assert pruned(plan) == ["blocks.1.0"]
    assert kept(plan)["blocks.0.1"] == "kept by name: layer"


def test_without_sensitivities_layers_go_in_the_models_order() -> None:
    plan = prune_plan("", ())
    assert pruned(plan) == ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1"]
    assert plan.to_dict()["split"]["prune"][0]["sensitivity"] is None


def test_an_allowed_drop_is_taken_from_the_accuracy_that_was_measured() -> None:
    text = parse_plan("run: {allowed_drop: 0.02}")
    assert make_prune_plan(text, Blocks(), SENSITIVITIES).target_accuracy == pytest.approx(0.93)
    assert make_prune_plan(text, Blocks(), (), 0.8).target_accuracy == pytest.approx(0.78)
    with pytest.raises(PlanError, match=r"run.allowed_drop: 0.02 below which accuracy\?"):
        make_prune_plan(text, Blocks())


def test_the_runs_keys_arrive() -> None:
    text = """
layer: {max_sparsity: 0.95}
run:
  {target_accuracy: 0.9, strategy: gradual, side: above, target_sparsity: 0.6, step: 0.3,
   retries: 2, rounds: 4, min_rounds: 2, total_rounds: 20, passes: 3, pruning_rounds: 7}
"""
    plan = make_prune_plan(parse_plan(text), Blocks(), SENSITIVITIES)
    found = {key: value for key, value in vars(plan).items() if key not in ("split", "layers")}
    assert found == {
        "target_accuracy": 0.9, "layer": LayerPlan(), "prune": "above", "strategy": "gradual",
        "target_sparsity": 0.6, "threshold": "layer", "step": 0.3, "retries": 2, "rounds": 4,
        "min_rounds": 2, "total_rounds": 20, "passes": 3, "pruning_rounds": 7,
    }  # fmt: skip


def test_the_methods_threshold_arrives() -> None:
    text = "run: {target_accuracy: 0.9, target_sparsity: 0.6, threshold: global}"
    assert make_prune_plan(parse_plan(text), Blocks(), SENSITIVITIES).threshold == "global"
    with pytest.raises(PlanError, match=r"run.threshold: 'global' leaves a layer no threshold"):
        make_prune_plan(parse_plan(f"layer: {{alpha: 2}}\n{text}"), Blocks(), SENSITIVITIES)


def test_groups_for_the_measurement_cover_every_layer() -> None:
    groups = sensitivity_groups(parse_plan(RUN + "layers: {'*.1': {group: 4x4}}"), Blocks())
    assert list(groups) == list(decide_layers(parse_plan(RUN), Blocks()))
    assert {str(groups[name]) for name in ("blocks.0.1", "blocks.1.1")} == {"4x4"}
    assert str(groups["stem"]) == "1x8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: {block.0.0: {}}",
         "layers.block.0.0: matches no conv layer of the model; did you mean 'blocks.0.0'?"),
        ("layers: {'head.*': {}}",
         "layers.head.*: matches no conv layer of the model; the layers are stem, blocks.0.0"),
        ("layers: {'*': {}, 'blocks.*': {alpha: 2}}",
         "layers.blocks.*: matches only layers that an earlier key decides: blocks.0.0"),
        ("layers: {depthwise: {alpha: 2}}",
         "layers.depthwise: the layer 'depthwise' cannot be pruned: each filter sees one input"),
        ("layers: {again: {keep: false}}",
         "layers.again: the layer 'again' cannot be pruned: it is the same module as 'blocks.0.0'"),
        ("layers: {'blocks.*': {group: 1x16}}",
         "layers.blocks.*: the layer 'blocks.0.0' cannot be pruned: its filters see 8 input "
         "channels, fewer than the 16 of group 1x16; at most 1x8 fits"),
        ("layers: {stem: {alpha: 2}}", "its filters see 3 input channels, fewer than the 8 of"),
        ("split: {keep_count: 9}", "split.keep_count: expected 0 to 4, .*; got 9"),
        ("layer: {group: 1x4}",
         "sensitivities: 'blocks.0.0' was measured with group 1x8, the plan says 1x4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_named(text, message) -> None:
    pattern = message if ".*;" in message else re.escape(message)
    with pytest.raises(PlanError, match=pattern):
        prune_plan(text)


def test_a_layer_that_cannot_be_pruned_may_be_named_as_kept() -> None:
    assert "depthwise" in kept(prune_plan("layers: {depthwise: {keep: true}}"))


def test_a_split_needs_what_it_decides_by() -> None:
    with pytest.raises(PlanError, match=r"split: needs the sensitivity .* blocks.1.1 has none"):
        prune_plan("split: {allowed_drop: 0.1}", SENSITIVITIES[:3])
    with pytest.raises(PlanError, match=r"sensitivities: 'blocks.0.0' is no layer of this S"):
        make_prune_plan(parse_plan(RUN), nn.Sequential(nn.Conv2d(8, 8, 1)), SENSITIVITIES)


def test_what_the_strategy_lacks_is_named() -> None:
    def plan(run: str) -> PrunePlan:
        text = f"run: {{target_accuracy: 0.9, strategy: {run}}}"
        return make_prune_plan(parse_plan(text), Blocks(), SENSITIVITIES)

    with pytest.raises(PlanError, match=r"run.total_rounds: the one-shot strategy needs a number"):
        plan("one-shot, target_sparsity: 0.5")
    with pytest.raises(PlanError, match=r"run.sparsity: the global strategy needs either target_s"):
        plan("global, total_rounds: 3")
    with pytest.raises(PlanError, match=r"run.pruning_rounds: .* 1 to total_rounds=3, got 4"):
        plan("gradual, total_rounds: 3, pruning_rounds: 4, target_sparsity: 0.5")
