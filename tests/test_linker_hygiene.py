# SPDX-License-Identifier: MIT
"""Objects compiled for one instruction set share no function with the rest.

Of an inline function that many objects hold, the linker keeps one copy. If that copy was compiled
for AVX-512, the program ends with an illegal instruction on every older processor.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = set("WVuC")  # nm's letters of symbols of which the linker keeps one copy


@pytest.fixture(scope="module")
def isa_objects() -> list[Path]:
    """Compiled without optimization, so that every inline function shows as a symbol."""
    build = ROOT / "build" / "isa-objects"
    options = ["OPTIMIZE=-O0", "SANITIZE=", f"BUILD={build}"]
    subprocess.run(
        ["make", "-C", str(ROOT / "tests" / "csrc"), "isa-objects", *options], check=True
    )
    return sorted(build.glob("*/core/kernels/*/*.o"))


def defined_symbols(path: Path) -> list[tuple[str, str]]:
    """(letter, name) of every defined symbol that other objects see."""
    command = ["nm", "--extern-only", "--defined-only", "--demangle", "--format=posix", str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = (line.rsplit(maxsplit=3)[:2] for line in lines)
    # Where the compiler's own function for exceptions is found: an address and no code.
    return [(letter, name) for name, letter in symbols if not name.startswith("DW.ref.")]


def test_each_object_offers_one_table_and_nothing_else(isa_objects: list[Path]) -> None:
    assert isa_objects
    for path in isa_objects:
        symbols = defined_symbols(path)
        assert not [name for letter, name in symbols if letter in SHARED], path
        ((_, name),) = symbols
        assert name.startswith(f"l1sparse::{path.parent.name}_"), path
        assert name.endswith(f"_{path.stem}"), path
