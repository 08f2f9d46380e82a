# SPDX-License-Identifier: MIT
"""What the installed C library is made of, and a C program that uses it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from c_build import ROOT, SMALL_BYTES, run

import l1sparse

EXAMPLE = ROOT / "examples" / "c" / "conv2d.c"


def needed(path: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path))


@pytest.mark.parametrize("kind", ["installed", "small"])
def test_only_the_c_library_is_needed(kind: str, request: pytest.FixtureRequest) -> None:
    library = request.getfixturevalue(kind) / "lib" / "libl1sparse.so"
    assert set(needed(library)) <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}


def test_only_the_interface_is_exported(installed: Path) -> None:
    symbols = run("nm", "-D", "--defined-only", installed / "lib" / "libl1sparse.so").split("\n")
    exported = {line.split()[-1] for line in symbols if line}
    header = (installed / "include" / "l1sparse.h").read_text()
    declared = set(re.findall(r"\b(l1sparse_\w+)\(", header.replace("\n", " ")))
    declared &= set(re.findall(r"L1SPARSE_API [^;]*?\b(l1sparse_\w+)\(", header))
    assert exported == declared
    assert len(exported) > 10


def test_a_library_for_one_instruction_set_is_small(small: Path) -> None:
    assert (small / "lib" / "libl1sparse.so").stat().st_size <= SMALL_BYTES


def test_nothing_allocates(installed: Path) -> None:
    undefined = run("nm", "-D", "--undefined-only", installed / "lib" / "libl1sparse.so")
    assert not re.search(r"\b(malloc|calloc|realloc|aligned_alloc|_Zn|_Zd|pthread_)", undefined)


def compile_example(program: Path, prefix: Path, *libraries: object) -> None:
    flags = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{prefix / 'include'}")
    run("gcc", *flags, EXAMPLE, "-o", program, *libraries)


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_the_example_computes_what_python_does(installed: Path, tmp_path: Path, kind: str) -> None:
    program, lib = tmp_path / "conv2d", installed / "lib"
    if kind == "static":
        compile_example(program, installed, lib / "libl1sparse.a")
        assert needed(program) == ["libc.so.6"]
    else:
        compile_example(program, installed, f"-L{lib}", "-ll1sparse", f"-Wl,-rpath,{lib}")
    assert len(EXAMPLE.read_text().splitlines()) < 80
    packed = l1sparse.pack(torch.randn(6, 16, 3, 3), torch.rand(6, 2, 3, 3) < 0.5)
    input = torch.randn(1, 16, 9, 7)
    (tmp_path / "packed").write_bytes(packed.numpy().tobytes())
    command = [str(program), str(tmp_path / "packed"), "9", "7"]
    done = subprocess.run(command, input=input.numpy().tobytes(), capture_output=True, check=True)
    output = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).reshape(1, 6, 9, 7)
    expected = l1sparse.sparse_conv2d(input, packed, padding=1, activation="relu")
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)

    (tmp_path / "packed").write_bytes(bytes(200))
    done = subprocess.run(command, input=b"", capture_output=True)
    assert done.returncode == 1
    assert b"does not start with 'L1SPARSE'" in done.stderr


def test_pkg_config_finds_it(installed: Path, tmp_path: Path) -> None:
    try:
        environment = {**os.environ, "PKG_CONFIG_PATH": str(installed / "lib" / "pkgconfig")}
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "l1sparse"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    except FileNotFoundError:
        pytest.skip("there is no pkg-config")
    run("gcc", EXAMPLE, "-o", tmp_path / "conv2d", *flags)


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_cmake_finds_it(installed: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(user C)\n"
        "find_package(l1sparse 0.1 REQUIRED)\n"
        f"add_executable(conv2d {EXAMPLE})\n"
        f"target_link_libraries(conv2d PRIVATE l1sparse::{kind})\n"
    )
    prefix = f"-DCMAKE_PREFIX_PATH={installed}"
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", prefix)
    run("cmake", "--build", tmp_path / "build")
    done = subprocess.run([str(tmp_path / "build" / "conv2d")], capture_output=True)
    assert done.returncode == 2
    assert b"usage" in done.stderr


def test_an_unknown_instruction_set_is_an_error(tmp_path: Path) -> None:
    command = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path), "-DL1SPARSE_ISAS=mmx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "'mmx' is unknown, expected some of" in done.stderr.replace("\n", " ")
