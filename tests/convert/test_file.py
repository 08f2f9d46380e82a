# SPDX-License-Identifier: MIT
"""`save` and `load`: what a file holds, and every way in which it can be wrong."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import l1sparse
from l1sparse import SparseConv2d


class Net(nn.Module):
    """A pruned convolution between dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.body = SparseConv2d(32, 64, 3)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x).relu()).relu()
        return self.head(x)


def pruned_net() -> Net:
    net = Net()
    with torch.no_grad():
        net.body.mask &= torch.rand(net.body.mask.shape) < 0.2
    return net.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.l1s"


@pytest.fixture
def saved(path: Path) -> Net:
    net = pruned_net()
    l1sparse.save(net, path)
    return net


def test_a_read_network_gives_the_same_bits_and_holds_only_packed_weights(
    saved: Net, path: Path
) -> None:
    x = torch.randn(2, 3, 9, 9)
    back = l1sparse.load(path, Net())
    assert torch.equal(back(x), saved(x))
    assert back.body.weight is None
    assert not back.training
    assert set(back.state_dict()) == {
        *("stem.weight", "stem.bias", "body.packed", "body.bias", "head.weight", "head.bias"),
    }


def test_loading_leaves_the_given_architecture_as_it_is(saved: Net, path: Path) -> None:
    architecture = Net().train()
    before = {name: value.clone() for name, value in architecture.state_dict().items()}
    l1sparse.load(path, architecture)
    assert architecture.training
    assert all(torch.equal(before[k], v) for k, v in architecture.state_dict().items())


@pytest.mark.parametrize("accelerated", [False, True])
def test_an_architecture_without_memory_is_enough(path: Path, accelerated: bool) -> None:
    x = torch.randn(2, 3, 9, 9)
    net = pruned_net()
    net.stem = nn.Sequential(net.stem, nn.BatchNorm2d(32).eval())
    saved = l1sparse.accelerate(net, x) if accelerated else net
    l1sparse.save(saved, path)
    with torch.device("meta"):
        architecture = Net()
        architecture.stem = nn.Sequential(architecture.stem, nn.BatchNorm2d(32))
    back = l1sparse.load(path, architecture)
    with torch.inference_mode():
        assert torch.equal(back(x), saved(x))
    assert all(tensor.is_meta for tensor in architecture.state_dict().values())


def test_a_buffer_without_values_that_no_file_has_is_an_error(saved: Net, path: Path) -> None:
    architecture = Net()
    scale = torch.ones(2, device="meta")
    architecture.head.register_buffer("scale", scale, persistent=False)
    with pytest.raises(ValueError, match=r"model: 'head\.scale' is a non-persistent buffer"):
        l1sparse.load(path, architecture)


def test_saving_leaves_the_network_as_it_is(path: Path) -> None:
    net = pruned_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    l1sparse.save(net, path)
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_the_file_is_smaller_by_the_pruned_weights(saved: Net, path: Path, tmp_path: Path) -> None:
    save_file(dict(saved.state_dict()), tmp_path / "dense")
    assert (tmp_path / "dense").stat().st_size > 3 * path.stat().st_size


def test_the_file_is_plain_safetensors_with_a_description(saved: Net, path: Path) -> None:
    tensors = load_file(path)
    assert torch.equal(tensors["body.packed"], saved.body.packed_weight())
    assert "body.weight" not in tensors
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["l1sparse"])
    assert description.pop("versions")["torch"] == torch.__version__
    assert set(description.pop("checksums")) == set(tensors) - {"body.packed"}
    layers = {"body": {"group": [1, 8], "activation": "none"}}
    assert description == {
        "version": 1,
        "folded": False,
        "memory_format": None,
        "prepacked": [],
        "dense": [],
        "layers": layers,
    }


def test_a_sparse_layer_with_an_activation_of_its_own_round_trips(path: Path) -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(SparseConv2d(3, 8, 3, activation="relu"), nn.Conv2d(8, 4, 1)).eval()

    net, x = network(), torch.randn(1, 3, 6, 6)
    l1sparse.save(net, path)
    assert torch.equal(l1sparse.load(path, network())(x), net(x))


