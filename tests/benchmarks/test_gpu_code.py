# SPDX-License-Identifier: MIT
"""The machine-code gate: what it reads, and that every rule of it fails a kernel that breaks it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import gpu_code
from gpu_code import LIMITS, Kernel, Statement, kernels_of, row_of, statements, warps_that_fit

GOOD = Kernel(
    name="conv<float, 4>",
    arch=80,
    registers=64,
    stack=0,
    spills=0,
    static=1024,
    loads={4: 3, 16: 8},
    narrow_copies=0,
    instructions={"HMMA": 4, "LDGSTS": 2, "LDSM": 1},
)
STATED = Statement("conv<*, 4>", 128, 0, 16, 8, ("HMMA", "LDSM"), {80: 32})


def failures(statement: Statement = STATED, **changes: Any) -> list[str]:
    kernel = dataclasses.replace(GOOD, **changes)
    return list(row_of(kernel, [statement])["failures"])


def test_a_good_kernel_passes() -> None:
    row = row_of(GOOD, [STATED])
    assert row["failures"] == []
    assert row["warps"] == row["stated_warps"] == 32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stack": 8}, "a stack frame of 8 bytes"),
        ({"spills": 4}, "4 bytes of spills"),
        ({"registers": 72}, "28 warps fit, 32 are stated"),
        ({"static": 40000}, "16 warps fit"),
        ({"loads": {4: 30, 16: 7}}, "7 loads of 16 bytes, 8 are stated"),
        ({"narrow_copies": 1}, "1 copies to shared memory of less than 16 bytes"),
        ({"instructions": {"HMMA": 0, "LDGSTS": 2, "LDSM": 1}}, "no HMMA"),
        ({"instructions": {"HMMA": 4, "LDGSTS": 2, "LDSM": 0}}, "no LDSM"),
        ({"arch": 90}, "no warps are stated for this architecture"),
        ({"name": "conv<float, 8>"}, "0 gpu-code lines"),
    ],
)
def test_every_rule_fails_what_breaks_it(changes: dict[str, Any], says: str) -> None:
    (failure,) = failures(**changes)
    assert says in failure


def test_two_statements_for_a_kernel_fail() -> None:
    assert "2 gpu-code lines" in row_of(GOOD, [STATED, STATED])["failures"][0]


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "warps"),
    [
        # Limited by warps, by blocks, by registers and by shared memory.
        (80, 256, 32, 0, 64),
        (80, 32, 32, 0, 32),
        (86, 32, 32, 0, 16),
        (80, 128, 128, 0, 16),
        (80, 128, 129, 0, 12),  # registers come in units of eight
        (80, 128, 32, 49184, 12),  # three blocks of 48 KiB and what the system takes
        (86, 128, 32, 49184, 8),
        (86, 128, 32, 50 * 1024, 4),
        (90, 128, 32, 49184, 16),
        (75, 128, 32, 32 * 1024, 8),
        (75, 1024, 64, 0, 32),
    ],
)
def test_warps_are_those_of_the_occupancy_calculator(
    arch: int, threads: int, registers: int, shared: int, warps: int
) -> None:
    assert warps_that_fit(LIMITS[arch], threads, registers, shared) == warps


def test_statements_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    source = tmp_path / "a.cu"
    source.write_text(
        "// gpu-code: conv<*, 4> threads 128 dynamic 0 loads 16x8 uses HMMA LDSM warps 80:32\n"
    )
    assert statements(source) == [STATED]
    source.write_text("// gpu-code: conv<*, 4> threads many\n")
    with pytest.raises(ValueError, match=r"a\.cu: gpu-code: got 'conv<\*, 4> threads many'"):
        statements(source)


PTXAS = """
ptxas info    : Compiling entry function '_ZN1a4convIfLi4EEEvPf' for 'sm_80'
ptxas info    : Function properties for _ZN1a4convIfLi4EEEvPf
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 256 bytes smem, 400 bytes cmem[0]
"""
SASS = """
\tcode for sm_80
\t\tFunction : _ZN1a4convIfLi4EEEvPf
        /*0000*/                   LDG.E.128.CONSTANT R8, [R2.64] ;        /* 0x1 */
        /*0010*/              @!P0 LDG.E R8, [R2.64] ;                     /* 0x1 */
        /*0020*/               @P1 LD.E.U16 R8, [R2.64] ;                  /* 0x1 */
        /*0030*/                   LDGSTS.E.BYPASS.128 [R4], [R2.64] ;     /* 0x1 */
        /*0040*/                   LDGSTS.E [R4], [R2.64] ;                /* 0x1 */
        /*0050*/                   HMMA.16816.F32 R4, R8, R2, R4 ;         /* 0x1 */
        /*0060*/                   LDS.128 R4, [R8] ;                      /* 0x1 */
