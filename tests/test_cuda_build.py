# SPDX-License-Identifier: MIT
"""What the build does about GPU kernels, and what is said where there are none."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
import torch

from l1sparse import build

ROOT = Path(__file__).parents[1]
HAS_CUDA_TORCH = torch.version.cuda is not None


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The functions of setup.py, in its folder; nothing is built."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in ("L1SPARSE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_setup(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_demand_for_gpu_kernels_names_what_is_missing() -> None:
    result = run_setup(L1SPARSE_CUDA="1", CUDA_HOME="/nowhere")
    assert result.returncode != 0
    assert "L1SPARSE_CUDA=1" in result.stderr
    missing = "nvcc in /nowhere" if HAS_CUDA_TORCH else "which has no CUDA"
    assert missing in result.stderr.splitlines()[-1]


def test_the_demand_is_0_or_1_or_nothing() -> None:
    result = run_setup(L1SPARSE_CUDA="yes")
    assert result.returncode != 0
    assert "'yes'" in result.stderr


@pytest.mark.parametrize("demand", ["0", ""])
def test_without_a_toolkit_the_rest_is_built(demand: str) -> None:
    result = run_setup(L1SPARSE_CUDA=demand, CUDA_HOME="/nowhere")
    assert result.returncode == 0, result.stderr


def test_gpu_kernels_are_wanted_where_torch_and_toolkit_have_them(
    setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert setup_py.find_nvcc() == nvcc
    assert setup_py.wants_cuda()
    monkeypatch.setenv("L1SPARSE_CUDA", "0")
    assert not setup_py.wants_cuda()
    assert "L1SPARSE_CUDA=0" in setup_py.cuda_reason()
    monkeypatch.delenv("L1SPARSE_CUDA")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not setup_py.wants_cuda()
    assert torch.__version__ in setup_py.cuda_reason()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    nvcc.unlink()
    assert not setup_py.wants_cuda()
    assert str(tmp_path) in setup_py.cuda_reason()


def codes(flags: list[str]) -> list[str]:
    found = [re.fullmatch(r"-gencode=arch=compute_(\w+),code=(\w+)", flag) for flag in flags]
    return [f"{match[1]} {match[2]}" for match in found if match is not None]


def test_the_list_of_architectures_is_honoured(
    setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    simt = ROOT / "csrc/kernels/conv2d/simt.cu"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.6, 9.0a 12.0+PTX")
    assert codes(setup_py.arch_flags(simt)) == [
        "75 sm_75",
        "86 sm_86",
        "90a sm_90a",
        "120 sm_120",
        "120 compute_120",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Turing")
    with pytest.raises(SystemExit, match="'Turing'"):
        setup_py.arch_flags(simt)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    assert {"80 sm_80", "90 sm_90", "100 sm_100"} <= set(codes(setup_py.arch_flags(simt)))


def test_a_kernel_that_needs_more_is_not_compiled_for_less(
    setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor_core = ROOT / "csrc/kernels/conv2d/tensor_core.cu"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.0")
    assert codes(setup_py.arch_flags(tensor_core)) == ["80 sm_80"]
    # Its launcher is linked in any case.
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5+PTX")
    assert codes(setup_py.arch_flags(tensor_core)) == ["80 sm_80"]


def test_build_info_passes_on_why_there_are_no_gpu_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "l1sparse._cuda", None)
    monkeypatch.setattr(build, "__file__", str(tmp_path / "build.py"))
    assert "_cuda" in build.build_info()["cuda_reason"]
    (tmp_path / "_cuda_reason.txt").write_text("it was built on a Sunday\n")
    info = build.build_info()
    assert info["cuda"] is False
    assert info["cuda_reason"] == "it was built on a Sunday"
    monkeypatch.setitem(sys.modules, "l1sparse._cuda", ModuleType("_cuda"))
    assert build.build_info()["cuda"] is True
    assert build.build_info()["cuda_reason"] == ""


@pytest.mark.skipif(build.build_info()["cuda"], reason="this build has GPU kernels")
def test_this_build_says_why_it_has_no_gpu_kernels() -> None:
    reason = build.build_info()["cuda_reason"]
    assert reason.startswith("it was built with")
