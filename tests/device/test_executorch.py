# SPDX-License-Identifier: MIT
"""Exported networks run in C++ as in PyTorch. Needs ExecuTorch: `make device-test`."""

from __future__ import annotations

import re
import subprocess
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from c_build import ROOT, install_library, run
from torch import Tensor, nn

import l1sparse
from l1sparse.cli import main

pytest.importorskip("executorch")

FOREIGN = r"^lib(python|torch|c10)"


@pytest.fixture(scope="session")
def classify() -> Path:
    """The C++ program of examples/device."""
    root = next(iter(find_spec("executorch").submodule_search_locations))  # type: ignore[union-attr]
    prefix = install_library(
        "c-executorch", "-DL1SPARSE_EXECUTORCH=ON", f"-DCMAKE_PREFIX_PATH={root}"
    )
    build = ROOT / "build" / "c-example"
    source = ROOT / "examples" / "device"
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={root};{prefix}")
    run("cmake", "--build", build)
    return build / "classify"


class Everything(nn.Module):
    """A convolution of each kind that the operator knows, and layers for XNNPACK between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = l1sparse.SparseConv2d(3, 16, 3, padding=1, group=(1, 3), activation="relu6")
        self.residual = l1sparse.SparseConv2d(16, 16, 3, padding=1, activation="relu")
        self.grouped = l1sparse.SparseConv2d(16, 24, 3, stride=2, groups=2, bias=False)
        self.dense = nn.Conv2d(24, 16, 1)
        self.dilated = l1sparse.SparseConv2d(
            16, 8, (3, 2), padding="same", dilation=(2, 1), group=(4, 4), activation="hardswish"
        )
        self.clamped = l1sparse.SparseConv2d(8, 10, 1, activation="clamp", clamp=(-0.25, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.residual(x, x)
        x = torch.sigmoid(self.dense(self.grouped(x)))
        return self.clamped(self.dilated(x)).mean((2, 3))


def pruned(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, l1sparse.SparseConv2d):
            module.mask = torch.rand(module.mask.shape) < 0.6
    return network.eval()


def write_images(folder: Path, pixels: Tensor) -> list[Path]:
    paths = []
    for number, image in enumerate(pixels.to(torch.uint8)):
        channels, height, width = image.shape
        header = f"P{5 if channels == 1 else 6} {width} {height} 255\n".encode()
        paths.append(folder / f"{number}.pnm")
        paths[-1].write_bytes(header + image.permute(1, 2, 0).contiguous().numpy().tobytes())
    return paths


def scores_of(classify: Path, program: Path, folder: Path, pixels: Tensor) -> Tensor:
    scores = folder / "scores.f32"
    run(classify, program, "--scores", scores, *write_images(folder, pixels))
    return torch.from_numpy(np.fromfile(scores, np.float32)).reshape(len(pixels), -1)


def test_every_option_runs_as_in_torch(classify: Path, tmp_path: Path) -> None:
    network, pixels = pruned(Everything()), torch.randint(0, 256, (4, 3, 13, 17)).float()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    l1sparse.export_executorch(network, pixels[:1], tmp_path / "network.pte")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])
    scores = scores_of(classify, tmp_path / "network.pte", tmp_path, pixels)
    with torch.no_grad():
        expected = network(pixels / 255)
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_batch_norms_are_folded(classify: Path, tmp_path: Path) -> None:
    network = pruned(
        nn.Sequential(
            l1sparse.SparseConv2d(3, 8, 3, group=(1, 3)),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            l1sparse.SparseConv2d(8, 10, 3),
            nn.Flatten(),
        )
    )
    network[1].running_mean.uniform_()  # type: ignore[union-attr, operator]
    pixels = torch.randint(0, 256, (2, 3, 6, 6)).float()
    l1sparse.export_executorch(network, pixels[:1], tmp_path / "network.pte")
    assert b"batch_norm" not in (tmp_path / "network.pte").read_bytes()
    scores = scores_of(classify, tmp_path / "network.pte", tmp_path, pixels)
    with torch.no_grad():
        torch.testing.assert_close(scores, network(pixels / 255), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_an_accelerated_network_goes_through_its_file(
    classify: Path, tmp_path: Path, last: bool
) -> None:
    from l1sparse.convert.memory_format import set_format
    from l1sparse.convert.rewrite import make_sparse, optimised_graph
    from l1sparse.train import DigitsNet

    # As accelerate() would, had it measured our kernels to be faster everywhere.
    fast = optimised_graph(DigitsNet((8, 16, 16)).eval())
    set_format(fast, "channels_last" if last else "NCHW")
    for name, module in list(fast.named_modules()):
        if isinstance(module, nn.Conv2d) and module.in_channels > 1:
            make_sparse(fast, name, l1sparse.GroupShape(1, 8)).eval()
    pruned(fast)
    l1sparse.save(fast, tmp_path / "digits.l1s")
    arguments = ["--model", "device_networks:digits", "--input", "1,1,28,28"]
    program = tmp_path / "digits.pte"
    arguments += ["--output", str(program)]
    assert main(["export-executorch", str(tmp_path / "digits.l1s"), *arguments]) == 0
    pixels = torch.randint(0, 256, (3, 1, 28, 28)).float()
    scores = scores_of(classify, program, tmp_path, pixels)
    with torch.no_grad():
        torch.testing.assert_close(scores, fast(pixels / 255), rtol=1e-4, atol=1e-5)


def test_the_program_needs_neither_python_nor_torch(classify: Path) -> None:
    libraries = run("ldd", classify)
    names = re.findall(r"^\s*(\S+) =>", libraries, re.MULTILINE)
    assert any(name.startswith("libl1sparse_executorch") for name in names)
    assert not [name for name in names if re.search(FOREIGN, name)]
    assert len((ROOT / "examples" / "device" / "classify.cpp").read_text().splitlines()) < 150


def test_a_damaged_weight_is_an_error_and_no_crash(classify: Path, tmp_path: Path) -> None:
    network = pruned(nn.Sequential(l1sparse.SparseConv2d(3, 8, 3), nn.Flatten()))
    program = tmp_path / "network.pte"
    l1sparse.export_executorch(network, torch.zeros(1, 3, 4, 4), program)
    content = bytearray(program.read_bytes())
    at = content.index(b"L1SPARSE")
    assert at % 64 == 0
    content[at + 80] ^= 0x40
    image = write_images(tmp_path, torch.zeros(1, 3, 4, 4))[0]
    forged = bytes(content[:-4]) + zlib.crc32(content[:-12]).to_bytes(4, "little")
    for damaged, text in ((content, "program: has the checksum"), (forged, "packed:")):
        program.write_bytes(damaged)
        command = [str(classify), str(program), str(image)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert text in done.stderr
