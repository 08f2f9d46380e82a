# SPDX-License-Identifier: MIT
"""Runs ``torch_samples.py`` in a process of its own: torch's tests, which it imports, change
settings of the whole process for good."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_torch_own_samples_of_conv2d() -> None:
    file = Path(__file__).with_name("torch_samples.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(file)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= 4
