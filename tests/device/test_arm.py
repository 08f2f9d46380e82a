# SPDX-License-Identifier: MIT
"""The core's tests, the C library and the C example for Arm, run by qemu."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from c_build import ROOT, SMALL_BYTES, install_library, need_arm_tools, run

import l1sparse


@dataclass(frozen=True)
class Arm:
    """A kind of Arm processor, and what builds and runs programs for it."""

    name: str
    triplet: str
    emulator: str


ARMS = (
    Arm("aarch64", "aarch64-linux-gnu", "qemu-aarch64"),
    Arm("armv7", "arm-linux-gnueabihf", "qemu-arm"),
)


@pytest.fixture(scope="module", params=ARMS, ids=lambda arm: arm.name)
def arm(request: pytest.FixtureRequest) -> Arm:
    found: Arm = request.param
    need_arm_tools(f"{found.triplet}-gcc", f"{found.triplet}-g++", found.emulator)
    return found


@pytest.fixture(scope="module")
def cross(arm: Arm) -> Path:
    """For one instruction set, optimised for size."""
    return install_library(
        f"c-{arm.name}",
        f"-DCMAKE_TOOLCHAIN_FILE=cmake/{arm.triplet}.cmake",
        "-DCMAKE_BUILD_TYPE=MinSizeRel",
        "-DL1SPARSE_ISAS=neon",
    )


def test_it_is_small_and_needs_the_c_library_only(cross: Path) -> None:
    library = cross / "lib" / "libl1sparse.so"
    assert library.stat().st_size <= SMALL_BYTES
    needed = [line for line in run("readelf", "-d", library).splitlines() if "NEEDED" in line]
    assert [line.split("[")[1] for line in needed] == ["libc.so.6]"]


def test_the_example_computes_what_python_does_here(arm: Arm, cross: Path, tmp_path: Path) -> None:
    program = tmp_path / "conv2d"
    source = ROOT / "examples" / "c" / "conv2d.c"
    flags = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-static")
    library = cross / "lib" / "libl1sparse.a"
    compiler = f"{arm.triplet}-gcc"
    run(compiler, *flags, f"-I{cross / 'include'}", source, "-o", program, library)
    packed = l1sparse.pack(torch.randn(6, 16, 3, 3), torch.rand(6, 2, 3, 3) < 0.5)
    input = torch.randn(1, 16, 9, 7)
    (tmp_path / "packed").write_bytes(packed.numpy().tobytes())
    command = [arm.emulator, str(program), str(tmp_path / "packed"), "9", "7"]
    done = subprocess.run(command, input=input.numpy().tobytes(), capture_output=True, check=True)
    output = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).reshape(1, 6, 9, 7)
    expected = l1sparse.sparse_conv2d(input, packed, padding=1, activation="relu")
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_the_core_passes_its_own_tests(arm: Arm) -> None:
    """Every test of the core, changed buffers and random convolutions among them."""
    done = subprocess.run(
        ["make", "-C", str(ROOT / "tests" / "csrc"), "check", f"-j{os.cpu_count()}",
         "MODE=release", f"ARCH={arm.name}", f"CXX={arm.triplet}-g++", "LDFLAGS=-static",
         f"RUN={arm.emulator}", "FUZZ=--count 100"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
