# SPDX-License-Identifier: MIT
"""A pruned network accelerated, written, read again; and files that are not what they should be."""

from __future__ import annotations

import copy
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l1sparse
from l1sparse import SparseConv2d
from l1sparse.convert import accelerate as accelerate_function
from l1sparse.convert import file as file_module
from l1sparse.convert.measure import Timing
from l1sparse.pruning import attach, extend


class Network(nn.Module):
    """ReLU as module, function and method, a residual, and a convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.first = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = torch.relu(self.first_norm(self.first(x))) + x
        return self.head(self.second(x).relu())


class Branches(Network):
    """Can't be traced: what it does depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.fixture
def example() -> Tensor:
    return torch.randn(2, 3, 12, 12)


def pruned(kind: type[nn.Module] = Network) -> nn.Module:
    network = kind()
    for _ in range(3):
        network(torch.randn(8, 3, 12, 12))  # batch norm gets statistics that matter
    with torch.no_grad():
        for conv in (network.first, network.second):
            grid = torch.rand(16, 2, 3, 3) < 0.3
            conv.weight.mul_(grid.repeat_interleave(8, 1))
    return network


@pytest.fixture
def always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement says that sparse is faster, whatever the machine does meanwhile."""
    measure_as(monkeypatch, dense=2.0, sparse=1.0)


def measure_as(monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
    """Give candidates these times; others, and whole networks, 9 ms."""

    def alternate(candidates: dict[str, object], rounds: int = 0) -> dict[str, Timing]:
        return {name: Timing(milliseconds.get(name, 9.0), 0.0, 9.0) for name in candidates}

    choose = accelerate_function.__globals__["_choose"]
    monkeypatch.setitem(choose.__globals__, "alternate", alternate)


def sparse_layers(network: nn.Module) -> dict[str, SparseConv2d]:
    return {n: m for n, m in network.named_modules() if isinstance(m, SparseConv2d)}


@pytest.mark.usefixtures("always_sparse")
def test_the_copy_is_folded_fused_and_right_and_the_original_untouched(example: Tensor) -> None:
    network = pruned().train()
    before = copy.deepcopy(network.state_dict())
    fast = l1sparse.accelerate(network, example)
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {n: m.activation for n, m in sparse_layers(fast).items()} == {
        "first": "relu",
        "second": "relu",
    }
    with torch.no_grad():
        assert (fast(example) - network.eval()(example)).abs().max() < 1e-4


def test_dense_stays_where_it_is_faster(example: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_as(monkeypatch, dense=1.0, sparse=2.0)
    fast = l1sparse.accelerate(pruned(), example)
    assert not sparse_layers(fast)
    assert {c.choice for c in l1sparse.layer_choices(fast)} == {"dense"}


@pytest.mark.usefixtures("always_sparse")
def test_an_untraceable_model_warns_and_is_right(example: Tensor) -> None:
    network = pruned(Branches)
    with pytest.warns(UserWarning, match="can't be traced"):
        fast = l1sparse.accelerate(network, example)
    assert set(sparse_layers(fast)) == {"first", "second"}
    with torch.no_grad():
        assert (fast(example) - network.eval()(example)).abs().max() < 1e-4


@pytest.mark.usefixtures("always_sparse")
def test_a_companion_mask_keeps_its_group_shape(example: Tensor) -> None:
    network = pruned()
    attach(network.second, (1, 4))
    extend(network.second, torch.rand(16, 4, 3, 3) < 0.5)
    fast = l1sparse.accelerate(network, example)
    assert {n: str(m.group) for n, m in sparse_layers(fast).items()} == {
        "first": "1x8",
        "second": "1x4",
    }
    with torch.no_grad():
        assert (fast(example) - network.eval()(example)).abs().max() < 1e-4


def test_wrong_arguments_are_named(example: Tensor) -> None:
    with pytest.raises(TypeError, match="model"):
        l1sparse.accelerate("net", example)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_input"):
        l1sparse.accelerate(pruned(), [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"group.*nothing"):
        l1sparse.accelerate(pruned(), example, {"nothing": (1, 8)})
    with pytest.raises(ValueError, match="accelerate"):
        l1sparse.layer_choices(pruned())
    with pytest.raises(ValueError, match="no SparseConv2d"):
        l1sparse.save(pruned(), "unused")


@pytest.fixture
def saved(always_sparse: None, example: Tensor, tmp_path: Path) -> tuple[nn.Module, Path]:
    fast = l1sparse.accelerate(pruned(), example)
    path = tmp_path / "network.safetensors"
    l1sparse.save(fast, path)
    return fast, path


def test_what_is_read_is_what_was_written(
    saved: tuple[nn.Module, Path], example: Tensor, tmp_path: Path
) -> None:
    fast, path = saved
    back = l1sparse.load(path, Network())
    with torch.no_grad():
        assert torch.equal(back(example), fast(example))
    assert set(back.state_dict()) == set(fast.state_dict())
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_network_with_layers_put_in_by_hand_round_trips(example: Tensor, tmp_path: Path) -> None:
    network = pruned().eval()
    by_hand = copy.deepcopy(network)
    by_hand.second = SparseConv2d.from_dense(network.second).eval()
    l1sparse.save(by_hand, tmp_path / "file")
    back = l1sparse.load(tmp_path / "file", Network())
    with torch.no_grad():
        assert torch.equal(back(example), by_hand(example))


def test_a_pruned_layer_is_stored_packed_even_where_it_runs_dense(
    example: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, outputs = [], []
    network = pruned()
    for dense_ms in (1.0, 3.0):
        measure_as(monkeypatch, dense=dense_ms, sparse=2.0)
        fast = l1sparse.accelerate(network, example)
        l1sparse.save(fast, tmp_path / "file")
        sizes.append((tmp_path / "file").stat().st_size)
        with torch.no_grad():
            outputs.append(l1sparse.load(tmp_path / "file", Network())(example))
            assert torch.equal(outputs[-1], fast(example))
    assert abs(sizes[0] - sizes[1]) < 500
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_what_is_timed_is_packed_once(example: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = accelerate_function.__globals__["_choose"]
    packed_by_call = []

    def watch(candidates: dict[str, Any], rounds: int = 0) -> dict[str, Timing]:
        if "sparse" in candidates:
            packed_by_call.append(candidates["sparse"].func.weight is None)
        return {name: Timing(1.0 if name == "sparse" else 2.0, 0, 0) for name in candidates}

    monkeypatch.setitem(choose.__globals__, "alternate", watch)
    l1sparse.accelerate(pruned(), example)
    assert packed_by_call == 3 * [True, True]  # for each memory format


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failed_save_leaves_the_old_file_whole_and_nothing_behind(
    saved: tuple[nn.Module, Path],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    fast, path = saved
    before = path.read_bytes()

    def write_half_and_fail(tensors: object, to: str, metadata: object) -> None:
        Path(to).write_bytes(b"half")
        raise error

    monkeypatch.setattr(file_module, "save_file", write_half_and_fail)
    with pytest.raises(error):
        l1sparse.save(fast, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_missing_cut_damaged_foreign_and_unfitting_files_are_named(
    saved: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    _, path = saved
    content = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="absent"):
        l1sparse.load(tmp_path / "absent", Network())
    for name, bytes_ in {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "noise": b"no safetensors at all, not even close",
    }.items():
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(ValueError, match=name):
            l1sparse.load(tmp_path / name, Network())
    file_module.save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="foreign"):
        l1sparse.load(tmp_path / "foreign", Network())
    with pytest.raises(ValueError, match="does not fit"):
        l1sparse.load(path, nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_every_damaged_byte_of_a_packed_weight_is_noticed(
    saved: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    _, path = saved
    content = path.read_bytes()
    start = content.index(b"L1SPARSE")
    for at in range(start, start + 400, 13):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        (tmp_path / "damaged").write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="packed"):
            l1sparse.load(tmp_path / "damaged", Network())
