# SPDX-License-Identifier: MIT
"""Pruned weights that are timed: random ones and those of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import l1sparse
from l1sparse import GroupShape
from l1sparse.group_mask import nonzero_groups
from masks import file_cases, random_cases
from suites import Layer


class Network(nn.Module):
    """Twelve convolutions, so that the names' order is not the alphabet's."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        rest = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(10)]
        self.blocks = nn.Sequential(first, *rest, nn.Conv2d(16, 32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


SUITE = (Layer(16, 16, 8, 3, stride=2), Layer(16, 16, 4, 3, count=10), Layer(16, 32, 4, 1))


@pytest.fixture
def network() -> Network:
    """Every convolution prunes another number of its groups of eight."""
    network = Network()
    with torch.no_grad():
        for i, conv in enumerate(network.blocks):
            kept = torch.ones(conv.weight[:, ::8].numel())
            kept[: 10 + i] = 0
            kept = kept.reshape(conv.weight[:, ::8].shape)
            conv.weight.mul_(kept.repeat_interleave(8, 1))
    return network


def saved(network: nn.Module, path: Path) -> Path:
    sparse = l1sparse.SparseConv2d
    for i, conv in enumerate(list(network.blocks)):
        if (conv.weight == 0).any():
            network.blocks[i] = sparse.from_dense(conv, (1, 8))
    l1sparse.save(network.eval(), path)
    return path


def test_random_masks_prune_the_exact_share_and_repeat() -> None:
    group = GroupShape(1, 8)
    cases, notes = random_cases([Layer(16, 25, 4, 3)], [group], [0.0, 0.5, 0.9, 1.0], seed=3)
    assert notes == []
    kept = [int(nonzero_groups(case.weight(), group).sum()) for case in cases]
    assert kept == [450, 225, 45, 0]
    assert torch.equal(cases[1].weight(), cases[1].weight())


def test_layers_smaller_than_a_group_are_left_out_with_a_note() -> None:
    layers = [Layer(8, 16, 4, 1), Layer(32, 8, 4, 1), Layer(32, 32, 4, 1)]
    cases, notes = random_cases(layers, [GroupShape(16, 16)], [0.5, 0.9], seed=0)
    assert [case.layer for case in cases] == [layers[2]] * 2
    assert len(notes) == 2
    assert "8 > 16 @ 4, 1x1: smaller than a 16x16 group" in notes


def test_weights_of_a_file_go_to_their_layers(network: Network, tmp_path: Path) -> None:
    weights = [conv.weight.detach().clone() for conv in network.blocks]
    cases, notes = file_cases(SUITE, saved(network, tmp_path / "n.safetensors"))
    assert notes == []
    assert [case.name for case in cases] == [f"blocks.{i}" for i in range(12)]
    assert [case.layer.stride for case in cases] == [2] + [1] * 11
    assert all(case.layer.count == 1 and case.sparsity is None for case in cases)
    for case, weight in zip(cases, weights, strict=True):
        assert case.group == GroupShape(1, 8)
        assert torch.equal(case.weight(), weight)


def test_unpruned_layers_of_a_file_keep_their_place(network: Network, tmp_path: Path) -> None:
    with torch.no_grad():
        network.blocks[0].weight.fill_(1.0)
    cases, notes = file_cases(SUITE, saved(network, tmp_path / "n.safetensors"))
    assert [case.name for case in cases] == [f"blocks.{i}" for i in range(1, 12)]
    assert {case.layer.stride for case in cases} == {1}
    assert notes == ["blocks.0: not pruned in n.safetensors"]


def test_layers_that_cannot_be_told_apart_are_left_out(network: Network, tmp_path: Path) -> None:
    shorter = (*SUITE[:1], Layer(16, 16, 4, 3, count=2), *SUITE[2:])
    cases, notes = file_cases(shorter, saved(network, tmp_path / "n.safetensors"))
    assert [case.name for case in cases] == ["blocks.11"]
    assert notes == ["3 layers of weight 16x16x3x3, 11 in n.safetensors"]


def test_layers_all_alike_take_the_weights_that_there_are(network: Network, tmp_path: Path) -> None:
    alike = (Layer(16, 16, 4, 3, count=2),)
    cases, notes = file_cases(alike, saved(network, tmp_path / "n.safetensors"))
    assert [case.name for case in cases] == ["blocks.0", "blocks.1"]
    assert len(notes) == 1
