# SPDX-License-Identifier: MIT
"""The C++ tests of the torch-free core, with address and undefined-behaviour sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_core_passes_its_own_tests() -> None:
    build = ROOT / "build" / "csrc-tests"
    done = subprocess.run(
        ["make", "-C", str(ROOT / "tests" / "csrc"), "check", f"BUILD={build}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
