# SPDX-License-Identifier: MIT
"""Optimizers, schedulers and losses by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l1sparse.train import Recipe
from l1sparse.train.recipe import loss_of, make_optimizer, make_scheduler


def optimizer_of(recipe: Recipe) -> torch.optim.Optimizer:
    return make_optimizer(recipe, [nn.Parameter(torch.ones(2))])


def test_an_optimizer_is_made_by_name_with_its_options() -> None:
    optimizer = optimizer_of(
        Recipe(optimizer="SGD", learning_rate=0.3, optimizer_options={"momentum": 0.8})
    )
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == 0.3
    assert optimizer.defaults["momentum"] == 0.8


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(optimizer="Sgd"), "optimizer: expected one of .*SGD.*; got 'Sgd'"),
        (Recipe(optimizer="Optimizer"), "optimizer: expected one of "),
        (Recipe(optimizer_options={"speed": 1}), r"optimizer: SGD\(lr=0.01, speed=1\): .*'speed'"),
        (Recipe(optimizer_options={"momentum": -1}), r"optimizer: SGD\(.*\): Invalid momentum"),
    ],
)
def test_an_optimizer_that_there_is_not_is_an_error(recipe: Recipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer_of(recipe)


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        ("CosineAnnealingLR", {}, [0.1, 0.05, 0.0]),
        ("CosineAnnealingLR", {"T_max": 4}, [0.1, 0.0853553, 0.05]),
        ("LinearLR", {"start_factor": 1.0, "end_factor": 0.5}, [0.1, 0.075, 0.05]),
        ("OneCycleLR", {"max_lr": 0.4, "div_factor": 8, "pct_start": 0.5}, [0.05, 0.4, 0.2]),
        ("StepLR", {"step_size": 1, "gamma": 0.5}, [0.1, 0.05, 0.025]),
        ("ConstantLR", {"factor": 0.5, "total_iters": 2}, [0.05, 0.05, 0.1]),
    ],
)
def test_a_scheduler_gets_its_length_where_that_is_left_out(
    name: str, options: dict[str, float], rates: list[float]
) -> None:
    recipe = Recipe(learning_rate=0.1, scheduler=name, scheduler_options=options)
    optimizer = optimizer_of(recipe)
    scheduler = make_scheduler(recipe, optimizer, length=4 if name == "OneCycleLR" else 2)
    found = []
    for step in range(3):
        found.append(optimizer.param_groups[0]["lr"])
        if step < 2:
            optimizer.step()
            scheduler.step()
    assert found == pytest.approx(rates, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(scheduler="Cosine"), "scheduler: expected one of .*CosineAnnealingLR.*; got 'Cos"),
        (Recipe(scheduler="CosineAnnealingLR"), r"scheduler: CosineAnnealingLR\(\): .*T_max"),
        (Recipe(scheduler="ReduceLROnPlateau"), "scheduler_every: .* expected 'round', got 'step'"),
        (Recipe(scheduler="StepLR"), r"scheduler: StepLR\(\): .*step_size"),
    ],
)
def test_a_scheduler_that_cannot_be_made_is_an_error(recipe: Recipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scheduler(recipe, optimizer_of(recipe), length=None)


def test_without_a_scheduler_there_is_none() -> None:
    assert make_scheduler(Recipe(), optimizer_of(Recipe()), 5) is None


def test_the_loss_is_cross_entropy_with_label_smoothing() -> None:
    outputs, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    found = loss_of(Recipe(label_smoothing=0.2), outputs, labels, None)
    log = F.log_softmax(outputs, 1)
    expected = -(0.8 * log[range(6), labels] + 0.2 * log.mean(1)).mean()
    torch.testing.assert_close(found, expected)


def test_distillation_compares_with_the_dense_network() -> None:
    outputs, teacher = torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    recipe = Recipe(distillation=0.25, temperature=3.0)
    p, q = F.softmax(teacher / 3, 1), F.softmax(outputs / 3, 1)
    expected = 0.75 * F.cross_entropy(outputs, labels) + 0.25 * 9 * (p * (p / q).log()).sum() / 6
    torch.testing.assert_close(loss_of(recipe, outputs, labels, teacher), expected)
    # Nothing is lost where both agree.
    alone = loss_of(Recipe(distillation=1.0), outputs, labels, outputs)
    torch.testing.assert_close(alone, torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"accumulate": 0}, "accumulate: expected at least 1, got 0"),
        ({"steps_per_round": 0}, "steps_per_round: expected at least 1, got 0"),
        ({"label_smoothing": 1.5}, "label_smoothing: expected 0 to 1, got 1.5"),
        ({"distillation": -0.1}, "distillation: expected 0 to 1, got -0.1"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)
