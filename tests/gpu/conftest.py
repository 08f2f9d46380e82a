# SPDX-License-Identifier: MIT
"""Triton kernels are interpreted in tests; this has to be said before triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ptx import Counts

assert "triton" not in sys.modules, "triton was imported before it could be told to interpret"
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that ``triton_launch.py`` compiles."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    here = Path(__file__).parent
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parents[1]), *sys.path])
    subprocess.run([sys.executable, here / "triton_launch.py", folder], env=environment, check=True)
    return folder


@pytest.fixture(scope="session")
def gpu(nvcc: str, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The CUDA kernels over the interpreter, compiled once."""
    from cuda_kernels import Gpu

    return Gpu.build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def runner(gpu):  # type: ignore[no-untyped-def]
    """Runs cases on the CUDA backend over the interpreter."""
    from kernel_runner import running

    with running(gpu) as runner:
        yield runner


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    executed = Counts.executed
    if executed:
        terminalreporter.write_line(f"PTX instructions executed: {executed} (of whole warps)")
