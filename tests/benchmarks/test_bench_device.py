# SPDX-License-Identifier: MIT
"""The benchmark of the C++ program: turns, peak memory, table and file, with a stand-in for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch import Tensor, nn

import device
import l1sparse
import networks

# A first image that is slow, then 4 and 2 ms; the pruned program takes half and uses less memory.
CLASSIFY = """\
#!{python}
import array, sys
sparse = "sparse.pte" in sys.argv[1]
assert "--one-thread" in sys.argv
images = [argument for argument in sys.argv if argument.endswith(".ppm")]
memory = bytearray(({small} if sparse else {large}) << 20)
for place in range(0, len(memory), 4096):
    memory[place] = 1
for number, image in enumerate(images):
    print(f"{{image}}: 1 (99.9 %)  {{(50 if number == 0 else 4) / (2 if sparse else 1):.3f}} ms")
scores = array.array("f", [1.0, {off} if sparse else 2.0])
open(sys.argv[sys.argv.index("--scores") + 1], "wb").write(scores.tobytes())
"""


class Small(nn.Module):
    """A stem, a depthwise and two plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, stride=8)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(self.depthwise(self.stem(x))).mean((2, 3))
        return result


def fake_export(model: nn.Module, example: Tensor, path: Path) -> None:
    layers = [m for m in model.modules() if isinstance(m, l1sparse.SparseConv2d)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(32, 16, 3, 3), (8, 32, 1, 1)]
    assert all(0.15 < layer.density < 0.35 for layer in layers)
    path.write_bytes(bytes(1000))


def classify_in(folder: Path, off: float = 2.0) -> str:
    path = folder / "classify"
    path.write_text(CLASSIFY.format(python=sys.executable, small=60, large=90, off=off))
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.NETWORKS, "resnet18", Small)
    monkeypatch.setattr(device, "lower", lambda network, example: bytes(2000))
    monkeypatch.setattr(device, "export_executorch", fake_export)


def test_both_programs_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "device.json"
    arguments = ["--network", "resnet18", "--rounds", "2", "--images", "3", "--json", str(path)]
    assert device.main([*arguments, "--classify", classify_in(tmp_path)]) == 0
    row = json.loads(path.read_text())["rows"][0]
    assert row["dense"]["milliseconds"] == {"median": 4.0, "low": 4.0, "high": 4.0}
    assert row["sparse"]["milliseconds"]["median"] == 2.0
    assert row["dense"]["program_bytes"] == 2012  # with its checksum
    assert row["sparse"]["program_bytes"] == 1000
    assert 90 << 20 < row["dense"]["peak_bytes"] < 120 << 20
    assert 60 << 20 < row["sparse"]["peak_bytes"] < 90 << 20
    assert (row["sparse_layers"], row["layers"]) == (2, 4)
    assert "2.00x" in capsys.readouterr().out


def test_other_scores_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--network", "resnet18", "--rounds", "1", "--images", "1"]
    assert device.main([*arguments, "--classify", classify_in(tmp_path, off=2.1)]) == 1
    assert "the pruned program is off by 0.05" in capsys.readouterr().err


def test_a_program_that_fails_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "classify"
    path.write_text("#!/bin/sh\necho 'classify: damaged' >&2\nexit 1\n")
    path.chmod(0o755)
    arguments = ["--network", "resnet18", "--rounds", "1", "--classify", str(path)]
    assert device.main(arguments) == 1
    assert "classify: damaged" in capsys.readouterr().err


def test_a_missing_program_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "CLASSIFY", tmp_path / "none")
    with pytest.raises(SystemExit):
        device.main(["--network", "resnet18"])
    assert "run make device-demo first" in capsys.readouterr().err
