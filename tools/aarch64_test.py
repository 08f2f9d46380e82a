# SPDX-License-Identifier: MIT
"""Runs the wheel for 64-bit Arm under qemu, with Debian's Python and torch for Arm.

Needs Debian 12, whose Python is 3.11, and its package qemu-user. Arm's packages are unpacked into a
folder; nothing is installed, and apt's own state stays as it is.

    python tools/aarch64_test.py dist/l1sparse-*_aarch64.whl --torch 2.10.0
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from aarch64_wheel import WORK, install
from wheel_test import SMOKE, copy_tests

SYSTEM = WORK / "system"
# Python and the libraries that it and torch load.
DEBIAN = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libbz2-1.0", "liblzma5"),
    *("libffi8", "libexpat1", "libssl3", "libsqlite3-0", "libuuid1", "libcrypt1"),
)
# All that torch, l1sparse and the tests import: by itself pip would add what torch needs on this
# machine's processor.
PACKAGES = (
    *("filelock", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "fsspec"),
    *("markupsafe", "numpy", "pyyaml", "safetensors", "setuptools"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("pytest", "pluggy", "iniconfig", "packaging", "pygments", "expecttest"),
    *("hypothesis", "sortedcontainers", "attrs"),
)
# What runs in minutes under an emulator.
TESTS = ("tests/test_ops_pack.py", "tests/test_ops_group_l1.py", "tests/test_ops_conv2d_errors.py")
RUNTIME_SMOKE = """
import numpy as np
from importlib.util import find_spec
from l1sparse import _runtime, runtime
assert find_spec("torch") is None
weight = np.arange(4 * 8 * 9, dtype=np.float32).reshape(4, 8, 3, 3)
packed = runtime.pack(weight, np.ones((4, 1, 3, 3), bool))
output = runtime.conv2d(np.ones((1, 8, 3, 3), np.float32), packed)
assert np.allclose(output.ravel(), weight.sum((1, 2, 3))), output
print("l1sparse.runtime without torch, on", _runtime.isa())
"""


def unpack_system() -> None:
    """Debian's packages for Arm, in `SYSTEM`; apt keeps its lists of them in a folder here."""
    state = WORK / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = state / "apt.conf"
    settings.write_text(
        'APT::Architecture "arm64";\nAPT::Architectures {"arm64";};\nAPT::Sandbox::User "";\n'
        f'Dir::State::lists "{state}/lists";\nDir::State::status "{state}/status";\n'
        f'Dir::Cache "{state}/cache";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(settings)}
    for command in (["update"], ["download", *DEBIAN]):
        subprocess.run(
            ["apt-get", "-qq", *command], cwd=state / "packages", env=environment, check=True
        )
    for package in sorted((state / "packages").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(SYSTEM)], check=True)


def python(site: Path, folder: Path, *options: str) -> bool:
    """Whether Arm's Python ended well."""
    command = ["qemu-aarch64", "-L", str(SYSTEM), str(SYSTEM / "usr/bin/python3.11"), *options]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    print("+ python3.11 (aarch64)", *(o if "\n" not in o else "..." for o in options), flush=True)
    return subprocess.run(command, cwd=folder, env=environment).returncode == 0


def main() -> int:
    """Installs, then runs the smoke test, without torch first, and the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", default="2.10.0", help="release to run with")
    options = parser.parse_args()
    if shutil.which("qemu-aarch64") is None:
        raise SystemExit("aarch64_test: no qemu-aarch64 (Debian's package: qemu-user)")
    if not (SYSTEM / "usr/bin/python3.11").exists():
        unpack_system()
    copy, bare, whole = WORK / "copy", WORK / "site-numpy", WORK / "site-torch"
    for folder in (copy, bare, whole):
        shutil.rmtree(folder, ignore_errors=True)
    copy_tests(copy)
    wheel = str(options.wheel.resolve())
    install(bare, "numpy", wheel)
    install(whole, f"torch=={options.torch}", *PACKAGES, wheel)
    passed = (
        python(bare, copy, "-c", RUNTIME_SMOKE)
        and python(whole, copy, "-c", SMOKE)
        and python(whole, copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)
    )
    print(f"{options.wheel.name} under qemu with torch {options.torch}:", end=" ")
    print("passed" if passed else "FAILED")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
