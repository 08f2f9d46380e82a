# SPDX-License-Identifier: MIT
"""The C++ tests of the torch-free core."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "goals",
    [
        pytest.param(["check"], id="with sanitizers"),
        pytest.param(["MODE=release", "fuzz", "FUZZ=--count 300"], id="random convolutions"),
    ],
)
def test_core_passes_its_own_tests(goals: list[str]) -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT / "tests" / "csrc"), f"--jobs={os.cpu_count()}", *goals],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
