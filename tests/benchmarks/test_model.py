# SPDX-License-Identifier: MIT
"""The benchmark of whole networks: its table and file on a small network, and wrong arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import memory
import model
import networks


class Small(nn.Module):
    """Enough of a network to be timed in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, stride=8)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(self.stem(x)).relu()).mean((2, 3))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.NETWORKS, "resnet18", Small)


def test_rows_compare_with_the_fastest_dense_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path, picture = tmp_path / "model.json", tmp_path / "model.png"
    arguments = ["--rounds", "1", "--sparsity", "0.5,0.9", "--json", str(path)]
    arguments += ["--plot", str(picture)]
    assert model.main(arguments) == 0
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    assert [row["sparsity"] for row in record["rows"]] == [0.5, 0.9]
    for row in record["rows"]:
        times = {name: t["median"] for name, t in row["milliseconds"].items()}
        ours = times.pop("l1sparse")
        assert row["dense_ms"] == min(times.values()) == times[row["best_dense"]]
        assert row["speedup"] == row["dense_ms"] / ours
        assert f"{row['speedup']:.2f}x" in printed
        assert "eager" in times
        assert set(row["peak_mb"]) == {"dense", "l1sparse"}
    assert record["machine"]["threads"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


needs_linux = pytest.mark.skipif(not memory._RESET.exists(), reason="needs Linux")


@needs_linux
def test_memory_is_that_of_weights_activations_and_little_else() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10_000_000))  # 40 MB

        def forward(self, x: Tensor) -> Tensor:
            return self.weight + x  # as much again

    measured = memory.peak_memory(memory.traced(Net()), torch.ones(1), 1)
    assert measured is not None
    assert 79 < measured < 100


@needs_linux
def test_a_process_that_fails_says_why() -> None:
    network = memory.traced(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(RuntimeError, match=r"^memory\.py: .*(mat1|shape)"):
        memory.peak_memory(network, torch.ones(1, 2), 1)


def test_a_wrong_output_is_an_error_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1.01

    monkeypatch.setattr(model, "accelerate", lambda *args: Wrong().eval())
    path = tmp_path / "model.json"
    assert model.main(["--rounds", "1", "--json", str(path)]) == 1
    assert "is off by" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [["--network", "resnet51"], ["--sparsity", "1.5"], ["--group", "0x8"], ["--batch", "0"]],
)
def test_wrong_arguments_end_with_2_and_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        model.main(arguments)
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "parameters", "convolutions"),
    [
        ("resnet50", 25_557_032, 53),
        ("vgg16", 138_365_992, 13),
        ("efficientnet-lite0", 4_652_008, 49),
    ],
)
def test_the_networks_are_the_published_ones(name: str, parameters: int, convolutions: int) -> None:
    with torch.device("meta"):
        network = networks.NETWORKS[name]()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == convolutions
