# SPDX-License-Identifier: MIT
"""What the CUDA kernels do, counted while their PTX runs, is held to a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_counts import (
    BFLOAT,
    CONVOLUTIONS,
    FLOAT,
    HALF,
    HEAD,
    NORMS,
    Measured,
    measure_conv,
    measure_norm,
)
from kernel_runner import Runner

MOST_SECTORS = 1.1  # of the ideal
MOST_CONFLICTS = 0.05  # of the accesses to shared memory
DOCS = Path(__file__).parents[2] / "docs/gpu.md"


@pytest.mark.parametrize(
    ("kernel", "name"), [(kernel, name) for kernel in CONVOLUTIONS for name in CONVOLUTIONS[kernel]]
)
def test_convolution(kernel: str, name: str, runner: Runner) -> None:
    budget = CONVOLUTIONS[kernel][name]
    measured = measure_conv(runner, budget)
    assert measured.executed == measured.needed
    assert measured.instructions <= budget.instructions
    assert_lean(measured)


def assert_lean(measured: Measured) -> None:
    counts = measured.counts
    assert measured.sectors <= MOST_SECTORS
    assert counts.global_store_sectors <= MOST_SECTORS * counts.global_store_bytes / 32
    assert measured.conflicts <= MOST_CONFLICTS


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT, HALF])
@pytest.mark.parametrize("name", NORMS)
def test_group_l1_norm(name: str, dtype: torch.dtype, runner: Runner) -> None:
    shape, group = NORMS[name]
    measured = measure_norm(runner, shape, group, dtype)
    counts = measured.counts
    # Every weight once.
    assert counts.global_load_bytes == 32 * measured.ideal_sectors
    assert measured.sectors <= MOST_SECTORS
    assert counts.global_store_sectors <= MOST_SECTORS * max(counts.global_store_bytes / 32, 8)
    assert measured.conflicts <= MOST_CONFLICTS


def test_the_table_of_the_documentation_has_these_cases() -> None:
    text = DOCS.read_text()
    assert HEAD in text
    rows = text.split(HEAD)[1].split("\n\n")[0].strip().splitlines()
    names = [row.split("|")[4].split(":")[0].strip() for row in rows]
    cases = [name for budgets in CONVOLUTIONS.values() for name in budgets]
    assert names[: len(cases)] == cases
    assert len(rows) == len(cases) + len(NORMS)
