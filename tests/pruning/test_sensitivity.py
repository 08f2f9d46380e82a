# SPDX-License-Identifier: MIT
from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from l1sparse.format import GroupShape
from l1sparse.pruning.layers import conv_layers
from l1sparse.pruning.mask import attach, extend, raw_weight
from l1sparse.pruning.sensitivity import measure_sensitivity

NAMES = ["stem", "middle", "last"]


def bits(model: nn.Module) -> dict[str, Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone().reshape(-1).view(torch.uint8) for name, tensor in tensors}


def same_bits(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = bits(model)
    return after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_each_layer_is_pruned_alone_and_measured(trained) -> None:
    model = trained.model
    before = {name: conv.weight.detach().clone() for name, conv in conv_layers(model).items()}
    seen: list[dict[str, float]] = []

    def evaluate(model: nn.Module) -> float:
        convs = conv_layers(model)
        seen.append({n: float((convs[n].weight == 0).double().mean()) for n in convs})
        for name, conv in convs.items():
            kept = conv.weight != 0
            assert torch.equal(conv.weight[kept], before[name][kept])
        return 1.0 - seen[-1]["middle"] / 2 - seen[-1]["last"] / 4

    records = measure_sensitivity(model, evaluate, NAMES, (1, 4), (0.5, 0.25), at=0.25)

    assert [list(shares.values()) for shares in seen] == [
        [0, 0, 0],
        *([0, pytest.approx(s, abs=0.01), 0] for s in (0.25, 0.5)),
        *([0, 0, pytest.approx(s, abs=0.01)] for s in (0.25, 0.5)),
    ]
    stem, middle, last = records
    assert [record.name for record in records] == NAMES
    assert [point.sparsity for point in middle.curve] == [0.25, 0.5]
    assert [point.pruned for point in middle.curve] == [s["middle"] for s in seen[1:3]]
    assert middle.sensitivity == pytest.approx(0.125, abs=0.01)
    assert last.sensitivity == pytest.approx(0.0625, abs=0.01)
    assert (middle.base_accuracy, middle.group, middle.reason) == (1.0, GroupShape(1, 4), None)
    assert (stem.sensitivity, stem.curve) == (None, ())
    assert "channel" in (stem.reason or "")


def test_the_smallest_groups_are_pruned_or_the_largest_when_asked(trained) -> None:
    norms: list[float] = []

    def evaluate(model: nn.Module) -> float:
        norms.append(float(model.last.weight.detach().abs().sum()))
        return 1.0

    for prune in ("below", "above"):
        measure_sensitivity(trained.model, evaluate, ["last"], (1, 4), (0.5,), prune=prune)
    base, below, base_again, above = norms
    assert base == base_again
    assert above < base / 2 < below < base


def test_weights_and_buffers_come_back_bit_for_bit(trained) -> None:
    model = trained.model
    with torch.no_grad():
        model.middle.weight[0, 0, 0, 0] = float("nan")
        model.middle.weight[0, 1, 0, 0] = -0.0
    before = bits(model)
    measure_sensitivity(
        model,
        trained.evaluate,
        NAMES,
        (1, 8),
        recalibrate=trained.train,  # Changes every weight and the batch-norm statistics.
    )
    assert same_bits(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fails_at", [1, 3])
def test_weights_come_back_when_evaluate_raises(trained, error, fails_at) -> None:
    before = bits(trained.model)
    calls = 0

    def evaluate(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            nn.init.zeros_(model.head.weight)
            raise error
        return 0.5

    with pytest.raises(error):
        measure_sensitivity(trained.model, evaluate, NAMES, (1, 8))
    assert same_bits(trained.model, before)


def test_recalibration_comes_between_pruning_and_measuring(trained) -> None:
    log: list[str] = []

    def recalibrate(model: nn.Module) -> None:
        log.append("recalibrate" if bool((model.last.weight == 0).any()) else "too early")

    def evaluate(model: nn.Module) -> float:
        log.append("evaluate")
        return 0.5

    measure_sensitivity(trained.model, evaluate, ["last"], (1, 8), (0.5,), recalibrate=recalibrate)
    assert log == ["evaluate", "recalibrate", "evaluate"]


def test_a_network_that_is_masked_already_is_measured_from_there(trained) -> None:
    model = trained.model
    companion = attach(model.last, (1, 4))
    keep = torch.rand(companion.mask.shape) < 0.5
    extend(model.last, keep)
    with torch.no_grad():  # What lies under the mask does not count.
        raw_weight(model.last)[~companion.weight_mask()] = 9.0
    before = bits(model)
    shares: list[float] = []

    def evaluate(model: nn.Module) -> float:
        shares.append(float((model.last.weight == 0).double().mean()))
        return 0.5

    measure_sensitivity(model, evaluate, ["last"], (1, 4), (0.25, 0.75), at=0.75)
    already = 1 - float(keep.double().mean())
    assert shares == pytest.approx([already, already, 0.75], abs=0.03)
    measure_sensitivity(model, evaluate, ["last"], (1, 4), (0.75,), at=0.75, prune="above")
    assert shares[-1] == pytest.approx(0.75, abs=0.03), "pruned groups count also from above"
    measure_sensitivity(model, evaluate, ["last"], (1, 2), (0.75,), at=0.75)
    assert shares[-1] == pytest.approx(0.75, abs=0.03), "also by another group shape"
    assert same_bits(model, before)


def test_group_shapes_may_differ_by_layer(trained) -> None:
    groups = {"stem": (1, 1), "middle": (1, 8), "last": "4x4"}
    records = measure_sensitivity(trained.model, trained.evaluate, NAMES, groups)
    assert [str(record.group) for record in records] == ["1x1", "1x8", "4x4"]


def test_records_become_json_and_progress_is_told_once_a_measurement(trained) -> None:
    told: list[str] = []
    records = measure_sensitivity(
        trained.model, trained.evaluate, NAMES, (1, 8), on_progress=told.append
    )
    assert len(told) == 1 + 2 * 3
    written = json.loads(json.dumps([record.to_dict() for record in records]))
    assert written[1]["group"] == "1x8"
    assert written[1]["curve"][0]["sparsity"] == 0.25
    assert written[0]["sensitivity"] is None


def test_bad_arguments_are_named(trained) -> None:
    def measure(layers=("middle",), group=(1, 8), evaluate=trained.evaluate, **others):
        return measure_sensitivity(trained.model, evaluate, layers, group, **others)

    with pytest.raises(
        ValueError, match=r"layers: expected at least one name, each once; got \[\]"
    ):
        measure(layers=())
    with pytest.raises(ValueError, match=r"layers: .* each once; got .*'last', 'last'"):
        measure(layers=["last", "last"])
    with pytest.raises(ValueError, match=r"group: .* none for \['last'\]"):
        measure(layers=["middle", "last"], group={"middle": (1, 8)})
    with pytest.raises(ValueError, match=r"group: .*\(1, 0\)|group: .*got 0"):
        measure(group=(1, 0))
    with pytest.raises(ValueError, match=r"at: expected one of the sparsities \(0.3,\), got 0.5"):
        measure(sparsities=(0.3,))
    with pytest.raises(ValueError, match=r"sparsities: expected a fraction from 0 to 1, got 1.5"):
        measure(sparsities=(1.5,), at=1.5)
    with pytest.raises(ValueError, match="prune: expected 'below' or 'above', got 'beside'"):
        measure(prune="beside")
    for wrong in (98.5, float("nan"), -0.1):
        with pytest.raises(ValueError, match=f"evaluate: expected a fraction .* returned {wrong}"):
            measure(evaluate=lambda model, wrong=wrong: wrong)
