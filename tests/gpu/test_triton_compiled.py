# SPDX-License-Identifier: MIT
"""The Triton kernels as machine code: they compile for every chip, and to what was meant."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import triton
from triton_launch import CAPABILITIES, ON_EVERY_CHIP

from l1sparse.triton import tune

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
DOTS = ("half", "half, bfloat16", "tf32")
ON_TURING = [name for name in ON_EVERY_CHIP if name not in DOTS]


def dump(option: str, cubin: Path) -> str:
    done = subprocess.run([CUOBJDUMP, option, cubin], capture_output=True, text=True, check=True)
    return done.stdout


def instructions(cubin: Path) -> Counter[str]:
    """How often each instruction stands in the code, with all its suffixes."""
    return Counter(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][\w.]*)",
                              dump("-sass", cubin), re.M))  # fmt: skip


def count(found: Counter[str], start: str) -> int:
    return sum(number for name, number in found.items() if name.startswith(start))


@pytest.mark.parametrize("capability", [75, *CAPABILITIES])
def test_there_is_machine_code_for_every_chip(compiled: Path, capability: int) -> None:
    for name in ON_EVERY_CHIP if capability > 75 else ON_TURING:
        code = (compiled / f"{name}, 0, {capability}.cubin").read_bytes()
        assert code.startswith(b"\x7fELF"), name


def test_nothing_is_spilled_and_nothing_lies_on_a_stack(compiled: Path) -> None:
    cubins = sorted(compiled.glob("*.cubin"))
    assert len(cubins) > 50
    for cubin in cubins:
        used = dump("--dump-resource-usage", cubin)
        ((registers, stack, local),) = re.findall(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", used)
        assert (stack, local) == ("0", "0"), cubin.name
        if cubin.name.startswith(ON_EVERY_CHIP):  # four blocks of 128 threads
            assert int(registers) <= 128, cubin.name


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", DOTS)
def test_a_column_is_one_matrix_product_for_eight_pixels(
    compiled: Path, name: str, capability: int
) -> None:
    found = instructions(compiled / f"{name}, 0, {capability}.cubin")
    values, warps = tune.CONV2D_DOT[0].kwargs, tune.CONV2D_DOT[0].num_warps
    assert count(found, "HMMA.16816" if name != "tf32" else "HMMA.1688") == count(found, "HMMA")
    assert count(found, "HMMA") == values["COLUMNS"] * values["PIXELS"] // 8 // warps


@pytest.mark.parametrize("number", range(len(tune.CONV2D_DOT)))
@pytest.mark.parametrize("name", ["half", "tf32"])
def test_activations_come_in_pieces_of_16_bytes(compiled: Path, name: str, number: int) -> None:
    found = instructions(compiled / f"{name}, {number}, 80.cubin")
    wide = sum(n for name, n in found.items() if name.startswith("LDGSTS") and ".128" in name)
    values, threads = tune.CONV2D_DOT[number].kwargs, 32 * tune.CONV2D_DOT[number].num_warps
    # A column and pixel are 32 bytes. Copies stand in the loop, and before it to fill the pipeline.
    assert wide >= 2 * (2 * values["COLUMNS"] * values["PIXELS"] // threads)
    # And later steps' copies are on their way when a step's are waited for.
    ptx = (compiled / f"{name}, {number}, 80.ptx").read_text()
    assert max(map(int, re.findall(r"cp\.async\.wait_group\s+(\d+)", ptx))) >= 5
    assert count(found, "LDSM") > 0
    assert count(found, "STG.E.128") == count(found, "STG") > 0


def test_there_is_no_matrix_product_where_there_should_be_none(compiled: Path) -> None:
    found = instructions(compiled / "simt, 0, 80.cubin")
    assert count(found, "HMMA") == 0
    values, threads = tune.CONV2D_SIMT[0].kwargs, 32 * tune.CONV2D_SIMT[0].num_warps
    # 8 filters and 8 channels, once in the text of the kernel.
    assert count(found, "FFMA") == 64 * values["PIXELS"] // threads


def test_what_a_launcher_has_to_know_is_written_beside(compiled: Path) -> None:
    about: Any = json.loads((compiled / "half, 0, 80.json").read_text())
    assert about["entry"] == "conv2d_dot_kernel"
    assert about["threads"] == 128
    assert about["parameters"][0] == "input"
