# SPDX-License-Identifier: MIT
"""Retraining on kept groups alone: what masked dense training computes, at the chosen layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l1sparse.format import GroupShape
from l1sparse.pruning import attach, companion_mask, extend
from l1sparse.pruning.mask import raw_weight
from l1sparse.train import on_pattern, pattern_times
from l1sparse.train.on_pattern import training_on_pattern
from l1sparse.train.pattern_times import DENSITIES, measure_densest

MakeNet = Callable[..., nn.Module]


def masked(conv: nn.Conv2d, group: str = "1x8", density: float = 0.4) -> nn.Conv2d:
    """`conv` with a companion mask that keeps about so much of it."""
    companion = attach(conv, group)
    kept = torch.rand(companion.mask.shape, generator=torch.Generator().manual_seed(3)) < density
    extend(conv, kept)
    return conv


def results(model: nn.Module, input: Tensor) -> dict[str, Tensor]:
    """Output and all gradients."""
    model.zero_grad()
    input = input.clone(memory_format=torch.preserve_format).requires_grad_()
    output = model(input)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
    output.backward(upstream.to(output))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert input.grad is not None
    return {"output": output.detach(), "input": input.grad, **gradients}


@pytest.mark.parametrize(
    ("arguments", "group"),
    [
        ({}, "1x8"),
        ({"padding": 1, "stride": 2}, "1x8"),
        ({"padding": (2, 0), "dilation": (1, 2), "bias": False}, "4x4"),
        ({"padding": "same", "kernel_size": 4}, "1x16"),
        ({"padding": "valid", "groups": 2}, "1x8"),
        ({"padding": 1, "padding_mode": "reflect"}, "3x5"),
        ({"padding": 1, "padding_mode": "circular", "stride": 2}, "1x8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_masked_training(
    arguments: dict[str, Any], group: str, memory_format: torch.memory_format
) -> None:
    conv = nn.Conv2d(16, 12, **({"kernel_size": 3} | arguments))
    net = nn.Sequential(masked(conv, group)).to(memory_format=memory_format)
    input = torch.randn(3, 16, 9, 8).contiguous(memory_format=memory_format)
    expected = results(net, input)
    with training_on_pattern(net, {"0": 1.0}) as chosen:
        assert chosen == ["0"]
        found = results(net, input)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=name)
    companion = companion_mask(conv)
    assert companion is not None
    gradient = found["0.parametrizations.weight.original"]
    assert gradient[~companion.weight_mask()].count_nonzero() == 0
    assert gradient[companion.weight_mask()].count_nonzero() > 0


def test_the_native_kernels_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    native = on_pattern.values_conv2d

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return native(*arguments)

    monkeypatch.setattr(on_pattern, "values_conv2d", counted)
    net = nn.Sequential(masked(nn.Conv2d(16, 8, 3)), masked(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 4, 1))
    input = torch.randn(1, 16, 8, 8)
    dense = nn.Conv2d.forward
    with training_on_pattern(net, {"0": 1.0, "1": 0.1, "2": 1.0}) as chosen:
        assert chosen == ["0"], "1 keeps more than a tenth, 2 has no mask"
        net(input)
        assert len(calls) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert net(input).dtype == torch.bfloat16
        assert len(calls) == 1, "autocast is dense training's"
    net(input)
    assert len(calls) == 1
    assert all(part.forward.__func__ is dense for part in net)


def test_what_goes_wrong_within_leaves_the_layers_as_they_were() -> None:
    net = nn.Sequential(masked(nn.Conv2d(16, 8, 3)))
    with pytest.raises(RuntimeError, match="in between"), training_on_pattern(net, {"0": 1.0}):
        raise RuntimeError("in between")
    assert "forward" not in vars(net[0])


def test_a_copy_made_within_computes_with_its_own_weight() -> None:
    net = nn.Sequential(masked(nn.Conv2d(16, 8, 3)))
    input = torch.randn(1, 16, 8, 8)
    with training_on_pattern(net, {"0": 1.0}):
        twin = copy.deepcopy(net)
        before = net(input).detach()
        with torch.no_grad():
            raw_weight(twin[0]).mul_(2)  # type: ignore[arg-type]
            twin[0].bias.mul_(2)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(twin(input), 2 * before)
        torch.testing.assert_close(net(input), before, rtol=0, atol=0)


def test_measuring_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_times, "_ROUNDS", 1)
    monkeypatch.setattr(pattern_times, "_TURN_SECONDS", 0.0)
    net = nn.Sequential(
        nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 8, 1)
    )
    before, images = copy.deepcopy(net.state_dict()), torch.randn(2, 16, 12, 12)
    random = torch.get_rng_state()
    told: list[str] = []
    group = GroupShape(1, 8)
    densest = measure_densest(net, images, {"0": group, "2": group}, told.append)
    assert densest.keys() == {"0", "2"}
    assert set(densest.values()) <= {0.0, *DENSITIES}
    assert len(told) == 2, "the layers' inputs differ in size"
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(companion_mask(part) for part in net)


@pytest.mark.parametrize("fastest", ["dense", "pattern"])
def test_the_densest_that_is_faster_is_chosen(
    monkeypatch: pytest.MonkeyPatch, fastest: str
) -> None:
    def timed(kinds: dict[str, Any], *_: Any) -> dict[str, Any]:
        for call in kinds.values():
            call()

        class Timing:
            def __init__(self, kind: str) -> None:
                self.median = 1.0 if kind == fastest else 2.0

        return {kind: Timing(kind) for kind in kinds}

    monkeypatch.setattr(pattern_times, "alternate", timed)
    net = nn.Sequential(nn.Conv2d(16, 8, 3))
    found = measure_densest(net, torch.randn(1, 16, 8, 8), {"0": GroupShape(1, 8)})
    assert found == {"0": max(DENSITIES) if fastest == "pattern" else 0.0}
