# SPDX-License-Identifier: MIT
"""Declares the extension and its per-instruction-set objects; nothing else."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

# Each instruction set's own flags; its files are csrc/kernels/*/<name>.cpp.
ISA_FLAGS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "scalar": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": [
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx2",
            "-mfma",
            "-mf16c",
        ],
    },
    "aarch64": {"scalar": [], "neon": []},
}
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(
    platform.machine().lower(), platform.machine()
)

CSRC = Path("csrc")
FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
if os.environ.get("L1SPARSE_WERROR") == "1":
    FLAGS.append("-Werror")
MACROS = [("TORCH_TARGET_VERSION", "0x020a000000000000")]  # the stable ABI of torch 2.10


def isa_sources(isa: str) -> list[str]:
    return sorted(str(path) for path in CSRC.glob(f"kernels/*/{isa}.cpp"))


def common_sources() -> list[str]:
    every_isa = {isa for machine in ISA_FLAGS.values() for isa in machine}
    return sorted(str(path) for path in CSRC.glob("**/*.cpp") if path.stem not in every_isa)


class BuildPerIsa(BuildExtension):
    """Compiles each instruction set's files with that set's flags, then the rest."""

    def build_extension(self, ext) -> None:  # type: ignore[no-untyped-def]
        for isa, flags in ISA_FLAGS[MACHINE].items():
            ext.extra_objects += self.compiler.compile(
                isa_sources(isa),
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs={"cxx": FLAGS + flags},
                depends=ext.depends,
            )
        super().build_extension(ext)


if MACHINE not in ISA_FLAGS:
    raise SystemExit(
        f"l1sparse: no kernels for processor {MACHINE!r}, expected one of {sorted(ISA_FLAGS)}"
    )

setup(
    ext_modules=[
        CppExtension(
            "l1sparse._C",
            common_sources(),
            include_dirs=[str(CSRC.resolve())],
            define_macros=MACROS,
            extra_compile_args={"cxx": FLAGS},
            depends=sorted(str(path) for path in CSRC.glob("**/*.[hi]*")),
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildPerIsa},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