def test_layers_that_share_a_tensor_round_trip(path: Path) -> None:
    def network() -> nn.Sequential:
        shared = nn.Conv2d(8, 8, 1)
        return nn.Sequential(SparseConv2d(3, 8, 3), shared, nn.ReLU(), shared).eval()

    net, x = network(), torch.randn(1, 3, 6, 6)
    l1sparse.save(net, path)
    assert torch.equal(l1sparse.load(path, network())(x), net(x))


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_file_may_be_read_by_whom_the_umask_says(path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        l1sparse.save(pruned_net(), path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_what_can_not_be_saved_is_an_error_and_writes_nothing(path: Path) -> None:
    with pytest.raises(ValueError, match=r"^model: this Conv2d has no SparseConv2d"):
        l1sparse.save(nn.Conv2d(3, 8, 3), path)
    with pytest.raises(ValueError, match=r"^model: is a SparseConv2d itself"):
        l1sparse.save(SparseConv2d(3, 8, 3), path)
    assert not list(path.parent.iterdir())


def test_a_place_that_can_not_be_written_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        l1sparse.save(pruned_net(), path.parent / "no_such_folder" / "net.l1s")
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=path.name):
        l1sparse.save(pruned_net(), path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_path_that_can_not_be_read_is_an_error_that_names_it(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=path.name):
        l1sparse.load(path, Net())
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=path.name):
        l1sparse.load(path, Net())


def test_a_truncated_file_is_an_error_wherever_it_ends(saved: Net, path: Path) -> None:
    content = path.read_bytes()
    for end in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"^path: .*net\.l1s.* is damaged or no safetensors"):
            l1sparse.load(path, Net())


def test_a_damaged_packed_weight_is_an_error_also_after_a_good_one_was_read(
    saved: Net, path: Path
) -> None:
    x, content = torch.randn(1, 3, 9, 9), path.read_bytes()
    start = content.index(b"L1SPARSE")
    end = start + saved.body.packed_weight().numel()
    for at in (start, start + 9, start + 57, start + 70, *range(start + 1000, end, 1999)):
        path.write_bytes(content)
        l1sparse.load(path, Net())(x)
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^path: .*net\.l1s(.|\n)*body\.packed: packed: "):
            l1sparse.load(path, Net())


def test_a_damaged_dense_tensor_is_an_error(saved: Net, path: Path) -> None:
    content = path.read_bytes()
    for name in ("stem.weight", "body.bias", "head.bias"):
        tensor = saved.state_dict()[name]
        changed = bytearray(content)
        changed[content.index(tensor.numpy().tobytes()) + tensor.nbytes - 1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"is damaged: {name} has another checksum"):
            l1sparse.load(path, Net())


def test_a_group_far_larger_than_the_weight_costs_no_memory(saved: Net, path: Path) -> None:
    description = json.loads(described(group=[1, 10**9], activation="none")) | {"dense": []}
    save_file(load_file(path), path, {"l1sparse": json.dumps(description)})
    back = l1sparse.load(path, Net())  # the packed weight's own group holds
    assert back.body.group == saved.body.group


def described(version: Any = 1, folded: Any = False, **layer: Any) -> str:
    return json.dumps({"version": version, "folded": folded, "layers": {"body": layer}})


@pytest.mark.parametrize(
    ("description", "part"),
    [
        ("", "can't be read"),
        ("[1, 2]", "can't be read"),
        ("{}", "version"),
        ('{"version": 1, "folded": false}', "layers"),
        ('{"version": 1, "folded": false, "layers": ["body"]}', "can't be read"),
        (described(version=3), "format version 3, expected one of [1, 2]; a later one needs a"),
        (described(group=[1, 2**31], activation="none"), "at most 2147483647"),
        (
            '{"version": 1, "folded": false, "layers": {}, "checks0ms": {}}',
            "['checks0ms'] are unknown",
        ),
        ("[" * 100_000, "RecursionError"),
        (described(group=[1, 8]), "activation"),
        (described(activation="none"), "group"),
        (described(group=[0, 8], activation="none"), "at least 1, got 0"),
        (described(group=[1, 8], activation="gelu"), "'gelu'"),
        (described(group=[1, 8], activation=["none"]), "activation"),
    ],
)
def test_a_description_that_makes_no_sense_is_an_error(
    saved: Net, path: Path, description: str, part: str
) -> None:
    save_file(load_file(path), path, {"l1sparse": description})
    with pytest.raises(ValueError, match=r"^path: .*net\.l1s") as error:
        l1sparse.load(path, Net())
    assert part in str(error.value)


def test_a_foreign_file_is_an_error(path: Path) -> None:
    for content in (b"PK\x03\x04" + bytes(1000), b"\xff" * 1000, b"text\n" * 200):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^path: .*net\.l1s.* no safetensors file"):
            l1sparse.load(path, Net())
    save_file({"stem.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"^path: .*net\.l1s' was not written by l1sparse.save"):
        l1sparse.load(path, Net())


class OtherChannels(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body = SparseConv2d(32, 48, 3)


class OtherNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3)


class BodyIsLinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)


@pytest.mark.parametrize("kind", [OtherChannels, OtherNames, BodyIsLinear])
def test_a_file_of_another_architecture_is_an_error(
    saved: Net, path: Path, kind: type[nn.Module]
) -> None:
    with pytest.raises(ValueError, match=rf"^path: .*net\.l1s' does not fit this {kind.__name__}"):
        l1sparse.load(path, kind())
