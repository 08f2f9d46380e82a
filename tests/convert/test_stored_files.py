# SPDX-License-Identifier: MIT
"""Files that earlier releases wrote: every later one has to give their outputs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stored_network import DATA, StoredNetwork
from torch import nn

import l1sparse
import l1sparse.runtime
from l1sparse import SparseConv2d
from l1sparse.convert import summarize
from l1sparse.nn import DenseConv2d

FILES = {"version-1.safetensors": 1e-5, "version-2.safetensors": 5e-3}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_outputs_that_it_gave(name: str) -> None:
    expected = load_file(DATA / "expected.safetensors")
    network = StoredNetwork()
    before = copy.deepcopy(network.state_dict())
    back = l1sparse.load(DATA / name, network)
    with torch.inference_mode():
        output = back(expected["input"])
    torch.testing.assert_close(output, expected["output"], rtol=FILES[name], atol=FILES[name])
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", FILES)
def test_its_layers_run_as_they_did(name: str) -> None:
    back = l1sparse.load(DATA / name, StoredNetwork())
    sparse = {n: m for n, m in back.named_modules() if isinstance(m, SparseConv2d)}
    assert {n: (str(m.group), m.activation) for n, m in sparse.items()} == {
        "first": ("1x8", "clamp"),
        "second": ("4x4", "relu"),
    }
    assert sparse["first"].clamp == (-1.0, 2.0)
    assert type(back.third) is DenseConv2d
    assert back.stem.way == "prepacked"
    assert not [m for m in back.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "version"), [("version-1.safetensors", 1), ("version-2.safetensors", 2)]
)
def test_its_summary_is_what_it_was(name: str, version: int) -> None:
    summary = summarize(DATA / name)
    assert summary.format_version == version
    assert (summary.folded, summary.memory_format) == (True, "NCHW")
    found = [(layer.name, layer.runs, layer.weight_shape) for layer in summary.layers]
    assert found == [
        ("first", "sparse", (24, 16, 3, 3)),
        ("second", "sparse", (24, 24, 3, 3)),
        ("third", "dense", (24, 24, 1, 1)),
    ]


@pytest.mark.parametrize("name", FILES)
def test_the_runtime_without_torch_reads_it(name: str) -> None:
    arrays = l1sparse.runtime.load(DATA / name)
    back = l1sparse.load(DATA / name, StoredNetwork())
    weight = l1sparse.runtime.unpack(arrays["first.packed"])
    assert torch.equal(torch.from_numpy(weight), back.first.masked_weight())


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in Path(DATA).iterdir()) < 40_000
