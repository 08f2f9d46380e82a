# SPDX-License-Identifier: MIT
"""Times of layers: which are taken, and that they are of what will run."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from l1sparse.convert import layer_times, measure
from l1sparse.format import GroupShape
from l1sparse.layer_time import LayerTime
from l1sparse.nn import SparseConv2d


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.unused = nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(torch.relu(self.norm(self.stem(images))))


@pytest.fixture
def example() -> Tensor:
    return torch.randn(1, 1, 12, 12)


def test_every_layer_is_timed_dense_and_at_each_group_and_sparsity(example) -> None:
    model = Small()
    before = copy.deepcopy(model.state_dict())
    times = layer_times(model, example, ["1x8", (4, 4), "1x16"], (0.5, 0.9), rounds=2)
    assert [(t.name, t.group and str(t.group), t.sparsity) for t in times] == [
        ("stem", None, 0.0),  # one channel: nothing to group
        ("body", None, 0.0),
        ("body", "1x8", 0.5),
        ("body", "1x8", 0.9),
        ("body", "4x4", 0.5),
        ("body", "4x4", 0.9),
    ]
    assert all(0 < time.ms < 100 for time in times)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_what_is_timed_is_pruned_as_much_as_said_and_has_its_relu(example, monkeypatch) -> None:
    sparse: list[SparseConv2d] = []

    def alternate(candidates, rounds):
        for call in candidates.values():
            output = call()
            module = getattr(call, "func", None)
            if isinstance(module, SparseConv2d):
                sparse.append(module)
                assert output.shape == (1, module.out_channels, 12, 12)
        return dict.fromkeys(candidates, measure.Timing(1.0, 1.0, 1.0))

    monkeypatch.setattr("l1sparse.convert.times.alternate", alternate)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1))
    layer_times(model, torch.randn(1, 8, 12, 12), ["1x8"], (0.25, 0.75))
    assert [module.activation for module in sparse] == ["relu", "relu", "none", "none"]
    assert [module.density for module in sparse] == pytest.approx([0.75, 0.25, 0.75, 0.25])


def test_layers_can_be_named_and_wrong_names_and_sparsities_are(example) -> None:
    times = layer_times(Small(), example, ["1x8"], (0.5,), names=["body"], rounds=1)
    assert {time.name for time in times} == {"body"}
    with pytest.raises(ValueError, match=r"names: .* \['stem', 'body'\]; got 'unused'"):
        layer_times(Small(), example, ["1x8"], names=["unused"])
    with pytest.raises(ValueError, match=r"sparsities: expected fractions from 0 to 1, got 90"):
        layer_times(Small(), example, ["1x8"], (90,))


def test_a_time_goes_through_json() -> None:
    for time in (LayerTime("a", GroupShape(4, 4), 0.5, 0.25), LayerTime("a", None, 0.0, 1.0)):
        assert LayerTime.from_dict(json.loads(json.dumps(time.to_dict()))) == time
