# SPDX-License-Identifier: MIT
"""Programs with changed bytes: a checked one is always an error, and one that is not checked makes
the operator touch no memory that is not its own. Needs ExecuTorch: `make device-test`.

`L1SPARSE_FUZZ_PROGRAMS` sets how many; with `L1SPARSE_SANITIZE=1` library and driver are built with
sanitizers. `make fuzz-programs` runs 50,000 so.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from c_build import ROOT, SMALL_ISA, install_library, run
from device_networks import Mixed

import l1sparse

pytest.importorskip("executorch")

COUNT = int(os.environ.get("L1SPARSE_FUZZ_PROGRAMS", "2000"))
SANITIZE = os.environ.get("L1SPARSE_SANITIZE") == "1"
OUR_FRAME = re.compile(r"^ +#[0-3] .*\b(csrc/|libl1sparse_executorch)", re.MULTILINE)


@pytest.fixture(scope="module")
def driver() -> Path:
    """tests/device/mutated_programs.cpp, built."""
    root = next(iter(find_spec("executorch").submodule_search_locations))  # type: ignore[union-attr]
    name, options = "c-executorch", ["-DL1SPARSE_EXECUTORCH=ON", f"-DCMAKE_PREFIX_PATH={root}"]
    flags = []
    if SANITIZE:
        name = "c-executorch-sanitize"
        flags = ["-DCMAKE_CXX_FLAGS=-fsanitize=address,undefined -fno-omit-frame-pointer -g -O1"]
        options += ["-DCMAKE_BUILD_TYPE=None", f"-DL1SPARSE_ISAS={SMALL_ISA[platform.machine()]}"]
    prefix = install_library(name, *options, *flags)
    build = ROOT / "build" / f"{name}-tests"
    source = ROOT / "tests" / "device"
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={root};{prefix}", *flags)
    run("cmake", "--build", build)
    return build / "mutated_programs"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "mixed.pte"
    l1sparse.export_executorch(Mixed(), torch.zeros(1, 1, 12, 12), path)
    return path


def outcomes(driver: Path, program: Path, *options: str) -> tuple[dict[str, int], str]:
    """How many mutations ended how, and what ExecuTorch and sanitizers wrote."""
    settings = "allocator_may_return_null=1:detect_leaks=0:max_allocation_size_mb=1024"
    done = subprocess.run(
        [str(driver), str(program), "12", "12", "1", "0", str(COUNT), *options],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "ASAN_OPTIONS": settings, "UBSAN_OPTIONS": "print_stacktrace=1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = re.findall(r"^(\w[\w ]+?) +(\d+)$", done.stdout, re.MULTILINE)
    return {outcome: int(count) for outcome, count in counts}, done.stderr


def test_every_changed_program_is_refused_by_its_checksum(driver: Path, program: Path) -> None:
    counts, _ = outcomes(driver, program, "--checked")
    assert counts.pop("refused by the checksum") == COUNT
    assert set(counts.values()) == {0}


def test_what_executorch_lets_through_ends_no_process_in_our_code(
    driver: Path, program: Path
) -> None:
    counts, log = outcomes(driver, program)
    print(counts)
    assert sum(counts.values()) == COUNT
    assert counts["refused when loaded"] > COUNT / 10
    # Fewer without sanitizers: where a program lies at the address of the one before it, whose
    # weights had the same checksum, the operator takes them for those that it has compared.
    assert counts["refused when run"] > COUNT / 50
    assert counts["ran with equal outputs"] > 0
    assert counts["ended the process"] < COUNT / 100
    assert "l1sparse::sparse_conv2d: packed: the checksum does not match" in log
    assert "csrc/" not in "".join(re.findall("^.*runtime error.*$", log, re.MULTILINE))
    assert not OUR_FRAME.findall(log)
