# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn

from l1sparse.pruning.layers import (
    conv_layers,
    layer_candidates,
    pruned_share,
    unprunable_reason,
)
from l1sparse.pruning.mask import attach, extend


class StandardisedConv2d(nn.Conv2d):
    """A pruned weight of it is not zero where it is used."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


class FunctionalConv(nn.Module):
    """Keeps a conv weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.kernel) * self.gain[:, None, None]


class Zoo(nn.Module):
    """One layer of every kind that cannot be pruned, and two that can."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(8, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.stem = nn.Conv2d(1, 8, 3)
        self.alias = self.plain
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.two.weight = self.one.weight
        self.linear = nn.Linear(8, 8)
        self.transposed = nn.ConvTranspose2d(8, 8, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
        self.lazy = nn.LazyConv2d(8, 3)
        self.standardised = StandardisedConv2d(8, 8, 3)
        self.complex = nn.Conv2d(8, 8, 3, dtype=torch.complex64)
        self.functional = FunctionalConv()
        self.hooked = torch.nn.utils.prune.identity(nn.Conv2d(8, 8, 3), "weight")
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("depthwise", "in_channels / groups is 1"),
        ("stem", "in_channels / groups is 1"),
        ("alias", "same module as 'plain'"),
        ("one", "shared by 2 modules: one, two"),
        ("two", "shared by 2 modules: one, two"),
        ("linear", "it is a Linear, not an nn.Conv2d"),
        ("transposed", "it is a ConvTranspose2d, not an nn.Conv2d"),
        ("normed", "computed by another parametrization"),
        ("standardised", "it is a StandardisedConv2d, with a forward of its own"),
        ("lazy", "no shape yet"),
        ("complex", "torch.complex64, not real floating point"),
        ("functional", "it is a FunctionalConv, not an nn.Conv2d"),
        ("functional.kernel", "it is a parameter of a FunctionalConv, used by a functional call"),
        ("functional.missing", "no module of this name"),
        ("hooked", "its weight is computed by a hook"),
        ("plian", "no module of this name"),
    ],
)
def test_a_layer_that_cannot_be_pruned_has_a_reason(name: str, reason: str) -> None:
    assert reason in (unprunable_reason(Zoo(), name) or "")


@pytest.mark.parametrize("name", ["plain", "grouped", "blocks.0.0"])
def test_a_layer_that_can_be_pruned_has_none(name: str) -> None:
    model = Zoo()
    assert unprunable_reason(model, name) is None
    attach(model.get_submodule(name), (1, 2))
    assert unprunable_reason(model, name) is None, "a companion mask is no obstacle"


def test_conv_layers_lists_each_module_once_in_order() -> None:
    names = ["plain", "grouped", "depthwise", "stem", "one", "two", "normed", "lazy"]
    others = ["standardised", "complex", "hooked", "blocks.0.0"]
    assert list(conv_layers(Zoo())) == [*names, *others]


def test_candidates_are_all_that_may_be_taken_for_a_conv_layer() -> None:
    model = Zoo()
    found = layer_candidates(model)
    assert set(found) - set(conv_layers(model)) == {"alias", "transposed", "functional.kernel"}
    assert set(conv_layers(model)) < set(found)
    attach(model.plain, (1, 8))
    assert layer_candidates(model) == found, "a companion mask's parameter is no layer"


def test_pruned_share_is_over_the_conv_weights_of_the_whole_network() -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(8, 8))
    nn.init.zeros_(model[2].weight)
    assert pruned_share(model) == 0.0
    attach(model[0], (1, 8))
    extend(model[0], torch.tensor([True, False, False, True]).reshape(4, 1, 1, 1))
    assert pruned_share(model) == 0.25


def test_pruned_share_counts_a_shared_weight_once() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    model[1].weight = model[0].weight
    nn.init.zeros_(model[0].weight)
    assert pruned_share(model) == 0.5


def test_pruned_share_needs_a_conv() -> None:
    with pytest.raises(ValueError, match=r"model: expected nn.Conv2d layers with weights, Linear"):
        pruned_share(nn.Linear(2, 2))
