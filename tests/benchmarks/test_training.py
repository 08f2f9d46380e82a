# SPDX-License-Identifier: MIT
"""`benchmarks/training.py`: that it runs, and does not time what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import training
from l1sparse import SparseConv2d
from suites import SUITES, Layer


@pytest.fixture(autouse=True)
def one_small_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "demo", (Layer(16, 8, 6, 3, count=3), Layer(8, 8, 6, 1)))


QUICK = ["--rounds", "2", "--batch", "2", "--sparsity", "0.5"]


def test_it_prints_a_table_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "training.json"
    assert training.main([*QUICK, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["count"] for row in rows] == [3, 1]
    for row in rows:
        assert set(row["times"]) == {
            f"{kind} {layout}"
            for kind in ("dense", "sparse")
            for layout in ("NCHW", "channels_last")
        }
        assert row["sparse"] > 0
    assert "total" in capsys.readouterr().out


def test_layers_can_be_chosen_by_their_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main([*QUICK, "--kernel", "1"]) == 0
    assert "3x3" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        training.main([*QUICK, "--kernel", "9"])


def test_a_wrong_gradient_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = SparseConv2d._values_forward
    monkeypatch.setattr(
        SparseConv2d, "_values_forward", lambda self, x, residual: right(self, x * 1.01, residual)
    )
    assert training.main(QUICK) == 1
    assert "the gradient for" in capsys.readouterr().err
    assert torch.is_grad_enabled()
