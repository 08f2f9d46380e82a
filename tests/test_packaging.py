# SPDX-License-Identifier: MIT
"""What goes into the sdist and into a wheel built from it, by a compiler that compiles nothing.

``make wheel`` builds a real one and checks its symbols.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import l1sparse
from l1sparse import _C, _runtime

ROOT = Path(__file__).parents[1]
PACKAGED = (
    *("csrc", "l1sparse", "setup.py", "pyproject.toml", "MANIFEST.in"),
    *("README.md", "LICENSE", "CHANGELOG.md"),
)
JUNK = shutil.ignore_patterns("__pycache__", "*.so", "_cuda_reason.txt")
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""
# Leaves empty files where a compiler or linker would leave its own.
NO_COMPILER = """#!/bin/sh
while [ $# -gt 1 ]; do
  case "$1" in -o | -MF) : > "$2" ;; esac
  shift
done
"""


def build(source: Path, hook: str, target: Path, **environment: str) -> Path:
    """Runs a hook of the build backend in `source`; what it left in `target`."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, hook, str(target)],
        cwd=source,
        env={**os.environ, "L1SPARSE_CUDA": "0", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked. Built where there is no git, which would hide what the settings forget."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=JUNK)
        else:
            shutil.copy(ROOT / name, source)
    archive = build(source, "build_sdist", tmp_path_factory.mktemp("dist"))
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as opened:
        opened.extractall(target, filter="data")
    (folder,) = target.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Of the sdist."""
    compiler = tmp_path_factory.mktemp("bin") / "no-compiler"
    compiler.write_text(NO_COMPILER)
    compiler.chmod(0o755)
    names = ("CC", "CXX", "LDSHARED", "LDCXXSHARED")
    tools = dict.fromkeys(names, str(compiler))
    path = build(
        sdist,
        "build_wheel",
        tmp_path_factory.mktemp("wheel"),
        TORCH_DONT_CHECK_COMPILER_ABI="1",
        **tools,
    )
    return zipfile.ZipFile(path)


def described(wheel: zipfile.ZipFile, name: str) -> Message:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return email.message_from_bytes(wheel.read(path))


def test_the_sdist_has_all_that_is_compiled_and_no_leftovers(sdist: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        return {name for name in found if not re.search(r"__pycache__|\.so$|_cuda_reason", name)}

    for name in ("csrc", "l1sparse"):
        assert files(ROOT / name)
        assert {f for f in files(sdist / name) if "egg-info" not in f} == files(ROOT / name)
    assert (sdist / "CHANGELOG.md").exists()
    assert not [p for p in sdist.rglob("*") if p.suffix in (".so", ".pyc", ".o")]


def test_the_wheel_has_the_package_its_types_and_its_licence(wheel: zipfile.ZipFile) -> None:
    python = {str(path.relative_to(ROOT)) for path in (ROOT / "l1sparse").rglob("*.py*")}
    expected = {name for name in python if name.endswith((".py", ".pyi"))}
    expected |= {"l1sparse/py.typed", "l1sparse/_C.abi3.so", "l1sparse/_runtime.abi3.so"}
    expected |= {"l1sparse/_cuda_reason.txt"}
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(expected)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    assert "L1SPARSE_CUDA=0" in wheel.read("l1sparse/_cuda_reason.txt").decode()


def test_one_wheel_serves_every_later_python(wheel: zipfile.ZipFile) -> None:
    tag = described(wheel, "WHEEL")["Tag"]
    assert re.fullmatch(r"cp311-abi3-linux_(x86_64|aarch64)", tag)
    metadata = described(wheel, "METADATA")
    assert metadata["Requires-Python"] == ">=3.11"
    assert "torch>=2.10" in metadata.get_all("Requires-Dist", [])
    assert metadata["License-Expression"] == "MIT"


def test_without_git_the_version_is_the_fallback(wheel: zipfile.ZipFile) -> None:
    pytest.importorskip("setuptools_scm")
    settings = (ROOT / "pyproject.toml").read_text()
    fallback = re.search(r'^fallback_version = "(.*)"$', settings, re.MULTILINE)
    assert fallback is not None
    assert described(wheel, "METADATA")["Version"] == fallback[1]


def test_the_version_is_had_without_torch() -> None:
    code = "import sys, l1sparse; print(l1sparse.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"{l1sparse.__version__} False\n", done.stderr
    assert l1sparse.__version__ == l1sparse.build_info()["version"]


@pytest.mark.parametrize("module", [_C, _runtime])
def test_a_stub_names_what_its_module_has(module: object) -> None:
    name = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    stub = (ROOT / "l1sparse" / f"{name}.pyi").read_text()
    has = {name for name in dir(module) if not name.startswith("__")}
    assert set(re.findall(r"^def (\w+)", stub, re.MULTILINE)) == has


def test_every_release_of_the_changelog_is_dated_and_newest_first() -> None:
    lines = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert lines[0] == "[Unreleased]"
    releases = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", x) for x in lines[1:]]
    assert None not in releases
    numbers = [tuple(map(int, release.groups())) for release in releases if release is not None]
    assert numbers == sorted(numbers, reverse=True)
