# SPDX-License-Identifier: MIT
"""`summarize` and `l1sparse inspect`: what they say of a file, and of one that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import l1sparse
from l1sparse import SparseConv2d
from l1sparse.cli import main
from l1sparse.convert import summarize


def network(group: tuple[int, int] = (1, 8)) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), SparseConv2d(16, 32, 3, group=group, activation="relu")
    )
    mask = net[1].mask
    net[1].mask = torch.arange(mask.numel()).reshape(mask.shape) % 4 == 0
    return net.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "net.l1s"
    l1sparse.save(network(), path)
    return path


def test_a_summary_says_what_is_in_the_file(path: Path) -> None:
    summary = summarize(path)
    assert summary.format_version == 1
    assert summary.versions["torch"] == torch.__version__
    assert (summary.memory_format, summary.folded) == (None, False)
    (layer,) = summary.layers
    assert (layer.name, layer.runs, layer.weight_shape) == ("1", "sparse", (32, 16, 3, 3))
    assert (layer.group, layer.density, layer.activation) == ("1x8", 0.25, "relu")
    assert layer.strategy in ("channels", "pixels", "filters")
    assert layer.dtype == "float32"
    assert layer.bytes == network()[1].packed_weight().numel()
    assert {(t.name, t.dtype, t.shape, t.bytes) for t in summary.dense} == {
        ("0.weight", "float32", (16, 3, 3, 3), 1728),
        ("0.bias", "float32", (16,), 64),
        ("1.bias", "float32", (32,), 128),
    }
    assert summary.file_bytes == path.stat().st_size
    assert summary.dense_bytes == 4 * sum(p.numel() for p in network().parameters())


def test_a_layer_that_runs_dense_is_listed_as_such(tmp_path: Path) -> None:
    plain = network()
    plain[1].activation = "none"
    fast = l1sparse.accelerate(plain, torch.randn(1, 3, 8, 8))
    l1sparse.save(fast, tmp_path / "fast")
    summary = summarize(tmp_path / "fast")
    assert summary.folded
    assert summary.memory_format is not None
    runs = {layer.name: layer.runs for layer in summary.layers}
    assert runs == {c.name: c.choice for c in l1sparse.layer_choices(fast) if c.density < 0.8}


def test_the_command_prints_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "format version: 1"
    rows = [line.split() for line in lines]
    assert ["0.weight", "float32", "16x3x3x3", "1728"] in rows
    (row,) = [row for row in rows if row[:2] == ["1", "sparse"]]
    assert row[2:5] == ["32x16x3x3", "1x8", "0.250"]
    summary = summarize(path)
    share = summary.file_bytes / summary.dense_bytes
    assert lines[-1] == (
        f"file: {summary.file_bytes} bytes, {share:.3f} of dense float32's {summary.dense_bytes}"
    )


def test_the_command_prints_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(json.dumps(summarize(path).to_dict()))
    assert record["layers"][0]["density"] == 0.25


def damaged(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[content.index(b"L1SPARSE") + 70] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda content: b"", "is damaged or no safetensors file"),
        (lambda content: content[:-1], "is damaged or no safetensors file"),
        (lambda content: content.replace(b'\\"version\\": 1', b'\\"version\\": 9'), "version 9"),
        (damaged, "is damaged: 1.packed: packed: "),
    ],
)
def test_a_bad_file_is_one_line_of_error(
    path: Path, capsys: pytest.CaptureFixture[str], make: object, text: str
) -> None:
    path.write_bytes(make(path.read_bytes()))  # type: ignore[operator]
    assert main(["inspect", str(path)]) == 1
    printed, told = capsys.readouterr()
    assert printed == ""
    assert text in told
    assert "net.l1s" in told
    assert told.count("\n") == 1


def test_a_missing_and_a_foreign_file_are_one_line_of_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    assert main(["inspect", str(tmp_path / "foreign")]) == 1
    told = capsys.readouterr().err
    assert "was not written by l1sparse.save()" in told
    assert told.count("\n") == 1
