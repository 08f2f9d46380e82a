# SPDX-License-Identifier: MIT
"""Pruned weights are +0.0 at every step under every optimizer that torch has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l1sparse.pruning.mask import attach, companion_mask, extend, raw_weight

OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if kind is not torch.optim.Optimizer
}
# They cannot train a conv weight, and say so themselves.
CANNOT = {
    "SparseAdam": (RuntimeError, "does not support dense gradients"),
    "Muon": (ValueError, "only supports 2D parameters"),
}
# What makes as many of an optimizer's parts move as there are.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ASGD": [{"weight_decay": 0.01, "t0": 2}],
    "Adam": [{"weight_decay": 0.01}, {"weight_decay": 0.01, "amsgrad": True}],
    "AdamW": [{"weight_decay": 0.1}],
    "LBFGS": [{"max_iter": 3}, {"max_iter": 3, "line_search_fn": "strong_wolfe"}],
    "NAdam": [{"weight_decay": 0.01, "decoupled_weight_decay": True}],
    "RMSprop": [{"weight_decay": 0.01, "momentum": 0.9, "centered": True}],
    "SGD": [
        {"momentum": 0.9, "weight_decay": 0.01},
        {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5, "maximize": True},
    ],
    "Rprop": [{}],
}
CASES = [
    pytest.param(name, options, id=f"{name}-{place}")
    for name in sorted(OPTIMIZERS.keys() - CANNOT.keys())
    for place, options in enumerate(OPTIONS.get(name, [{"weight_decay": 0.01}]))
]


class Net(nn.Module):
    """A conv to prune, with tails for groups of 8, and one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(10, 7, 3, padding=1), nn.Conv2d(7, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.other(torch.tanh(self.conv(images)))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    images, goal = torch.randn(4, 10, 6, 6), torch.randn(4, 3, 6, 6)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (model(images) - goal).square().mean()
        loss.backward()
        return float(loss)

    optimizer.step(closure)


def is_plus_zero(values: Tensor) -> bool:
    return bool((values == 0).all()) and not bool(torch.signbit(values).any())


def test_the_optimizers_are_those_of_torch() -> None:
    assert {"SGD", "Adam", "AdamW", "LBFGS", "Rprop", "Adafactor"} <= OPTIMIZERS.keys()
    assert CANNOT.keys() | OPTIONS.keys() <= OPTIMIZERS.keys()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_pruned_weights_stay_zero_under_every_optimizer(name: str, options) -> None:
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters(), lr=0.01, **options)
    companion = attach(model.conv, (1, 8))
    for _ in range(4):
        step(model, optimizer)
    extend(model.conv, torch.rand(companion.mask.shape) < 0.6, optimizer)
    for turn in range(12):
        if turn == 6:
            extend(model.conv, torch.rand(companion.mask.shape) < 0.6, optimizer)
        pruned = ~companion.weight_mask()
        before = model.conv.weight.detach().clone()
        step(model, optimizer)
        weight = model.conv.weight
        assert is_plus_zero(weight[pruned]), f"step {turn}"
        assert (raw_weight(model.conv)[pruned] == 0).all(), f"step {turn}, beneath"
        assert torch.isfinite(weight).all()
        # Rprop does not move a weight whose gradient changed its sign.
        assert (weight != before)[~pruned].double().mean() > 0.4, "the others are trained"


@pytest.mark.parametrize(("name", "options"), CASES)
def test_they_stay_zero_for_the_network_when_the_optimizer_is_not_told(name, options) -> None:
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters(), lr=0.01, **options)
    companion = attach(model.conv, (1, 8))
    for _ in range(4):
        step(model, optimizer)
    extend(model.conv, torch.rand(companion.mask.shape) < 0.6)
    for _ in range(4):
        step(model, optimizer)
        assert is_plus_zero(model.conv.weight[~companion.weight_mask()])


@pytest.mark.parametrize("name", CANNOT)
def test_the_others_refuse_a_conv_weight_themselves(name: str) -> None:
    error, message = CANNOT[name]
    model = Net()
    attach(model.conv, (1, 8))
    with pytest.raises(error, match=message):
        step(model, OPTIMIZERS[name](model.parameters(), lr=0.01))
    assert companion_mask(model.conv) is not None
