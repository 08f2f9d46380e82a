# SPDX-License-Identifier: MIT
"""Builds and installs the C library as its users do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL_ISA = {"x86_64": "avx2", "aarch64": "neon"}
"""The one instruction set of a small library."""
SMALL_BYTES = 150 * 1000
"""What a stripped library for it may take."""


# Tools that pip installed beside Python are found before the system's.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run(*command: object) -> str:
    """Run a command that has to succeed; what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def need_arm_tools(*tools: str) -> None:
    """Skip the test where a tool is missing, or fail it where `L1SPARSE_REQUIRE_ARM` is 1."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        end = pytest.fail if os.environ.get("L1SPARSE_REQUIRE_ARM") == "1" else pytest.skip
        end(f"needs {', '.join(missing)}")


def install_library(name: str, *options: str) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    build, prefix = ROOT / "build" / name, ROOT / "build" / f"{name}-installed"
    shutil.rmtree(prefix, ignore_errors=True)
    run("cmake", "-S", ROOT / "csrc", "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", *options)
    run("cmake", "--build", build, "--parallel", "2")
    run("cmake", "--install", build, "--strip")
    return prefix
