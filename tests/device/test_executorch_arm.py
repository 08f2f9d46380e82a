# SPDX-License-Identifier: MIT
"""The device program for 64-bit Arm, run by qemu on a network exported here: `make device-test`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from c_build import ROOT, install_library, need_arm_tools, run

import l1sparse

pytest.importorskip("executorch")

from test_executorch import Everything, pruned, scores_of

TRIPLET = "aarch64-linux-gnu"


@pytest.fixture(scope="module")
def executorch() -> Path:
    """ExecuTorch's package for Arm, of the version that is installed here; not installed."""
    need_arm_tools(f"{TRIPLET}-gcc", f"{TRIPLET}-g++", "qemu-aarch64")
    folder = ROOT / "build" / "executorch-aarch64"
    if not (folder / "executorch").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        download += ["--only-binary=:all:", "--python-version=3.11", "--dest", str(folder)]
        download += ["--platform=linux_aarch64", "--platform=manylinux_2_28_aarch64"]
        subprocess.run([*download, f"executorch=={version('executorch')}"], check=True)
        (wheel,) = folder.glob("executorch-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder / "executorch"


@pytest.fixture(scope="module")
def program(executorch: Path) -> Path:
    """The C++ program of examples/device for Arm."""
    toolchain = ROOT / "csrc" / "cmake" / f"{TRIPLET}.cmake"
    options = [f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DCMAKE_BUILD_TYPE=Release"]
    own = ["-DL1SPARSE_ISAS=neon", "-DL1SPARSE_EXECUTORCH=ON"]
    prefix = install_library(
        "c-executorch-arm", *options, *own, f"-DCMAKE_PREFIX_PATH={executorch}"
    )
    build, source = ROOT / "build" / "c-example-arm", ROOT / "examples" / "device"
    run("cmake", "-S", source, "-B", build, *options, f"-DCMAKE_PREFIX_PATH={executorch};{prefix}")
    run("cmake", "--build", build)
    return build / "classify"


@pytest.fixture(scope="module")
def classify(program: Path, executorch: Path) -> Path:
    """A script that runs it."""
    system = Path("/usr") / TRIPLET
    prefix = ROOT / "build" / "c-executorch-arm-installed" / "lib"
    folders = ":".join(map(str, (system / "lib", executorch / "lib", prefix)))
    script = program.with_name("classify.sh")
    script.write_text(
        f"#!/bin/sh\nexec qemu-aarch64 -L {system} -E LD_LIBRARY_PATH={folders} {program} "
        '--one-thread "$@"\n'
    )
    script.chmod(0o755)
    return script


def test_every_option_runs_as_in_torch(classify: Path, tmp_path: Path) -> None:
    network, pixels = pruned(Everything()), torch.randint(0, 256, (4, 3, 13, 17)).float()
    l1sparse.export_executorch(network, pixels[:1], tmp_path / "network.pte")
    scores = scores_of(classify, tmp_path / "network.pte", tmp_path, pixels)
    with torch.no_grad():
        expected = network(pixels / 255)
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_it_needs_neither_python_nor_libtorch(program: Path) -> None:
    needed = [line for line in run("readelf", "-d", program).splitlines() if "NEEDED" in line]
    names = [line.split("[")[1].rstrip("]") for line in needed]
    assert any(name.startswith("libl1sparse_executorch") for name in names)
    assert not [name for name in names if name.startswith(("libpython", "libtorch", "libc10"))]
