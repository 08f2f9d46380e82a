# SPDX-License-Identifier: MIT
"""The memory format of a whole network: chosen by its time, kept by its file."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import l1sparse
from l1sparse.convert import Timing
from l1sparse.convert.memory_format import FORMATS
from l1sparse.nn import DenseConv2d, SparseConv2d


class Net(nn.Module):
    """A dense stem, two sparse layers that share an input, pooling, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left, self.right = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.head = nn.Conv2d(16, 4, 1)
        with torch.no_grad():
            for conv in (self.left, self.right):
                conv.weight[:, :8] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.stem(x).relu(), 2)
        return self.head((self.left(x).relu() + self.right(x)).relu())


def accelerated_in(
    name: str, monkeypatch: pytest.MonkeyPatch, prepacked: float = 9.0
) -> tuple[Net, nn.Module, Tensor]:
    """The network accelerated on a machine where this format, and the sparse kernels, are fast."""

    def alternate(
        candidates: dict[str, Callable[[], object]], rounds: int = 0
    ) -> dict[str, Timing]:
        times = {"dense": 5.0, "dense, prepacked": prepacked, "sparse": 1.0, name: 1.0}
        return {key: Timing(times.get(key, 9.0), 0.0, 9.0) for key in candidates}

    monkeypatch.setattr(sys.modules["l1sparse.convert.accelerate"], "alternate", alternate)
    net, x = Net().eval(), torch.randn(2, 3, 12, 12)
    return net, l1sparse.accelerate(net, x), x


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prepacked", [2.0, 9.0])
def test_sparse_layers_read_their_format_and_outputs_stay(
    name: str, prepacked: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, fast, x = accelerated_in(name, monkeypatch, prepacked)
    sparse_format, _ = FORMATS[name]
    read = []
    for module in fast.modules():
        if isinstance(module, SparseConv2d):
            module.register_forward_pre_hook(lambda m, args: read.append(args[0]))
    with torch.no_grad():
        for size in (12, 10):
            other = torch.randn(3, 3, size, size)
            torch.testing.assert_close(fast(other), net(other), rtol=0, atol=1e-5)
        channels_last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fast(channels_last), net(x), rtol=0, atol=1e-5)
    assert len(read) == 6
    assert all(x.is_contiguous(memory_format=sparse_format) for x in read)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_keeps_format_and_ways(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, fast, x = accelerated_in(name, monkeypatch, prepacked=2.0)
    l1sparse.save(fast, tmp_path / "file")
    back = l1sparse.load(tmp_path / "file", Net())
    with torch.no_grad():
        assert torch.equal(back(x), fast(x))
    ways = [m.way for m in back.modules() if isinstance(m, DenseConv2d)]
    assert ways == ["prepacked", "prepacked"]


def test_what_two_layers_read_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast, _ = accelerated_in("NCHW, dense layers channels_last", monkeypatch)
    conversions = [n for n in fast.graph.nodes if n.target == "contiguous"]
    assert len(conversions) == 2  # the network's input, and what the two layers read


def test_explain_says_what_runs_how_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast, _ = accelerated_in("channels_last", monkeypatch)
    lines = fast.explain().splitlines()
    assert lines[0] == "memory format: channels_last"
    words = [" ".join(line.split()) for line in lines]
    assert words[2] == "stem 1x8 1.000 5.000 - dense nothing is pruned"
    assert words[3] == "left 1x8 0.500 5.000 1.000 sparse measured faster"


@pytest.mark.parametrize("name", FORMATS)
def test_copies_know_what_was_chosen_and_write_the_same_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, fast, x = accelerated_in(name, monkeypatch, prepacked=2.0)
    l1sparse.save(fast, tmp_path / "first")
    loaded = l1sparse.load(tmp_path / "first", Net())
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert l1sparse.layer_choices(other) == l1sparse.layer_choices(fast)
        assert other.explain() == fast.explain()
        l1sparse.save(other, tmp_path / "second")
        assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()
    l1sparse.save(loaded, tmp_path / "third")
    again = l1sparse.load(tmp_path / "third", Net())
    with torch.no_grad():
        assert torch.equal(again(x), fast(x))
    conversions = [n for n in again.graph.nodes if n.target == "contiguous"]
    assert len(conversions) == len([n for n in fast.graph.nodes if n.target == "contiguous"])
