# SPDX-License-Identifier: MIT
"""l1sparse.runtime where NumPy is the only package, and how long it takes to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def numpy_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with NumPy in it and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    installed = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    return folder


def python(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n"
    command = [sys.executable, "-S", "-I", *options, "-c", paths + code]
    return subprocess.run(command, capture_output=True, text=True)


USE = """
from importlib.util import find_spec
assert find_spec("torch") is None
import numpy as np
import l1sparse.runtime as runtime
weight = np.arange(4 * 8 * 9, dtype=np.float32).reshape(4, 8, 3, 3)
mask = np.ones((4, 1, 3, 3), bool)
packed = runtime.pack(weight, mask)
assert (runtime.unpack(packed) == weight).all()
output = runtime.conv2d(np.ones((1, 8, 3, 3), np.float32), packed)
assert np.allclose(output.ravel(), weight.sum((1, 2, 3))), output
assert np.allclose(runtime.group_l1_norm(weight, (1, 8)), weight.mean(1, keepdims=True))
print("torch" in sys.modules)
"""


def test_numpy_is_all_it_needs(numpy_alone: Path) -> None:
    done = python(numpy_alone, USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


def test_what_needs_torch_says_so(numpy_alone: Path) -> None:
    done = python(numpy_alone, "import l1sparse; l1sparse.prune")
    assert done.returncode != 0
    assert "No module named 'torch'" in done.stderr


def test_torch_is_not_imported_where_it_is() -> None:
    code = "import sys, l1sparse.runtime; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


def test_a_wrong_instruction_set_is_told() -> None:
    code = "import os; os.environ['L1SPARSE_FORCE_ARCH'] = 'mmx'\nimport l1sparse.runtime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "L1SPARSE_FORCE_ARCH: got 'mmx'" in done.stderr


def test_importing_takes_little_time_beside_numpy(numpy_alone: Path) -> None:
    code = (
        "from time import process_time\n"
        "start = process_time(); import numpy\n"
        "middle = process_time(); import l1sparse.runtime\n"
        "print(middle - start, process_time() - middle)"
    )
    # Of the processor and the least of several: neither a busy nor a slow machine does harm.
    runs = [python(numpy_alone, code).stdout.split() for _ in range(5)]
    of_numpy, ours = (min(map(float, times)) for times in zip(*runs, strict=True))
    assert ours < of_numpy / 4


def test_any_module_imported_first_has_whole_operators() -> None:
    code = (
        "from l1sparse.ops import pack\nimport torch\n"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('l1sparse::pack', 'CUDA'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True\n", done.stderr
