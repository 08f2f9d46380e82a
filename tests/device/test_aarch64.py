# SPDX-License-Identifier: MIT
"""The C library and the C example for 64-bit Arm, run by qemu where this machine is another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from c_build import ROOT, SMALL_BYTES, install_library, run

import l1sparse

TOOLS = ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", "qemu-aarch64")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}"
)


@pytest.fixture(scope="module")
def cross() -> Path:
    """For one instruction set, optimised for size."""
    return install_library(
        "c-aarch64",
        "-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake",
        "-DCMAKE_BUILD_TYPE=MinSizeRel",
        "-DL1SPARSE_ISAS=neon",
    )


def test_it_is_small_and_needs_the_c_library_only(cross: Path) -> None:
    library = cross / "lib" / "libl1sparse.so"
    assert library.stat().st_size <= SMALL_BYTES
    needed = [line for line in run("readelf", "-d", library).splitlines() if "NEEDED" in line]
    assert [line.split("[")[1] for line in needed] == ["libc.so.6]"]


def test_the_example_computes_what_python_does_here(cross: Path, tmp_path: Path) -> None:
    program = tmp_path / "conv2d"
    source = ROOT / "examples" / "c" / "conv2d.c"
    flags = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-static")
    library = cross / "lib" / "libl1sparse.a"
    run(TOOLS[0], *flags, f"-I{cross / 'include'}", source, "-o", program, library)
    packed = l1sparse.pack(torch.randn(6, 16, 3, 3), torch.rand(6, 2, 3, 3) < 0.5)
    input = torch.randn(1, 16, 9, 7)
    (tmp_path / "packed").write_bytes(packed.numpy().tobytes())
    command = ["qemu-aarch64", str(program), str(tmp_path / "packed"), "9", "7"]
    done = subprocess.run(command, input=input.numpy().tobytes(), capture_output=True, check=True)
    output = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).reshape(1, 6, 9, 7)
    expected = l1sparse.sparse_conv2d(input, packed, padding=1, activation="relu")
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