"""


def test_machine_code_is_read() -> None:
    (kernel,) = kernels_of(PTXAS, SASS, 80)
    assert kernel == Kernel(
        name="conv<float, 4>",
        arch=80,
        registers=40,
        stack=16,
        spills=20,
        static=256,
        loads={2: 1, 4: 2, 16: 2},
        narrow_copies=1,
        instructions={"HMMA": 1, "LDGSTS": 2, "LDSM": 0},
    )


def broken(tmp_path: Path, find: str, replace: str) -> Path:
    """A tree with one kernel, changed in one place."""
    source = (gpu_code.ROOT / "csrc/kernels/group_l1/group_l1.cu").read_text()
    assert find in source
    for name in ("base", "kernels/group_l1"):
        (tmp_path / name).mkdir(parents=True)
        for file in (gpu_code.ROOT / "csrc" / name).glob("*.*h"):
            (tmp_path / name / file.name).write_text(file.read_text())
    (tmp_path / "kernels/group_l1/group_l1.cu").write_text(source.replace(find, replace))
    return tmp_path


@pytest.mark.parametrize(
    ("find", "replace", "says"),
    [
        ("float sum = 0.0f;", "float sum = 0.0f;", ""),
        # Eight bytes at a time; an array of a thread at a variable index; more shared memory.
        ("16 / sizeof(T)", "8 / sizeof(T)", "loads of 16 bytes"),
        (
            "tap] = sum;",
            "tap] = sum;\n  float local[64];\n#pragma unroll 1\n"
            "  for (int i = 0; i < 64; ++i) local[i] = sum * i;\n"
            "  if (works) parts[thread] += local[thread % groups % 64];",
            "a stack frame",
        ),
        ("stretch[kStretch + kStretch / 32]", "stretch[11000]", "warps fit"),
    ],
)
@pytest.mark.usefixtures("nvcc")
def test_a_kernel_made_worse_fails(
    find: str, replace: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "code.json"
    csrc = broken(tmp_path / "csrc", find, replace)
    code = gpu_code.main(["--csrc", str(csrc), "--arch", "80", "--json", str(record)])
    rows = json.loads(record.read_text())["kernels"]
    assert len(rows) == 6
    captured = capsys.readouterr()
    assert captured.out.count("| 80 |") == 6
    if not says:
        assert (code, captured.err) == (0, "6 of 6 pass the gate\n")
        return
    assert code == 1
    assert says in captured.err
    assert any(says in failure for row in rows for failure in row["failures"])


@pytest.mark.usefixtures("nvcc")
def test_a_kernel_that_does_not_compile_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csrc = broken(tmp_path, "float sum = 0.0f;", "float sum = nothing;")
    assert gpu_code.main(["--csrc", str(csrc), "--arch", "80"]) == 1
    assert "nothing" in capsys.readouterr().err


def test_an_unknown_architecture_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_code.main(["--arch", "70"])
    assert "'70'" in capsys.readouterr().err
