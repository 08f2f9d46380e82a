# SPDX-License-Identifier: MIT
"""Checks a wheel without installing it: its tags, its files, and what its extensions ask for.

Works on wheels for another processor too. Ends with 1 and a line for each thing that is wrong.

    python tools/check_wheel.py dist/*.whl --torch .venv/lib/python3.11/site-packages/torch
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

EXTENSIONS = ("l1sparse/_C.abi3.so", "l1sparse/_runtime.abi3.so")
FILES = (*EXTENSIONS, "l1sparse/py.typed", "l1sparse/_C.pyi", "l1sparse/_runtime.pyi")
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
# What an extension may need at run time: torch's libraries come with torch, the others with every
# Linux that a manylinux tag is for.
NEEDED = re.compile(r"lib(torch|torch_cpu|c10|stdc\+\+|gcc_s|m|c|dl|rt|pthread)\.so(\.\d+)?|ld-.*")


def dynamic_symbols(elf: ELFFile) -> Iterator[tuple[str, bool, bool]]:
    """``(name, is_defined, has_version)`` of every dynamic symbol that is not weak.

    Weak are copies of inline functions, and of what torch's build took from libstdc++.
    """
    table = elf.get_section_by_name(".dynsym")
    versions = elf.get_section_by_name(".gnu.version")
    assert isinstance(table, SymbolTableSection)
    for index, symbol in enumerate(table.iter_symbols()):
        if not symbol.name or symbol["st_info"]["bind"] == "STB_WEAK":
            continue
        versioned = isinstance(versions, GNUVerSymSection) and versions.get_symbol(index).entry[
            "ndx"
        ] not in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
        yield symbol.name, symbol["st_shndx"] != "SHN_UNDEF", versioned


def exported(torch: Path) -> set[str]:
    """Names that torch's libraries for the wheel's processor offer."""
    names = set()
    for path in (torch / "lib").glob("lib*.so*"):
        if re.match(r"lib(torch|torch_cpu|c10)\.so", path.name):
            with path.open("rb") as file:
                names |= {name for name, here, _ in dynamic_symbols(ELFFile(file)) if here}
    if not names:
        raise SystemExit(f"check_wheel: --torch: no libraries in {torch / 'lib'}")
    return names


def wrong_in_extension(name: str, data: bytes, machine: str, offered: set[str]) -> Iterator[str]:
    """What is wrong with one extension module for the processor `machine`."""
    elf = ELFFile(io.BytesIO(data))
    if elf["e_machine"] != MACHINES[machine]:
        yield f"{name}: is for {elf['e_machine']}, expected {MACHINES[machine]}"
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    for tag in dynamic.iter_tags():
        if tag.entry.d_tag == "DT_NEEDED" and not NEEDED.fullmatch(tag.needed):
            yield f"{name}: needs {tag.needed}"
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            yield f"{name}: has a path to libraries"
    for symbol, here, versioned in dynamic_symbols(elf):
        if here or versioned or symbol.startswith(("Py", "_Py")):
            continue  # of Python abi3audit knows which are stable
        if offered and symbol not in offered:
            yield f"{name}: {symbol} is in no library of torch"


def wrong_in_wheel(path: Path, offered: set[str]) -> Iterator[str]:
    """What is wrong with the wheel but for its use of Python's stable interface."""
    tag = re.fullmatch(
        r"l1sparse-(?P<version>[^-]+)-cp311-abi3-(?P<platform>manylinux_.*)", path.stem
    )
    if tag is None:
        yield f"{path.name}: expected a name such as l1sparse-1.0-cp311-abi3-manylinux_...whl"
        return
    if tag["version"] == "0.0.0":
        yield "version 0.0.0: it was built where setuptools-scm is not installed"
    machine = next((name for name in MACHINES if path.stem.endswith(name)), None)
    if machine is None:
        yield f"{path.name}: expected one for {', '.join(MACHINES)}"
        return
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        yield from (f"{name}: is missing" for name in FILES if name not in names)
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
            yield "LICENSE: is missing"
        for name in names:
            if not name.startswith(("l1sparse/", "l1sparse-")):
                yield f"{name}: is outside of the package"
            if ".so" in name and name not in EXTENSIONS:
                yield f"{name}: is no extension of a wheel for the CPU"
        for name in set(EXTENSIONS) & set(names):
            yield from wrong_in_extension(name, wheel.read(name), machine, offered)


def main() -> int:
    """Runs the checks on every wheel named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument(
        "--torch", type=Path, help="folder of an installed torch for the wheel's processor"
    )
    options = parser.parse_args()
    offered = exported(options.torch) if options.torch is not None else set()
    failed = False
    for wheel in options.wheels:
        wrong = list(wrong_in_wheel(wheel, offered))
        for line in wrong:
            print(f"{wheel.name}: {line}", file=sys.stderr)
        audit = [sys.executable, "-m", "abi3audit", "--strict", "--report", str(wheel)]
        audited = subprocess.run(audit, capture_output=True, text=True)
        if audited.returncode != 0:
            print(f"{audited.stdout}{audited.stderr}", file=sys.stderr)
        if wrong or audited.returncode != 0:
            failed = True
        else:
            print(f"{wheel.name}: its tags, files and symbols are right")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
