# SPDX-License-Identifier: MIT
"""One-shot, gradual and global pruning, the method to a sparsity; their budgets and records."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from l1sparse.format import GroupShape
from l1sparse.pruning import Evaluation, LayerPlan, LayerSplit, PrunePlan, prune, pruned_share
from l1sparse.pruning.curve import LayerSensitivity
from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.mask import companion_mask, raw_weight
from l1sparse.pruning.targets import (
    PrunableLayer,
    cubic_rise,
    even_shares,
    select_each,
    select_over_all,
)

SPLIT = LayerSplit(
    tuple(LayerSensitivity(n, GroupShape(1, 4), 1.0, (), 0.1) for n in ("middle", "last"))
)
WEIGHTS = 108 + 2160 + 320  # of stem, middle and last


def scheduled(strategy: str, **others) -> PrunePlan:
    settings = {"target_sparsity": 0.7, "total_rounds": 4, **others}
    return PrunePlan(0.5, SPLIT, strategy=strategy, **settings)


def always(accuracy: float) -> Callable[[nn.Module], float]:
    return lambda model: accuracy


def no_training(model: nn.Module) -> None:
    pass


def zero_share(conv: nn.Conv2d) -> float:
    return float((conv.weight == 0).double().mean())


@pytest.mark.parametrize("strategy", ["one-shot", "gradual", "global"])
def test_a_network_is_pruned_to_its_target_in_its_rounds(trained, strategy: str) -> None:
    result = prune(
        trained.model,
        trained.evaluate,
        trained.train,
        scheduled(strategy),
        training_state=[trained.optimizer],
    )
    assert pruned_share(trained.model) == result.pruned_share == pytest.approx(0.7, abs=4 / WEIGHTS)
    assert result.rounds == trained.rounds == 4
    assert result.ended == "all 4 rounds of retraining used"
    assert result.accuracy == trained.evaluate(trained.model) == result.history[-1].accuracy > 0.9
    assert [record.round for record in result.history] == [0, 1, 2, 3, 4]
    assert {layer.closed for layer in result.layers[1:]} == {
        f"at the end of the {strategy} schedule"
    }
    for name in ("middle", "last"):
        conv = trained.model.get_submodule(name)
        assert (raw_weight(conv)[~companion_mask(conv).weight_mask()] == 0).all()
    json.dumps(result.to_dict(), allow_nan=False)


def test_one_shot_prunes_every_layer_alike_and_at_once(trained) -> None:
    norms = {
        n: group_norms(trained.model.get_submodule(n).weight, (1, 4)) for n in ("middle", "last")
    }
    result = prune(trained.model, always(1.0), no_training, scheduled("one-shot"))
    (step,) = result.steps
    assert (step.layer, step.pass_number, step.rounds, step.accepted) == (None, 1, 1, True)
    assert step.pruned_weights == pytest.approx(0.7 * WEIGHTS, abs=4)
    share = 0.7 * WEIGHTS / 2480
    assert step.density == pytest.approx(1 - share, abs=0.002)
    for name, norm in norms.items():
        conv = trained.model.get_submodule(name)
        assert zero_share(conv) == pytest.approx(share, abs=2.5 / conv.weight.numel())
        kept = companion_mask(conv).mask
        assert norm[~kept].max() <= norm[kept].min()


def test_gradual_rises_on_the_cubic_schedule_with_a_round_after_each_step(trained) -> None:
    shares: list[float] = []
    prune(
        trained.model,
        always(1.0),
        lambda model: shares.append(pruned_share(model)),
        scheduled("gradual", total_rounds=6),
    )
    rise = [0.7 * (1 - (1 - i / 3) ** 3) for i in (1, 2, 3)]
    assert shares == pytest.approx([*rise, 0.7, 0.7, 0.7], abs=4 / WEIGHTS)


def test_gradual_takes_as_many_rounds_as_planned(trained) -> None:
    plan = scheduled("gradual", total_rounds=6, pruning_rounds=5)
    assert len(prune(trained.model, always(1.0), no_training, plan).steps) == 5
    assert cubic_rise(1) == [1.0]
    assert cubic_rise(2) == [0.875, 1.0]


@pytest.mark.parametrize("side", ["below", "above"])
def test_global_draws_one_threshold_over_all_layers(trained, side) -> None:
    norms = torch.cat(
        [
            group_norms(trained.model.get_submodule(name).weight, (1, 4)).flatten()
            for name in ("middle", "last")
        ]
    )
    plan = scheduled("global", total_rounds=0, prune=side)
    result = prune(trained.model, always(1.0), no_training, plan)
    kept = torch.cat(
        [companion_mask(trained.model.get_submodule(n)).mask.flatten() for n in ("middle", "last")]
    )
    if side == "below":
        assert norms[~kept].max() <= norms[kept].min()
    else:
        assert norms[~kept].min() >= norms[kept].max()
    shares = [zero_share(trained.model.get_submodule(name)) for name in ("middle", "last")]
    assert abs(shares[0] - shares[1]) > 0.05, "layers differ"
    assert result.rounds == 0
    assert len(result.steps) == 1


def test_the_layers_own_sparsities_can_be_the_target(trained) -> None:
    plan = PrunePlan(
        0.5, SPLIT, LayerPlan(sparsity=0.5), {"last": LayerPlan(sparsity=0.25)},
        strategy="gradual", total_rounds=3,
    )  # fmt: skip
    prune(trained.model, always(1.0), no_training, plan)
    assert zero_share(trained.model.middle) == pytest.approx(0.5, abs=2 / 2160)
    assert zero_share(trained.model.last) == pytest.approx(0.25, abs=2 / 320)


@pytest.mark.parametrize("strategy", ["one-shot", "global"])
def test_no_layer_passes_its_max_sparsity_and_the_others_give_the_rest(trained, strategy) -> None:
    plan = scheduled(
        strategy, layers={"middle": LayerPlan(max_sparsity=0.71)}, target_sparsity=0.69
    )
    prune(trained.model, always(1.0), no_training, plan)
    assert 0.71 - 4 / 2160 <= zero_share(trained.model.middle) <= 0.71
    assert pruned_share(trained.model) == pytest.approx(0.69, abs=4 / WEIGHTS)


def test_even_shares_give_what_is_wanted() -> None:
    weights = {"a": 100, "b": 300, "c": 600}
    assert even_shares(500, weights, dict.fromkeys(weights, 1.0)) == pytest.approx(
        {"a": 0.5, "b": 0.5, "c": 0.5}
    )
    assert even_shares(600, weights, {"a": 1.0, "b": 0.2, "c": 1.0}) == pytest.approx(
        {"a": 540 / 700, "b": 0.2, "c": 540 / 700}
    )
    assert even_shares(560, weights, {"a": 0.5, "b": 0.7, "c": 1.0}) == pytest.approx(
        {"a": 0.5, "b": 510 / 900, "c": 510 / 900}
    )


def test_selections_extend_the_masks_that_are_there() -> None:
    norms = torch.arange(1.0, 13.0).reshape(3, 4, 1, 1)
    sizes = group_sizes((3, 16, 1, 1), (1, 4))
    mask = torch.ones_like(norms, dtype=torch.bool)
    mask[2, 3] = False  # the largest
    layers = {"a": PrunableLayer(norms, sizes, mask), "b": PrunableLayer(norms * 10, sizes, mask)}
    for masks in (
        select_each(layers, {"a": 0.5, "b": 0.0}, "below"),
        select_over_all(layers, 28, "below"),
    ):
        assert not masks["a"][2, 3].item()
        assert int((~masks["a"]).sum()) == 6
        assert int((~masks["b"]).sum()) == 1


def test_the_method_stops_at_its_target_sparsity_and_fine_tunes_with_what_is_left(trained) -> None:
    plan = PrunePlan(
        0.9, SPLIT, LayerPlan(alpha=9.0), step=0.2, rounds=2, total_rounds=8, target_sparsity=0.4
    )
    result = prune(
        trained.model,
        trained.evaluate,
        trained.train,
        plan,
        training_state=[trained.optimizer],
    )
    assert result.ended == "reached target_sparsity 0.4"
    assert 0.4 - 4 / WEIGHTS <= result.pruned_share <= 0.4
    assert result.rounds == trained.rounds == 8, "the whole budget"
    tuned = [record for record in result.history if record.phase == "fine-tune"]
    assert len(tuned) == 8 - sum(step.rounds for step in result.steps) > 0
    assert all(record.pruned_share == result.pruned_share for record in tuned)
    assert result.accuracy == trained.evaluate(trained.model) >= 0.9


@pytest.mark.parametrize("side", ["below", "above"])
def test_the_method_under_one_threshold_over_all_layers(trained, side) -> None:
    plan = PrunePlan(
        0.5, SPLIT, step=0.3, total_rounds=4, target_sparsity=0.4, threshold="global", prune=side
    )
    names = ("middle", "last")
    convs = [trained.model.get_submodule(name) for name in names]
    norms = torch.cat([group_norms(conv.weight, (1, 4)).flatten() for conv in convs])
    result = prune(trained.model, always(1.0), no_training, plan)  # the weights stay
    assert result.ended == "reached target_sparsity 0.4"
    assert 0.4 - 4 / WEIGHTS <= result.pruned_share <= 0.4
    kept = torch.cat([companion_mask(conv).mask.flatten() for conv in convs])
    falling = norms if side == "below" else -norms
    # One group on the pruned side may be left: it would be more than is wanted.
    assert (falling[kept] < falling[~kept].max()).sum() <= 1
    assert {step.layer for step in result.steps} == set(names), "layers still take turns"


def test_one_threshold_over_all_layers_is_drawn_anew_at_every_step(trained) -> None:
    shrunk = iter([True])

    def train(model: nn.Module) -> None:
        if next(shrunk, False):  # from here on, all that is small lies in this layer
            with torch.no_grad():
                raw_weight(model.last).mul_(1e-3)

    plan = PrunePlan(
        0.5, SPLIT, step=0.1, min_rounds=1, total_rounds=99, target_sparsity=0.1, threshold="global"
    )
    prune(trained.model, always(1.0), train, plan)
    first_step = 0.1 * 2160  # of middle, before the other layer shrank
    assert zero_share(trained.model.middle) * 2160 <= first_step
    assert zero_share(trained.model.last) > 0.1


def test_no_layer_passes_its_max_sparsity_under_one_threshold(trained) -> None:
    plan = PrunePlan(
        0.5, SPLIT, LayerPlan(max_sparsity=0.5), total_rounds=0, target_sparsity=0.9,
        threshold="global",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"target_sparsity: .*0\.9"):
        prune(trained.model, always(1.0), no_training, plan)
    plan = dataclasses.replace(plan, target_sparsity=0.45)
    prune(trained.model, always(1.0), no_training, plan)
    assert all(zero_share(trained.model.get_submodule(n)) <= 0.5 for n in ("middle", "last"))


@pytest.mark.parametrize("least", [0, 1, 3])
def test_each_step_is_retrained_for_the_least_rounds_even_at_the_target(trained, least) -> None:
    plan = PrunePlan(0.5, SPLIT, LayerPlan(sparsity=0.5), step=0.3, rounds=3, min_rounds=least)
    result = prune(trained.model, always(1.0), no_training, plan)
    assert {step.rounds for step in result.steps} == {least}
    assert result.rounds == least * len(result.steps)


def test_fine_tuning_that_ends_below_the_target_is_undone_to_its_last_good_round(trained) -> None:
    accuracies = iter([0.9, 0.9, 0.8, 0.7, 0.1, 0.2])
    seen: list[dict] = []

    def train(model: nn.Module) -> None:
        with torch.no_grad():
            model.head.bias += 1.0
        seen.append({"head": model.head.bias.clone()})

    plan = PrunePlan(
        0.5, SPLIT, LayerPlan(alpha=9.0), step=1.0, total_rounds=4, target_sparsity=0.3
    )
    result = prune(trained.model, lambda model: next(accuracies), train, plan)
    assert [record.accuracy for record in result.history] == [0.9, 0.8, 0.7, 0.1, 0.2]
    assert result.accuracy == 0.7
    assert torch.equal(trained.model.head.bias, seen[1]["head"])


def test_a_loop_that_converges_early_says_so_and_still_uses_its_rounds(trained) -> None:
    def evaluate(model: nn.Module) -> float:
        return 0.9 if zero_share(model.middle) == zero_share(model.last) == 0 else 0.1

    plan = PrunePlan(0.5, SPLIT, step=0.001, rounds=1, total_rounds=7, target_sparsity=0.3)
    result = prune(trained.model, evaluate, no_training, plan)
    assert result.ended == "converged"
    assert (result.pruned_share, result.rounds) == (0.0, 7)


def test_above_is_labelled_in_the_record(trained) -> None:
    result = prune(trained.model, always(1.0), no_training, scheduled("one-shot", prune="above"))
    assert result.to_dict()["plan"]["prune"] == "above"


def test_the_history_has_losses_and_the_statistics_of_the_baseline(trained) -> None:
    def evaluate(model: nn.Module) -> Evaluation:
        accuracy = trained.evaluate(model)
        return Evaluation(accuracy, 2.0 - accuracy)

    def train(model: nn.Module) -> float:
        trained.train(model)
        return 0.25

    result = prune(trained.model, evaluate, train, scheduled("gradual", total_rounds=2))
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    first, *rest = written["history"]
    assert (first["phase"], first["train_loss"], first["pruned_share"]) == ("baseline", None, 0.0)
    assert first["loss"] == written["base_loss"] == pytest.approx(2.0 - first["accuracy"])
    assert [record["train_loss"] for record in rest] == [0.25, 0.25]
    assert written["loss"] == rest[-1]["loss"]
    activations = written["activations"]
    assert list(activations) == ["stem", "middle", "last"]
    assert activations["middle"]["output"]["count"] == 256 * 20 * 36, "once, while it was dense"
    assert activations["last"]["input"]["minimum"] == 0.0
    assert 0.0 < activations["last"]["input"]["zero_share"] < 1.0
    assert set(written["versions"]) == {"l1sparse", "torch", "python"}
    assert written["ranks"] == 1
    assert written["target_reached"]
    assert not any(conv._forward_hooks for conv in (trained.model.stem, trained.model.middle))


@pytest.mark.parametrize("strategy", ["method", "one-shot", "gradual", "global"])
@pytest.mark.parametrize("source", ["accuracy", "loss", "infinite loss", "training loss"])
def test_a_loss_that_is_not_finite_ends_it_and_the_last_good_state_is_kept(
    trained, strategy: str, source: str
) -> None:
    if strategy == "method":
        plan = PrunePlan(0.99, SPLIT, step=0.9, rounds=9, total_rounds=9, target_sparsity=0.6)
    else:
        plan = scheduled(strategy, total_rounds=9)
    states: list[dict] = []

    def broken() -> bool:
        return trained.rounds == 3

    def evaluate(model: nn.Module) -> Evaluation:
        if broken() and source == "accuracy":
            return Evaluation(math.nan)
        loss = {"loss": math.nan, "infinite loss": math.inf}.get(source) if broken() else 0.5
        accuracy = trained.evaluate(model)
        states.append({"bits": model.head.weight.detach().clone(), "accuracy": accuracy})
        return Evaluation(accuracy, loss)

    def train(model: nn.Module) -> float:
        trained.train(model)
        if broken():
            with torch.no_grad():
                model.head.weight.fill_(math.nan)
        return math.nan if broken() and source == "training loss" else 0.5

    result = prune(trained.model, evaluate, train, plan, training_state=[trained.optimizer])
    assert result.diverged
    assert result.ended.startswith("stopped: ")
    assert "it returned nan" in result.ended or "it returned inf" in result.ended
    assert result.rounds == trained.rounds == 3
    assert result.history[-1].accuracy is None
    assert torch.isfinite(trained.model.head.weight).all()
    assert result.accuracy == trained.evaluate(trained.model)
    assert any(torch.equal(trained.model.head.weight, state["bits"]) for state in states)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_baseline_without_a_finite_loss_is_an_error(trained) -> None:
    for found in (Evaluation(0.9, math.nan), math.nan):
        with pytest.raises(ValueError, match=r"evaluate: expected a .*, it returned nan"):
            prune(trained.model, lambda model, found=found: found, no_training, scheduled("global"))


def test_what_the_layers_cannot_give_is_refused(trained) -> None:
    for strategy in ("method", "one-shot"):
        plan = PrunePlan(0.5, SPLIT, strategy=strategy, target_sparsity=0.97, total_rounds=1)
        with pytest.raises(ValueError, match=r"target_sparsity: expected at most 0.9583, .* 0.97"):
            prune(trained.model, always(1.0), no_training, plan)
    wide = LayerSplit((LayerSensitivity("middle", GroupShape(1, 16), 1.0, (), 0.1),))
    with pytest.raises(
        ValueError, match=r"layer 'middle' cannot be pruned: its filters see 12 .* 16 of group 1x16"
    ):
        prune(trained.model, always(1.0), no_training, PrunePlan(0.5, wide))


@pytest.mark.parametrize("strategy", ["method", "one-shot", "gradual", "global"])
def test_a_target_above_what_the_baseline_reaches_is_refused(trained, strategy) -> None:
    plan = PrunePlan(0.95, SPLIT, strategy=strategy, target_sparsity=0.5, total_rounds=2)
    with pytest.raises(ValueError, match=r"target_accuracy: the model starts at 0.9400, below the"):
        prune(trained.model, always(0.94), no_training, plan)
    assert companion_mask(trained.model.middle) is None, "the model is as it was"


def test_masks_of_an_earlier_run_count_towards_the_target(trained) -> None:
    first = LayerSplit(SPLIT.prune[1:])
    prune(
        trained.model, always(1.0), no_training,
        PrunePlan(0.5, first, LayerPlan(sparsity=1.0), strategy="one-shot", total_rounds=0),
    )  # fmt: skip
    assert zero_share(trained.model.last) == 1.0
    for strategy in ("one-shot", "method"):
        plan = PrunePlan(
            0.5, LayerSplit(SPLIT.prune[:1]), strategy=strategy, target_sparsity=0.5,
            total_rounds=1, step=0.2,
        )  # fmt: skip
        prune(trained.model, always(1.0), no_training, plan)
        assert pruned_share(trained.model) == pytest.approx(0.5, abs=4 / WEIGHTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "magic"}, "strategy: expected one of method, one-shot, .*; got 'magic'"),
        ({"total_rounds": None}, "total_rounds: the one-shot strategy needs a number, got None"),
        ({"target_sparsity": None}, "sparsity: the one-shot .* 'middle' has None and target_spars"),
        ({"target_sparsity": 70}, "target_sparsity: expected a fraction from 0 to 1, got 70"),
        ({"layer": LayerPlan(sparsity=0.5)}, "sparsity: the one-shot .* 'middle' has 0.5 and targ"),
        ({"layer": LayerPlan(alpha=2.0)}, "alpha: .* expected None for 'middle'; got 2.0"),
        ({"pruning_rounds": 2}, "pruning_rounds: the one-shot strategy has none, .* got 2"),
        ({"strategy": "method", "pruning_rounds": 2}, "pruning_rounds: the method strategy has no"),
        ({"strategy": "gradual", "pruning_rounds": 5}, r"1 to total_rounds=4, got 5"),
        ({"strategy": "global", "pruning_rounds": 0}, r"1 to total_rounds=4, got 0"),
        ({"threshold": "global"}, "threshold: the one-shot strategy has one of its own, .*'layer'"),
        (
            {"strategy": "method", "threshold": "global", "target_sparsity": None},
            "target_sparsity: threshold='global' needs a number, got None",
        ),
        (
            {"strategy": "method", "threshold": "global", "layer": LayerPlan(sparsity=0.5)},
            "threshold: 'global' .* 'middle' has alpha=None and sparsity=0.5; expected None",
        ),
    ],
)
def test_a_plan_that_its_strategy_cannot_follow_is_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        scheduled(**{"strategy": "one-shot", **arguments})
