# SPDX-License-Identifier: MIT
from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from l1sparse.pruning.statistics import ActivationStatistics, record_activations


def test_range_mean_and_zeros_by_hand() -> None:
    statistics = ActivationStatistics()
    statistics.add(torch.tensor([[1.0, 0.0], [-3.0, 6.0]]))
    statistics.add(torch.empty(0, 2))
    statistics.add(torch.tensor([0.0, 2.0]))
    assert (statistics.minimum, statistics.maximum, statistics.mean) == (-3.0, 6.0, 1.0)
    assert statistics.zero_share == pytest.approx(2 / 6)
    assert statistics.count == 6


def test_sum_is_kept_in_double_precision() -> None:
    statistics = ActivationStatistics()
    statistics.add(torch.tensor([1e8, 1.0, -1e8]))
    assert statistics.mean == pytest.approx(1 / 3)


def test_what_is_not_finite_is_none_in_json() -> None:
    empty, poisoned = ActivationStatistics(), ActivationStatistics()
    poisoned.add(torch.tensor([1.0, float("nan")]))
    poisoned.add(torch.tensor([2.0]))
    for statistics in (empty, poisoned):
        written = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
        assert written["minimum"] is written["maximum"] is written["mean"] is None


def test_what_a_layer_reads_and_gives_is_recorded_batch_after_batch() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1))
    batches = [torch.randn(5, 2, 4, 4), torch.randn(3, 2, 4, 4)]
    with record_activations(model, ["0", "2"]) as records:
        outputs = [model(batch).detach() for batch in batches]
    hidden = torch.cat([model[:2](batch).detach() for batch in batches])
    read, given = records["2"].input, records["2"].output
    assert read.count == hidden.numel()
    assert read.minimum == 0.0
    assert read.maximum == float(hidden.max())
    assert read.mean == pytest.approx(float(hidden.mean()), rel=1e-5)
    assert read.zero_share == float((hidden == 0).double().mean()) > 0.1
    assert given.minimum == min(float(output.min()) for output in outputs)
    assert records["0"].input.count == sum(batch.numel() for batch in batches)
    json.dumps(records["2"].to_dict(), allow_nan=False)


def test_hooks_go_away_also_upon_an_exception() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    records = {}

    def fail_after_one_batch() -> None:
        with record_activations(model, ["0"]) as recorded:
            records.update(recorded)
            model(torch.randn(1, 2, 4, 4))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_after_one_batch()
    model(torch.randn(1, 2, 4, 4))
    assert records["0"].output.count == 48


def test_recording_changes_neither_output_nor_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    images = torch.randn(1, 2, 4, 4)
    model(images).sum().backward()
    gradient = model[0].weight.grad.clone()
    model.zero_grad()
    with record_activations(model, ["0"]):
        model(images).sum().backward()
    assert torch.equal(model[0].weight.grad, gradient)


def test_a_layer_that_is_no_conv_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU())
    with (
        pytest.raises(ValueError, match=r"layers: .* '1' is a ReLU"),
        record_activations(model, "1"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"layers: .* '7' is no such module"),
        record_activations(model, ["7"]),
    ):
        pass
