# SPDX-License-Identifier: MIT
"""Files with float16 storage: what is rounded, what is refused, and how small files get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import l1sparse
import l1sparse.runtime
from l1sparse import SparseConv2d
from l1sparse.convert import summarize
from l1sparse.convert.half import join, split


def sparse_conv(inputs: int, outputs: int, kernel: int, density: float) -> SparseConv2d:
    conv = SparseConv2d(inputs, outputs, kernel, padding=kernel // 2, activation="relu")
    conv.mask = torch.rand(conv.mask.shape) < density
    return conv


def network(density: float = 0.1) -> nn.Module:
    """Four layers as a ResNet-50 has them in its third stage, all pruned but a small stem."""
    return nn.Sequential(
        nn.Conv2d(3, 256, 1),
        sparse_conv(256, 256, 3, density),
        sparse_conv(256, 1024, 1, density),
        sparse_conv(1024, 256, 1, density),
        sparse_conv(256, 512, 3, density),
    ).eval()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.13), (torch.float16, 0.07)])
def test_a_file_at_90_percent_is_small(dtype: torch.dtype, most: float, tmp_path: Path) -> None:
    net = network()
    l1sparse.save(net, tmp_path / "net", dtype=dtype)
    dense = 4 * sum(parameter.numel() for parameter in net.parameters())
    size = (tmp_path / "net").stat().st_size
    assert size <= most * dense
    summary = summarize(tmp_path / "net")
    assert (summary.file_bytes, summary.dense_bytes) == (size, dense)
    assert {f"torch.{layer.dtype}" for layer in summary.layers} == {str(dtype)}


def test_weights_are_rounded_and_widened_and_biases_kept(tmp_path: Path) -> None:
    net = network(0.3)
    l1sparse.save(net, tmp_path / "net", dtype=torch.float16)
    back = l1sparse.load(tmp_path / "net", network())
    for before, after in zip(net, back, strict=True):
        weight = before.masked_weight() if isinstance(before, SparseConv2d) else before.weight
        read = after.masked_weight() if isinstance(after, SparseConv2d) else after.weight
        assert read.dtype == torch.float32
        assert torch.equal(read, weight.half().float())
        assert torch.equal(after.bias, before.bias)
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(back(x), net(x), rtol=1e-2, atol=1e-2)


def test_what_was_rounded_is_stored_again_as_it_is(tmp_path: Path) -> None:
    l1sparse.save(network(), tmp_path / "one", dtype=torch.float16)
    l1sparse.save(l1sparse.load(tmp_path / "one", network()), tmp_path / "two", dtype=torch.float16)
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("strategy", ["channels", "pixels", "filters"])
@pytest.mark.parametrize("group", [(1, 8), (4, 4), (16, 1), (1, 64)])
def test_two_parts_are_the_packed_weight_again(group: tuple[int, int], strategy: str) -> None:
    weight = torch.randn(13, 21, 3, 3).half().float()
    grid = l1sparse.GroupShape.of(group).grid(weight.shape)
    packed = l1sparse.pack(weight, torch.rand(grid) < 0.4, group, strategy)
    assert torch.equal(join(*split(packed)), packed)


def test_a_group_that_rounds_to_zero_is_no_damage(tmp_path: Path) -> None:
    net = nn.Sequential(SparseConv2d(16, 4, 1)).eval()
    with torch.no_grad():
        net[0].weight[0] = 1e-12
    l1sparse.save(net, tmp_path / "net", dtype=torch.float16)
    back = l1sparse.load(tmp_path / "net", net)
    assert torch.equal(back[0].masked_weight(), net[0].weight.half().float())


def test_another_type_is_refused(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.int8, "float16"):
        with pytest.raises(
            ValueError, match=r"^dtype: got .*, expected torch.float32 or torch.float16"
        ):
            l1sparse.save(network(), tmp_path / "net", dtype=dtype)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("layer", "key"), [(0, "0.weight"), (3, "3.packed")])
def test_a_number_too_large_for_float16_is_refused(layer: int, key: str, tmp_path: Path) -> None:
    net = network(1.0)
    with torch.no_grad():
        net[layer].weight[0, 0] = -70000.0
    with pytest.raises(ValueError, match=rf"^dtype: {key} holds 70000, .* expected dtype=torch.fl"):
        l1sparse.save(net, tmp_path / "net", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_damage_in_either_part_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "net"
    l1sparse.save(network(), path, dtype=torch.float16)
    tensors = load_file(path)
    content = path.read_bytes()
    for key in ("1.packed", "1.packed_values"):
        start = content.index(tensors[key].numpy().tobytes())
        for at in range(start + 1, start + tensors[key].nbytes, tensors[key].nbytes // 20):
            changed = bytearray(content)
            changed[at] ^= 0x20
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"^path: (.|\n)*1\.packed: packed: "):
                l1sparse.load(path, network())


@pytest.mark.parametrize("change", ["missing", "wider", "longer"])
def test_parts_that_do_not_belong_together_are_an_error(change: str, tmp_path: Path) -> None:
    path = tmp_path / "net"
    l1sparse.save(network(), path, dtype=torch.float16)
    tensors = load_file(path)
    values = tensors.pop("1.packed_values")
    if change != "missing":
        more = torch.cat([values, values[:8]])
        tensors["1.packed_values"] = values.float() if change == "wider" else more
    save_file(tensors, path, metadata_of(path.read_bytes()))
    with pytest.raises(ValueError, match=r"^path: .* not fit this Sequential: (.|\n)*1\.packed"):
        l1sparse.load(path, network())


def metadata_of(content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def test_the_runtime_without_torch_reads_the_same_weights(tmp_path: Path) -> None:
    l1sparse.save(network(), tmp_path / "net", dtype=torch.float16)
    arrays = l1sparse.runtime.load(tmp_path / "net")
    back = l1sparse.load(tmp_path / "net", network())
    assert "1.packed_values" not in arrays
    for name in ("1", "4"):
        packed = back.get_submodule(name).packed
        np.testing.assert_array_equal(arrays[f"{name}.packed"], packed.numpy())
