# SPDX-License-Identifier: MIT
"""Installs one wheel beside several releases of torch and Pythons, and runs tests on each.

Every pair gets a venv of its own, which is deleted afterwards, and tests copied to where no source
tree is. A torch for CUDA takes up to 7 GB while its pair is tested; pip says so where
the disk is full.

    python tools/wheel_test.py dist/*.whl --torch 2.10.0 2.13.0 --python python3 python3.13
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheel-test"
TEST_PACKAGES = ("pytest>=8", "hypothesis>=6.100", "expecttest>=0.2")
# Nothing that compiles, or reads csrc.
SETS = {
    "quick": (
        "tests/test_build.py",
        "tests/test_ops_pack.py",
        "tests/test_ops_group_l1.py",
        "tests/test_ops_torch.py",
        "tests/convert/test_stored_files.py",
        "tests/nn/test_sparse_conv2d.py",
    ),
    # In the order of the whole suite.
    "full": (
        "tests/convert",
        "tests/nn",
        "tests/pruning",
        "tests/runtime/test_runtime.py",
        "tests/test_build.py",
        "tests/test_conv_grad.py",
        "tests/test_ops_conv2d.py",
        "tests/test_ops_conv2d_errors.py",
        "tests/test_ops_group_l1.py",
        "tests/test_ops_pack.py",
        "tests/test_ops_torch.py",
    ),
}
SMOKE = """
import l1sparse.runtime, sys
assert "torch" not in sys.modules, "l1sparse.runtime imports torch"
import l1sparse, torch
print(l1sparse.__file__)
print(l1sparse.build_info())
assert l1sparse.__version__ == l1sparse.build_info()["version"] != "0+unknown"
torch.manual_seed(0)
packed = l1sparse.pack(torch.randn(16, 16, 3, 3))
input = torch.randn(1, 16, 8, 8)
expected = torch.nn.functional.conv2d(input, l1sparse.unpack(packed), padding=1)
output = l1sparse.sparse_conv2d(input, packed, padding=1)
# Outputs are about 12; sums are added up in another order.
torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
"""


def run(*command: str | Path, folder: Path) -> bool:
    """Whether the command ended well; it sees no source tree and no package of the caller's."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    print("+", *["..." if "\n" in str(part) else part for part in command], flush=True)
    return subprocess.run([*map(str, command)], cwd=folder, env=environment).returncode == 0


def copy_tests(target: Path) -> None:
    """Tests, and the scripts and the settings that they use, but not the package."""
    for name in ("tests", "benchmarks", "experiments"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def test_pair(wheel: Path, python: str, torch: str, tests: str, options: list[str]) -> str:
    """Tests the wheel on one Python and one torch; what came of it, in a word or two."""
    venv, copy = WORK / "venv", WORK / "copy"
    for folder in (venv, copy):
        shutil.rmtree(folder, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        if not run(python, "-m", "venv", venv, folder=WORK):
            return "not tested: no venv"
        inside = venv / "bin" / "python"
        install = ("-m", "pip", "install", "--quiet", "--no-cache-dir", "--only-binary=torch")
        if not run(
            inside, *install, f"torch=={torch}", wheel.resolve(), *TEST_PACKAGES, folder=WORK
        ):
            return "not tested: not installed"
        copy_tests(copy)
        if not run(inside, "-c", SMOKE, folder=copy):
            return "FAILED: smoke test"
        passed = run(inside, "-m", "pytest", "-q", *SETS[tests], *options, folder=copy)
        return "passed" if passed else "FAILED"
    finally:
        for folder in (venv, copy):
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Every torch with the first Python, the last torch with the other ones."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", nargs="+", default=["2.13.0"], metavar="VERSION")
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="COMMAND")
    parser.add_argument("--tests", choices=SETS, default="full")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="its options")
    options = parser.parse_args()
    first, *others = options.python
    pairs = [(first, torch) for torch in options.torch]
    pairs += [(python, options.torch[-1]) for python in others]
    results = {
        pair: test_pair(options.wheel, *pair, options.tests, options.pytest) for pair in pairs
    }
    for (python, torch), result in results.items():
        print(f"{options.wheel.name} on {python} with torch {torch}: {result}")
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
