# SPDX-License-Identifier: MIT
"""Builds the wheel for 64-bit Arm Linux on another processor, with Debian's cross compiler.

Headers of torch and of Python are this machine's: as far as the stable ABI and the limited
interface go, they don't depend on the processor. What is linked against are the libraries of
torch's own wheel for Arm, of the oldest release that the stable ABI serves, so that a symbol which
it lacks is seen.

    python tools/aarch64_wheel.py dist/l1sparse-*.tar.gz --torch 2.10.0
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "aarch64"
TRIPLET = "aarch64-linux-gnu"
# Of wheels for Arm that run with Debian 12's glibc.
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)]


def install(target: Path, *packages: str) -> None:
    """Installs wheels for 64-bit Arm and Python 3.11, without what they depend on."""
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.11"]
    options += [f"--platform={platform}" for platform in PLATFORMS]
    command = [sys.executable, "-m", "pip", "install", f"--target={target}", *options, *packages]
    subprocess.run(command, check=True)


def unpacked(sdist: Path) -> Path:
    """The sdist in a folder of its own."""
    source = WORK / "source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    (folder,) = source.iterdir()
    return folder


def cross_environment(torch: Path) -> dict[str, str]:
    """What makes setuptools and torch's build call the cross compiler."""
    compiler = f"{TRIPLET}-g++"
    if shutil.which(compiler) is None:
        raise SystemExit(f"aarch64_wheel: no {compiler} (Debian's package: g++-{TRIPLET})")
    return {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "CC": f"{TRIPLET}-gcc",
        "CXX": compiler,
        "LDSHARED": f"{compiler} -shared",
        "LDCXXSHARED": f"{compiler} -shared",
        "LDFLAGS": f"-s -L{torch / 'lib'}",
        "L1SPARSE_CUDA": "0",
        # It would ask this machine's loader about the compiler.
        "TORCH_DONT_CHECK_COMPILER_ABI": "1",
    }


def main() -> None:
    """Leaves the wheel, not yet repaired, in build/aarch64/wheel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path)
    parser.add_argument("--torch", default="2.10.0", help="release to link against")
    options = parser.parse_args()
    libraries = WORK / f"torch-{options.torch}"
    if not (libraries / "torch").exists():
        install(libraries, f"torch=={options.torch}")
    wheels = WORK / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels)]
    subprocess.run(
        [*command, str(unpacked(options.sdist))],
        env=cross_environment(libraries / "torch"),
        check=True,
    )


if __name__ == "__main__":
    main()
