# SPDX-License-Identifier: MIT
"""Sensitivity layer by layer: losses, interruption, and layers that say nothing of themselves."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1sparse.format import GroupShape
from l1sparse.pruning import Evaluation, LayerSensitivity, curve_rows, measure_sensitivity
from l1sparse.pruning.mask import attach


class Mixed(nn.Module):
    """Two convs that run, one that does not, one whose weight is used by a functional call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.unused = nn.Conv2d(8, 8, 1)
        self.functional = nn.Conv2d(8, 8, 1)
        self.kernel = nn.Parameter(torch.randn(8, 8, 1, 1))
        self.alias = self.first
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1))])

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks[0](self.second(self.first(images)))
        return F.conv2d(F.conv2d(hidden, self.functional.weight), self.kernel)


IMAGES = torch.arange(8 * 9, dtype=torch.float32).reshape(1, 8, 3, 3).cos()


def evaluate(model: nn.Module) -> Evaluation:
    with torch.no_grad():
        accuracy = float(torch.sigmoid(model(IMAGES).mean() * 10))
    return Evaluation(accuracy, 1.0 - accuracy)


def recalibrate(model: nn.Module) -> None:
    with torch.no_grad():
        model.second.bias += 0.1 * torch.rand(8)


def measured(model: nn.Module, layers=None, **others) -> list[LayerSensitivity]:
    settings = {"group": (1, 4), "recalibrate": recalibrate, **others}
    return measure_sensitivity(model, evaluate, layers, **settings)


def test_everything_that_looks_like_a_conv_has_a_record_and_none_is_robust_for_nothing() -> None:
    records = {record.name: record for record in measured(Mixed())}
    reasons = {name: record.reason for name, record in records.items()}
    assert set(records) == {
        "first", "second", "unused", "functional", "kernel", "alias", "blocks.0.0",
    }  # fmt: skip
    assert reasons["first"] is reasons["second"] is reasons["blocks.0.0"] is None
    assert "evaluate never runs it" in reasons["unused"]
    assert "functional call" in reasons["functional"]
    assert "a parameter of a Mixed, used by a functional call" in reasons["kernel"]
    assert "same module as 'first'" in reasons["alias"]
    for record in records.values():
        assert (record.sensitivity is None) == (record.reason is not None) == (not record.curve)


def test_a_group_larger_than_the_layer_is_a_reason() -> None:
    (record,) = measured(Mixed(), ["second"], group=(1, 16))
    assert "8 input channels, fewer than the 16 of group 1x16" in (record.reason or "")
    assert record.sensitivity is None


def test_losses_and_settings_are_in_the_record() -> None:
    (record,) = measured(Mixed(), ["second"], prune="above")
    assert record.base_loss == pytest.approx(1.0 - record.base_accuracy)
    assert all(p.loss == pytest.approx(1.0 - p.accuracy) for p in record.curve)
    assert (record.recalibrated, record.prune) == (True, "above")
    plain = measure_sensitivity(Mixed(), lambda model: 0.5, ["second"], (1, 4))[0]
    assert (plain.recalibrated, plain.base_loss, plain.curve[0].loss) == (False, None, None)


def test_a_record_goes_through_json() -> None:
    for record in measured(Mixed()):
        written = json.loads(json.dumps(record.to_dict(), allow_nan=False))
        assert LayerSensitivity.from_dict(written) == record


def test_rows_for_a_csv_file_have_one_line_a_point() -> None:
    first, kernel = measured(Mixed(), ["first", "kernel"])
    rows = curve_rows([first, kernel])
    assert [(row["layer"], row["sparsity"]) for row in rows] == [
        ("first", 0.25), ("first", 0.5), ("first", 0.75), ("kernel", None),
    ]  # fmt: skip
    assert rows[0]["accuracy"] == first.curve[0].accuracy
    assert rows[3]["reason"] == kernel.reason
    assert len({tuple(row) for row in rows}) == 1, "all have the same columns"


@pytest.mark.parametrize("cut", range(1, 7))
def test_an_interrupted_measurement_goes_on_and_gives_the_same(cut: int) -> None:
    model = Mixed()
    whole = measured(model)
    done: list[LayerSensitivity] = []

    def interrupt(record: LayerSensitivity) -> None:
        done.append(record)
        if len(done) == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(model, on_layer=interrupt)
    new: list[str] = []
    torch.manual_seed(99)
    again = measured(model, done=done, on_layer=lambda record: new.append(record.name))
    assert again == whole
    assert not set(new) & {record.name for record in done}
    assert len(new) == len(whole) - cut


def test_layers_that_are_done_are_not_measured_again() -> None:
    model = Mixed()
    whole = measured(model)
    calls = 0

    def counting(model: nn.Module) -> Evaluation:
        nonlocal calls
        calls += 1
        return evaluate(model)

    arguments = {"recalibrate": recalibrate, "done": whole}
    assert measure_sensitivity(model, counting, None, (1, 4), **arguments) == whole
    assert calls == 0
    arguments["done"] = [record for record in whole if record.name != "second"]
    assert measure_sensitivity(model, counting, None, (1, 4), **arguments) == whole
    assert calls == 1 + 3


def test_a_record_does_not_depend_on_the_order_and_the_callers_random_numbers_go_on() -> None:
    model = Mixed()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    forward = {record.name: record for record in measured(model, ["first", "second"])}
    assert len({p.accuracy for record in forward.values() for p in record.curve}) == 6
    assert torch.equal(torch.rand(3), expected)
    backward = {record.name: record for record in measured(model, ["second", "first"])}
    assert forward == backward


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": (1, 2)}, r"done: 'first' was measured with .*\('1x4',.* now it is \('1x2'"),
        ({"sparsities": (0.5,)}, r"done: 'first' .*\[0.25, 0.5, 0.75\].* now it is .*\[0.5\]"),
        ({"prune": "above"}, r"done: 'first' .*'below', True\), now it is .*'above', True\)"),
        ({"recalibrate": None}, r"done: 'first' .*'below', True\), now it is .*'below', False\)"),
        ({"layers": ["second"]}, r"done: expected records of \['second'\], got 'first'"),
    ],
)
def test_records_of_another_measurement_are_refused(change, message) -> None:
    model = Mixed()
    done = measured(model, ["first"])
    arguments = {"layers": ["first", "second"], **change}
    with pytest.raises(ValueError, match=message):
        measured(model, arguments.pop("layers"), done=done, **arguments)


def test_records_of_another_model_are_refused() -> None:
    model = Mixed()
    done = measured(model, ["first"])
    with torch.no_grad():
        model.first.weight *= 0.5
    with pytest.raises(ValueError, match=r"done: 'first' was measured on a model of accuracy"):
        measured(model, ["first", "second"], done=done)


def test_masks_are_no_obstacle_to_saying_what_runs() -> None:
    model = Mixed()
    attach(model.second, (1, 4))
    (record,) = measured(model, ["second"])
    assert record.reason is None
    assert record.group == GroupShape(1, 4)
