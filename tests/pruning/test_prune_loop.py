# SPDX-License-Identifier: MIT
"""The loop on a real, tiny problem, and its rules one by one under a rigged `evaluate`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from l1sparse.format import GroupShape
from l1sparse.pruning.curve import LayerSensitivity
from l1sparse.pruning.group import group_norms
from l1sparse.pruning.layers import conv_layers, pruned_share
from l1sparse.pruning.loop import prune
from l1sparse.pruning.mask import attach, companion_mask, detach_all, extend, raw_weight
from l1sparse.pruning.schedule import LayerPlan, PrunePlan
from l1sparse.pruning.sensitivity import measure_sensitivity
from l1sparse.pruning.split import KeptLayer, LayerSplit, split_layers
from l1sparse.pruning.threshold import claims_threshold


def split_of(*names: str, group: str = "1x4") -> LayerSplit:
    return LayerSplit(
        tuple(LayerSensitivity(name, GroupShape.of(group), 1.0, (), 0.1) for name in names)
    )


def zero_share(conv: nn.Conv2d) -> float:
    return float((conv.weight == 0).double().mean())


def always(accuracy: float) -> Callable[[nn.Module], float]:
    return lambda model: accuracy


def no_training(model: nn.Module) -> None:
    pass


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }


def assert_same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_trained_network_is_pruned_and_stays_at_its_target(trained) -> None:
    model, masks = trained.model, []
    sensitivities = measure_sensitivity(model, trained.evaluate, conv_layers(model), (1, 4))
    plan = PrunePlan(0.97, split_layers(sensitivities), layer=LayerPlan(alpha=1.5), rounds=4)

    def watch(model: nn.Module) -> bool:
        masks.append(
            {
                name: companion_mask(model.get_submodule(name)).mask.clone()
                for name in ("middle", "last")
            }
        )
        assert trained.evaluate(model) >= 0.97, "between steps, the network is at its target"
        return False

    result = prune(
        model,
        trained.evaluate,
        trained.train,
        plan,
        training_state=[trained.optimizer],
        stop=watch,
    )

    assert result.ended == "converged"
    assert result.accuracy == trained.evaluate(model) >= 0.97
    assert result.pruned_share == pruned_share(model) > 0.5
    assert result.rounds == trained.rounds == sum(step.rounds for step in result.steps) > 0
    assert any(step.accuracy_pruned < 0.97 <= step.accuracy for step in result.steps)
    for before, after in pairwise(masks):
        assert not any((after[name] & ~before[name]).any() for name in before)
    for record in result.layers:
        assert record.density == pytest.approx(1 - zero_share(conv_layers(model)[record.name]))

    detach_all(model)
    assert trained.evaluate(model) == result.accuracy
    assert pruned_share(model) == result.pruned_share
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [layer["name"] for layer in written["layers"]] == ["stem", "middle", "last"]
    assert written["layers"][1]["group"] == "1x4"
    assert written["steps"][0].keys() >= {"layer", "threshold", "density", "accuracy", "accepted"}


def test_layers_take_turns_in_the_order_of_the_split(trained) -> None:
    plan = PrunePlan(0.5, split_of("last", "middle"), passes=1)
    result = prune(trained.model, always(1.0), no_training, plan)
    assert [step.layer for step in result.steps] == ["last", "middle"]
    assert result.ended == "1 passes made"


def test_the_first_step_prunes_the_groups_below_the_claims_threshold(trained) -> None:
    conv = trained.model.middle
    norms, theta = group_norms(conv.weight, (1, 4)), claims_threshold(conv.weight, 0.8)
    plan = PrunePlan(
        0.5, split_of("middle"), LayerPlan(alpha=9.0), {"middle": LayerPlan(alpha=0.8)},
        step=1.0, passes=1,
    )  # fmt: skip
    result = prune(trained.model, always(1.0), no_training, plan)
    assert torch.equal(companion_mask(conv).mask, norms >= theta)
    assert result.steps[0].threshold == theta


def test_theta_falls_until_the_layer_settles_and_the_loop_has_converged(trained) -> None:
    plan = PrunePlan(0.5, split_of("middle"), LayerPlan(alpha=1.6))
    result = prune(trained.model, always(1.0), no_training, plan)
    thetas = [step.threshold for step in result.steps]
    assert len(thetas) > 1
    assert thetas == sorted(thetas, reverse=True)
    conv = trained.model.middle
    kept = group_norms(conv.weight, (1, 4))[companion_mask(conv).mask]
    assert kept.min() >= claims_threshold(conv.weight, 1.6)
    assert result.ended == "converged"
    assert result.passes == len(thetas) + 1
    assert result.layers[1].closed == "settled: no group on the pruned side of theta"


def test_above_is_the_literal_reading(trained) -> None:
    conv = trained.model.middle
    norms, theta = group_norms(conv.weight, (1, 4)), claims_threshold(conv.weight)
    plan = PrunePlan(0.5, split_of("middle"), prune="above", step=1.0, passes=1)
    prune(trained.model, always(1.0), no_training, plan)
    assert torch.equal(companion_mask(conv).mask, norms <= theta)


def test_a_step_takes_at_most_its_share_of_what_remains(trained) -> None:
    conv = trained.model.middle
    plan = PrunePlan(0.5, split_of("middle"), LayerPlan(sparsity=0.9), step=0.25)
    result = prune(trained.model, always(1.0), no_training, plan)
    remaining = conv.weight.numel()
    for step in result.steps:
        assert step.pruned_weights <= 0.25 * remaining
        remaining -= step.pruned_weights
    assert len(result.steps) > 5
    assert zero_share(conv) == pytest.approx(0.9, abs=2 / conv.weight.numel())
    assert result.layers[1].closed == "reached its sparsity 0.9"


def test_a_step_share_below_one_group_still_takes_one(trained) -> None:
    plan = PrunePlan(0.5, split_of("middle"), step=1e-9, passes=3)
    result = prune(trained.model, always(1.0), no_training, plan)
    assert [step.pruned_weights for step in result.steps] == [4, 4, 4]


def test_max_sparsity_is_never_passed(trained) -> None:
    plan = PrunePlan(0.5, split_of("middle"), LayerPlan(alpha=100.0, max_sparsity=0.6))
    result = prune(trained.model, always(1.0), no_training, plan)
    assert 0.6 - 4 / 2160 <= zero_share(trained.model.middle) <= 0.6
    assert result.layers[1].closed == "reached max_sparsity 0.6"


def test_a_step_that_misses_the_target_is_rolled_back_bit_for_bit(trained) -> None:
    model, optimizer = trained.model, trained.optimizer
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    companion = attach(model.last, (1, 4))
    extend(model.last, torch.rand(companion.mask.shape) < 0.8, optimizer)
    trained.train(model)
    before, state = tensors(model), copy.deepcopy(optimizer.state_dict())
    zeros = zero_share(model.last)

    def train(model: nn.Module) -> None:
        trained.train(model)
        scheduler.step()

    def fails_once_pruned(model: nn.Module) -> float:
        return 0.0 if zero_share(model.last) > zeros else 0.9

    plan = PrunePlan(0.5, split_of("last"), rounds=2, retries=0)
    result = prune(model, fails_once_pruned, train, plan, training_state=[optimizer, scheduler])

    assert_same(tensors(model), before)
    assert_same(optimizer.state_dict()["state"], state["state"])
    assert optimizer.param_groups[0]["lr"] == 3e-3
    assert scheduler.last_epoch == 0
    (step,) = result.steps
    assert (step.rounds, step.accepted, result.accuracy) == (2, False, 0.9)
    assert "missed the target on 1 tries" in result.layers[2].closed
    trained.train(model)
    assert zero_share(model.last) == zeros, "training goes on under the old mask"


def test_a_layer_that_fails_is_closed_and_the_others_go_on(trained) -> None:
    def evaluate(model: nn.Module) -> float:
        return 0.0 if zero_share(model.last) else 0.9

    plan = PrunePlan(0.5, split_of("last", "middle"), step=0.1, rounds=1, retries=2)
    result = prune(trained.model, evaluate, no_training, plan)
    tries = [step.pruned_weights for step in result.steps if step.layer == "last"]
    assert len(tries) == 3 < result.passes - 1, "a closed layer has no more turns"
    assert all(later <= earlier / 2 for earlier, later in pairwise(tries))
    assert "missed the target on 3 tries" in result.layers[2].closed
    assert zero_share(trained.model.last) == 0.0
    assert zero_share(trained.model.middle) > 0.3
    assert result.ended == "converged"


def test_a_retry_halves_what_was_tried_and_not_what_was_allowed(trained) -> None:
    def evaluate(model: nn.Module) -> float:
        return 0.0 if zero_share(model.middle) else 0.9

    plan = PrunePlan(0.5, split_of("middle"), LayerPlan(sparsity=0.1), step=1.0, rounds=0)
    result = prune(trained.model, evaluate, no_training, plan)
    assert [step.pruned_weights for step in result.steps] == [216, 108]


def test_a_failed_step_of_one_group_is_final(trained) -> None:
    plan = PrunePlan(0.5, split_of("middle"), step=1e-9, retries=9, rounds=0)

    def evaluate(model: nn.Module) -> float:
        return 0.0 if zero_share(model.middle) else 0.9

    result = prune(trained.model, evaluate, no_training, plan)
    assert [step.pruned_weights for step in result.steps] == [4]
    assert result.ended == "converged"


def test_a_smaller_step_may_succeed_where_a_large_one_failed(trained) -> None:
    def evaluate(model: nn.Module) -> float:
        return 0.9 if zero_share(model.middle) <= 0.3 else 0.0

    result = prune(trained.model, evaluate, no_training, PrunePlan(0.5, split_of("middle")))
    assert [step.accepted for step in result.steps][:2] == [False, True]
    assert 0.2 < zero_share(trained.model.middle) <= 0.3


def test_retraining_ends_as_soon_as_the_target_is_reached(trained) -> None:
    accuracies = iter([0.9, 0.1, 0.3, 0.6])
    plan = PrunePlan(0.5, split_of("middle"), rounds=5, passes=1)
    result = prune(trained.model, lambda model: next(accuracies), no_training, plan)
    (step,) = result.steps
    assert (step.accuracy_pruned, step.accuracy, step.rounds) == (0.1, 0.6, 2)
    assert step.accepted
    assert result.accuracy == 0.6


def test_when_the_rounds_are_used_up_the_last_good_state_is_left(trained) -> None:
    good = {}

    def evaluate(model: nn.Module) -> float:
        return 0.9 if zero_share(model.middle) < 0.5 else 0.0

    def remember(model: nn.Module) -> bool:
        good.update(tensors(model))
        return False

    plan = PrunePlan(
        0.5, split_of("middle"), LayerPlan(sparsity=0.8), step=0.3, retries=0, total_rounds=2
    )
    result = prune(trained.model, evaluate, trained.train, plan, stop=remember)
    assert result.ended == "all 2 rounds of retraining used"
    assert result.rounds == trained.rounds == 2
    assert not result.steps[-1].accepted
    assert result.layers[1].closed == f"open when the loop ended: {result.ended}"
    assert_same(tensors(trained.model), good)


def test_the_caller_can_stop_between_steps(trained) -> None:
    plan = PrunePlan(0.5, split_of("middle"), step=0.1)
    result = prune(
        trained.model,
        always(1.0),
        no_training,
        plan,
        stop=lambda model: zero_share(model.middle) > 0.15,
    )
    assert result.ended == "stopped by the caller"
    assert 0.15 < zero_share(trained.model.middle) < 0.25


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_last_good_state(trained, error) -> None:
    good = {}

    def evaluate(model: nn.Module) -> float:
        return 0.9 if zero_share(model.middle) < 0.5 else 0.0

    def train(model: nn.Module) -> None:
        trained.train(model)
        raise error("no more")

    def remember(model: nn.Module) -> bool:
        good.update(tensors(model))
        return False

    plan = PrunePlan(0.5, split_of("middle"), LayerPlan(sparsity=0.8), step=0.3)
    with pytest.raises(error, match="no more"):
        prune(trained.model, evaluate, train, plan, stop=remember)
    assert zero_share(trained.model.middle) > 0.2
    assert_same(tensors(trained.model), good)


def test_optimizers_forget_pruned_weights(trained) -> None:
    plan = PrunePlan(0.5, split_of("middle"), passes=1)
    prune(trained.model, always(1.0), no_training, plan, training_state=[trained.optimizer])
    conv = trained.model.middle
    pruned = ~companion_mask(conv).weight_mask()
    assert pruned.any()
    for moments in ("exp_avg", "exp_avg_sq"):
        assert (trained.optimizer.state[raw_weight(conv)][moments][pruned] == 0).all()


def test_recalibration_comes_between_pruning_and_measuring(trained) -> None:
    log: list[str] = []

    def evaluate(model: nn.Module) -> float:
        log.append("evaluate")
        return 0.9

    def recalibrate(model: nn.Module) -> None:
        log.append("recalibrate" if zero_share(model.middle) else "too early")

    plan = PrunePlan(0.5, split_of("middle"), passes=1)
    prune(trained.model, evaluate, no_training, plan, recalibrate=recalibrate)
    assert log == ["evaluate", "recalibrate", "evaluate"]


def test_pruning_can_go_on_from_the_masks_of_an_earlier_run(trained) -> None:
    first = PrunePlan(0.5, split_of("middle"), LayerPlan(sparsity=0.4))
    prune(trained.model, always(1.0), no_training, first)
    mask = companion_mask(trained.model.middle).mask.clone()
    second = PrunePlan(0.5, split_of("middle"), LayerPlan(sparsity=0.7))
    prune(trained.model, always(1.0), no_training, second)
    assert zero_share(trained.model.middle) == pytest.approx(0.7, abs=0.01)
    assert not (companion_mask(trained.model.middle).mask & ~mask).any()


def test_every_conv_of_the_network_has_a_record(trained) -> None:
    kept = KeptLayer(LayerSensitivity("last", GroupShape(1, 8), 1.0, (), 0.4), "kept by name: last")
    split = LayerSplit(split_of("middle").prune, (kept,))
    told: list[str] = []
    result = prune(
        trained.model, always(1.0), no_training, PrunePlan(0.5, split), on_progress=told.append
    )
    stem, middle, last = result.layers
    assert (stem.closed, stem.group, stem.sensitivity) == ("not in the plan", None, None)
    assert (last.closed, last.group, last.sensitivity) == ("kept by name: last", "1x8", 0.4)
    assert (last.threshold, last.density, last.weights) == (None, 1.0, 320)
    assert (middle.group, middle.sensitivity) == ("1x4", 0.1)
    assert len(told) == len(result.steps)
    assert companion_mask(trained.model.last) is None


def test_a_plan_without_layers_converges_at_once(trained) -> None:
    result = prune(trained.model, always(1.0), no_training, PrunePlan(0.5, LayerSplit(())))
    assert (result.ended, result.steps, result.pruned_share) == ("converged", (), 0.0)


def test_prune_names_what_is_wrong(trained) -> None:
    model = trained.model
    with pytest.raises(
        ValueError, match=r"target_accuracy: the model starts at 0.4000, below .*0.5"
    ):
        prune(model, always(0.4), no_training, PrunePlan(0.5, split_of("middle")))
    with pytest.raises(ValueError, match=r"plan: the layer 'stem' cannot be pruned: each filter"):
        prune(model, always(1.0), no_training, PrunePlan(0.5, split_of("stem")))
    with pytest.raises(ValueError, match=r"evaluate: expected a fraction .* returned 98.0"):
        prune(model, always(98.0), no_training, PrunePlan(0.5, split_of("middle")))
    attach(model.last, (1, 8))
    with pytest.raises(ValueError, match=r"group: .* companion mask of group 1x8, got 1x4"):
        prune(model, always(1.0), no_training, PrunePlan(0.5, split_of("last")))
    with torch.no_grad():
        model.middle.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"weight: 1 of 2160 values are NaN or infinite"):
        prune(model, always(1.0), no_training, PrunePlan(0.5, split_of("middle")))
