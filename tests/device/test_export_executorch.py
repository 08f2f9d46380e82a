# SPDX-License-Identifier: MIT
"""What `export_executorch` and its command refuse, whether ExecuTorch is there or not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import l1sparse
from l1sparse.cli import main


def test_a_network_without_sparse_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Conv2d has no SparseConv2d layer"):
        l1sparse.export_executorch(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4), tmp_path / "x.pte")


@pytest.mark.parametrize("example", [torch.zeros(1, 4, 4), torch.zeros(1, 1, 4, 4).double()])
def test_another_example_is_refused(example: torch.Tensor, tmp_path: Path) -> None:
    network = nn.Sequential(l1sparse.SparseConv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"example_input: is torch.float.* expected float32"):
        l1sparse.export_executorch(network, example, tmp_path / "x.pte")


@pytest.mark.skipif(importlib.util.find_spec("executorch") is not None, reason="it is installed")
def test_what_to_install_is_said(tmp_path: Path) -> None:
    network = nn.Sequential(l1sparse.SparseConv2d(1, 1, 1))
    with pytest.raises(ImportError, match=r"pip install 'l1sparse\[executorch\]'"):
        l1sparse.export_executorch(network, torch.zeros(1, 1, 4, 4), tmp_path / "x.pte")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "l1sparse.train", "--input", "1,1,4,4"], "--model: 'l1sparse.train' makes no"),
        (["--model", "l1sparse:pack", "--input", "1,1,4,4"], "pack"),
    ],
)
def test_the_command_names_a_wrong_model(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["export-executorch", str(tmp_path / "f"), *arguments, "--output", "x.pte"])
    except TypeError as error:
        pytest.fail(f"a traceback: {error}")
    assert status == 1
    assert text in capsys.readouterr().err


def test_the_command_names_a_wrong_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export-executorch", "f", "--model", "a:b", "--input", "1,3,x,4", "--output", "x"])
    assert "expected four sizes" in capsys.readouterr().err
