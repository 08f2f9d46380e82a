# SPDX-License-Identifier: MIT
"""Which instruction set runs: reported, forced, and proved to have run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import l1sparse
from l1sparse.build import FORCE_VARIABLE, force_arch, force_arch_from_environment

KNOWN = {"avx512_bf16", "avx512", "avx2", "neon", "scalar"}
USABLE = l1sparse.build_info()["usable"]
# Pairs of bfloat16 numbers, which are the first, are slow on Intel's processors.
INTEL = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
FASTEST = next(name for name in USABLE if not (INTEL and name == "avx512_bf16"))

SAY_WHAT_RAN = """
import torch, l1sparse
packed = l1sparse.pack(torch.randn(4, 8, 3, 3))
l1sparse.sparse_conv2d(torch.randn(1, 8, 5, 5), packed)
print(l1sparse.build_info()["chosen"], torch.ops.l1sparse._last_conv2d_isa())
"""


def kernels_of(name: str) -> str:
    """Whose kernels run in float32: AVX512-BF16 adds some for bfloat16 only."""
    return name.removesuffix("_bf16")


def what_ran() -> str:
    packed = l1sparse.pack(torch.ones(1, 1, 1, 1))
    l1sparse.sparse_conv2d(torch.ones(1, 1, 1, 1), packed)
    return str(torch.ops.l1sparse._last_conv2d_isa())


def python(code: str, forced: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, FORCE_VARIABLE: forced}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_build_info_says_what_is_here() -> None:
    info = l1sparse.build_info()
    assert set(info) == {"version", "compiled", "usable", "chosen", "torch", "cuda", "cuda_reason"}
    assert isinstance(info["version"], str)
    assert set(info["usable"]) <= set(info["compiled"]) <= KNOWN
    assert info["compiled"][-1] == info["usable"][-1] == "scalar"
    assert info["chosen"] in info["usable"]
    assert info["torch"] == torch.__version__
    assert info["cuda"] is (info["cuda_reason"] == "")


def test_the_fastest_usable_set_is_chosen_where_none_is_forced() -> None:
    force_arch("")
    try:
        assert l1sparse.build_info()["chosen"] == FASTEST
    finally:
        force_arch_from_environment()


def test_each_forced_set_runs_and_says_so() -> None:
    try:
        # Twice round, so that no answer can be left over from the call before.
        for name in USABLE + USABLE:
            force_arch(name)
            assert l1sparse.build_info()["chosen"] == name
            assert what_ran() == kernels_of(name)
    finally:
        force_arch_from_environment()


@pytest.mark.parametrize("name", ["nonsense", "AVX2", "scalar ", "généric", *(KNOWN - set(USABLE))])
def test_forcing_an_unknown_or_unusable_set_is_an_error_and_changes_nothing(name: str) -> None:
    force_arch(USABLE[-1])
    try:
        with pytest.raises(ValueError, match=FORCE_VARIABLE) as error:
            force_arch(name)
        assert repr(name) in str(error.value)
        assert ", ".join(USABLE) in str(error.value)
        assert l1sparse.build_info()["chosen"] == USABLE[-1]
        assert what_ran() == USABLE[-1]
    finally:
        force_arch_from_environment()


@pytest.mark.parametrize("name", USABLE)
def test_the_environment_variable_forces_a_set(name: str) -> None:
    result = python(SAY_WHAT_RAN, forced=name)
    assert result.stdout.split() == [name, kernels_of(name)], result.stderr


def test_an_empty_environment_variable_leaves_the_choice_free() -> None:
    assert python(SAY_WHAT_RAN, forced="").stdout.split() == [FASTEST, kernels_of(FASTEST)]


def test_an_unknown_set_in_the_environment_variable_fails_the_import() -> None:
    result = python("import torch, l1sparse", forced="nonsense")
    assert result.returncode != 0
    last_line = result.stderr.strip().splitlines()[-1]
    for part in ("ValueError", FORCE_VARIABLE, "'nonsense'", ", ".join(USABLE)):
        assert part in last_line
