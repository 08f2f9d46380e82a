# SPDX-License-Identifier: MIT
"""The C library as a program finds it: built by CMake and installed into a folder."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from c_build import SMALL_ISA, install_library


@pytest.fixture(scope="session")
def installed() -> Path:
    """Every instruction set, release."""
    return install_library("c-release", "-DCMAKE_BUILD_TYPE=Release")


@pytest.fixture(scope="session")
def small() -> Path:
    """One instruction set, optimised for size."""
    isa = SMALL_ISA[platform.machine()]
    return install_library("c-small", "-DCMAKE_BUILD_TYPE=MinSizeRel", f"-DL1SPARSE_ISAS={isa}")
