# SPDX-License-Identifier: MIT
"""Instructions that a convolution executes, counted by callgrind: a slow-down that needs no clock.

Callgrind runs AVX2 and no AVX-512; the two share their source.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from l1sparse import build_info

ROOT = Path(__file__).parents[1]

# Strategy, group, filters, channels, kernel size; and how many instructions a thousand kept
# multiply-adds may take: 3 % more than what GCC 12 makes of the code. Lower them with every
# speed-up.
BUDGETS = {
    ("channels", "1x8", 64, 64, 3): 332,
    ("channels", "1x8", 256, 64, 1): 932,
    ("filters", "4x4", 64, 64, 3): 386,
    ("filters", "4x4", 256, 64, 1): 372,
    ("filters", "1x8", 256, 64, 1): 282,
    ("pixels", "1x8", 64, 64, 3): 353,
    ("pixels", "1x8", 256, 64, 1): 323,
}


@pytest.fixture(scope="module")
def program() -> Path:
    """tests/csrc/instructions.cpp, compiled as the extension is."""
    if "avx2" not in build_info()["usable"]:
        pytest.skip("needs AVX2")
    if shutil.which("valgrind") is None:
        message = "valgrind is not installed (Debian's package: valgrind)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    options = [f"--jobs={os.cpu_count()}", "MODE=release"]
    subprocess.run(
        ["make", "-C", str(ROOT / "tests" / "csrc"), *options, "instructions"], check=True
    )
    return next((ROOT / "build" / "csrc-tests").glob("release-*/instructions"))


@pytest.mark.parametrize("case", BUDGETS, ids=lambda case: "-".join(map(str, case)))
def test_instructions_stay_within_their_budget(
    program: Path, case: tuple[str, str, int, int, int]
) -> None:
    callgrind = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=l1sparse::conv2d(*",
    ]
    done = subprocess.run(
        [*callgrind, str(program), "avx2", *map(str, case)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected, done.stderr
    taken = 1000 * int(collected[1]) / int(done.stdout)
    print(f"{taken:.0f} instructions a thousand multiply-adds")
    assert 0.5 * BUDGETS[case] < taken <= BUDGETS[case]
