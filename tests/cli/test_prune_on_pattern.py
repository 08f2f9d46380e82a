# SPDX-License-Identifier: MIT
"""`l1sparse prune` retrains on kept groups alone where that was measured to be faster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import PRUNE
from torch import Tensor

from l1sparse.cli import main
from l1sparse.train import StoppedError, kept_pruning, on_pattern
from l1sparse.train.keeper import Keeper

pytestmark = pytest.mark.usefixtures("workplace")
COMMAND = [*PRUNE, "--no-accelerate"]


@pytest.fixture
def always_faster(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measuring says so of all layers; the names of those it was asked for."""
    asked: list[str] = []

    def measured(
        model: Any, images: Tensor, groups: Mapping[str, Any], say: Any
    ) -> dict[str, float]:
        assert images.shape == (32, 1, 12, 12)
        asked.extend(groups)
        return dict.fromkeys(groups, 1.0)

    monkeypatch.setattr(kept_pruning, "measure_densest", measured)
    return asked


@pytest.fixture
def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every convolution on a pattern."""
    calls: list[int] = []
    native = on_pattern.values_conv2d

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return native(*arguments)

    monkeypatch.setattr(on_pattern, "values_conv2d", counted)
    return calls


def record(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
    return found


def test_it_trains_on_the_pattern_and_says_so(
    always_faster: list[str], native_calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--output", "pruned"]) == 0
    assert len(always_faster) == 2
    assert native_calls
    assert "retraining on kept groups alone was faster for: " in capsys.readouterr().err
    result = record("pruned")
    assert result["trained_sparse_up_to"] == dict.fromkeys(always_faster, 1.0)
    weights = load_file("pruned/model.safetensors")
    for name in always_faster:
        share = float((weights[f"{name}.weight"] == 0).double().mean())
        assert share >= 0.3, f"{name} holds the pruned weights' zeros"


def test_it_can_be_left_out(always_faster: list[str], native_calls: list[int]) -> None:
    assert main([*COMMAND, "--output", "dense", "--no-train-sparse"]) == 0
    assert (always_faster, native_calls) == ([], [])
    assert record("dense")["trained_sparse_up_to"] == {}


def test_mixed_precision_is_trained_dense(
    always_faster: list[str], native_calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Path("plan.yaml")
    plan.write_text(plan.read_text() + "  mixed_precision: bf16\n")
    assert main([*COMMAND, "--output", "mixed"]) == 0
    assert (always_faster, native_calls) == ([], [])
    assert "retraining runs dense: " in capsys.readouterr().err


def test_a_resumed_run_keeps_to_what_was_measured(
    always_faster: list[str], native_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*COMMAND, "--output", "whole"]) == 0

    def stop(keeper: Keeper) -> None:
        if native_calls:
            raise StoppedError("stopped after a round on patterns")

    native_calls.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "stop_if_asked", stop)
        assert main([*COMMAND, "--output", "resumed"]) == 130

    def never(*_: Any) -> dict[str, float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(kept_pruning, "measure_densest", never)
    assert main([*COMMAND, "--output", "resumed", "--resume"]) == 0
    assert record("resumed") == record("whole")
    one, other = (load_file(f"{folder}/model.safetensors") for folder in ("whole", "resumed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_is_not_resumed_in_the_other_way(
    always_faster: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--output", "pruned"]) == 0
    assert main([*COMMAND, "--output", "pruned", "--no-train-sparse", "--resume"]) == 1
    assert "train_sparse" in capsys.readouterr().err
