# SPDX-License-Identifier: MIT
"""Declares the extensions, the core's objects and the GPU objects; nothing else.

Where there is no torch only ``l1sparse._runtime`` is built, which needs none.

The processor built for is the one that Python's platform names (``_PYTHON_HOST_PLATFORM`` sets
another, for a cross compiler); it need not be the one that this runs on.

``L1SPARSE_CUDA=1`` demands the GPU kernels: what is missing for them is an error. ``0`` leaves them
out. Unset, they are built where a CUDA toolkit and a torch for CUDA are. No GPU is needed for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    torch = None  # type: ignore[assignment]
    BuildExtension, CppExtension = build_ext, None  # type: ignore[misc, assignment]

AVX512_FLAGS = [
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    *("-mavx2", "-mfma", "-mf16c"),
]
# Each instruction set's own flags; its files are csrc/kernels/*/<name>.cpp.
ISA_FLAGS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "scalar": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": AVX512_FLAGS,
        "avx512_bf16": [*AVX512_FLAGS, "-mavx512bf16"],
    },
    "aarch64": {"scalar": [], "neon": []},
}
PROCESSOR = sysconfig.get_platform().rpartition("-")[2].lower()
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(PROCESSOR, PROCESSOR)

CSRC = Path("csrc")
HEADERS = sorted(str(path) for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".inc"))
FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
if os.environ.get("L1SPARSE_WERROR") == "1":
    FLAGS.append("-Werror")
MACROS = [("TORCH_TARGET_VERSION", "0x020a000000000000")]  # the stable ABI of torch 2.10

CAPI_SOURCES = sorted(CSRC.glob("capi/*.cpp"))  # for programs and the runtime module, not for torch
BINDINGS = ("module", "ops", "tensors", "weights", "convolution", "linear", "training")
CUDA_BINDING = CSRC / "bindings" / "cuda.cpp"
CUDA_SOURCES = sorted(CSRC.rglob("*.cu"))
CUDA_ARCHES = "7.5;8.0;8.6;9.0;10.0;12.0+PTX"
# Beside the package: why it has no GPU kernels. l1sparse/build.py reads it.
CUDA_REASON = "_cuda_reason.txt"


def isa_sources(isa: str) -> list[str]:
    return sorted(str(path) for path in CSRC.glob(f"kernels/*/{isa}.cpp"))


def common_sources() -> list[str]:
    left_out = {isa for machine in ISA_FLAGS.values() for isa in machine}
    folders = ("base", "format", "kernels")
    paths = [path for folder in folders for path in CSRC.glob(f"{folder}/**/*.cpp")]
    return sorted(str(path) for path in paths if path.stem not in left_out)


def find_nvcc() -> Path | None:
    """In CUDA_HOME and nowhere else where that is set; else in PATH and the usual place."""
    home = os.environ.get("CUDA_HOME")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
        return nvcc if nvcc.exists() else None
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return Path(found) if found else None


def cuda_reason() -> str:
    """Why there can be no GPU kernels here, or nothing."""
    if os.environ.get("L1SPARSE_CUDA") == "0":
        return "it was built with L1SPARSE_CUDA=0"
    if torch is None:
        return "it was built without torch"
    if torch.version.cuda is None:
        return f"it was built with torch {torch.__version__}, which has no CUDA"
    if find_nvcc() is None:
        where = os.environ.get("CUDA_HOME") or "CUDA_HOME (which is not set), PATH, /usr/local/cuda"
        return f"it was built without a CUDA toolkit: there is no nvcc in {where}"
    return ""


def wants_cuda() -> bool:
    demanded = os.environ.get("L1SPARSE_CUDA", "")
    if demanded not in ("", "0", "1"):
        raise SystemExit(f"l1sparse: L1SPARSE_CUDA: got {demanded!r}, expected 0, 1 or nothing")
    reason = cuda_reason()
    if demanded == "1" and reason:
        missing = reason.removeprefix("it was built with ").removeprefix("it was built without ")
        raise SystemExit(f"l1sparse: L1SPARSE_CUDA=1 demands GPU kernels, but: {missing}")
    return not reason


def arch_flags(source: Path) -> list[str]:
    """Of TORCH_CUDA_ARCH_LIST; older ones than `source` says that it needs are left out."""
    needed = re.search(r"^// Needs sm_(\d+) or later\.$", source.read_text(), re.MULTILINE)
    least = int(needed[1]) if needed else 0
    flags = []
    for entry in re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or CUDA_ARCHES):
        parts = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if parts is None:
            raise SystemExit(
                f"l1sparse: TORCH_CUDA_ARCH_LIST: got {entry!r}, expected entries such as 8.0, "
                "9.0a or 12.0+PTX"
            )
        number = parts[1] + parts[2]
        if int(number) < least:
            continue
        name = number + parts[3]
        codes = [f"sm_{name}"] + ([f"compute_{name}"] if parts[4] else [])
        flags += [f"-gencode=arch=compute_{name},code={code}" for code in codes]
    # Launchers are wanted in any case; without code for a GPU a launch there is a CUDA error.
    return flags or [f"-gencode=arch=compute_{least},code=sm_{least}"]


class BuildNative(BuildExtension):
    """Compiles what has flags of its own, then the rest."""

    def run(self) -> None:
        super().run()
        beside = Path(self.get_ext_fullpath("l1sparse._C")).parent
        reason = beside / CUDA_REASON
        if wants_cuda():
            reason.unlink(missing_ok=True)
            return
        for stale in beside.glob("_cuda.*so"):
            stale.unlink()
        reason.write_text(cuda_reason() + "\n")

    def build_extension(self, ext) -> None:  # type: ignore[no-untyped-def]
        if ext.name == "l1sparse._cuda":
            ext.extra_objects += self.compile_cuda(ext.depends)
        else:
            ext.extra_objects += self.core_objects
        super().build_extension(ext)

    @cached_property
    def core_objects(self) -> list[str]:
        """Of the core, compiled once for all extensions."""
        objects = []
        for sources, flags in [
            (common_sources(), []),
            *((isa_sources(isa), flags) for isa, flags in ISA_FLAGS[MACHINE].items()),
        ]:
            objects += self.compiler.compile(
                sources,
                output_dir=self.build_temp,
                include_dirs=[str(CSRC.resolve())],
                extra_postargs=FLAGS + flags if torch is None else {"cxx": FLAGS + flags},
                depends=HEADERS,
            )
        return objects

    def compile_cuda(self, depends: list[str]) -> list[str]:
        """By nvcc itself: the files know nothing of torch, and are quick to compile for that."""

        def compile_one(source: Path) -> str:
            target = Path(self.build_temp) / source.with_suffix(".cu.o")
            flags = arch_flags(source)
            command = [str(find_nvcc()), "-c", str(source), "-o", str(target), f"-I{CSRC}"]
            command += ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", *flags]
            said = target.with_suffix(".txt")
            newest = max(Path(path).stat().st_mtime for path in [source, *depends])
            if not (
                target.exists()
                and target.stat().st_mtime > newest
                and said.exists()
                and said.read_text() == " ".join(command)
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                print(" ".join(command), flush=True)
                subprocess.run(command, check=True)
                said.write_text(" ".join(command))
            return str(target)

        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(compile_one, CUDA_SOURCES))


def cuda_extension() -> Extension:
    # nvcc in PATH may be a link or a script; it says itself where its toolkit is.
    said = subprocess.run(
        [str(find_nvcc()), "--dryrun", "-x", "cu", os.devnull],
        capture_output=True,
        text=True,
        check=True,
    )
    bin_folder = re.search(r"^#\$ _HERE_=(.*)$", said.stderr, re.MULTILINE)
    if bin_folder is None:
        raise SystemExit(f"l1sparse: {find_nvcc()} does not say where its toolkit is")
    home = Path(bin_folder[1]).parent
    target = {"x86_64": "x86_64-linux", "aarch64": "sbsa-linux"}[MACHINE]
    places = [home / part for part in ("lib64", f"targets/{target}/lib", "lib")]
    return Extension(
        "l1sparse._cuda",
        [str(CUDA_BINDING)],
        include_dirs=[str(CSRC.resolve())],
        extra_compile_args={"cxx": FLAGS},  # type: ignore[arg-type]
        library_dirs=[str(place) for place in places if place.is_dir()],
        libraries=["cudart_static", "rt", "dl", "pthread"],
        depends=HEADERS,
        py_limited_api=True,
    )


if MACHINE not in ISA_FLAGS:
    raise SystemExit(
        f"l1sparse: no kernels for processor {MACHINE!r}, expected one of {sorted(ISA_FLAGS)}"
    )


def torch_extension() -> Extension:
    # Before torch's libraries: those hold copies of parts of libstdc++, which the linker would
    # take, without the version that says how new a libstdc++ is needed.
    first = ["stdc++"] if sys.platform == "linux" else []
    return CppExtension(
        "l1sparse._C",
        [str(CSRC / "bindings" / f"{name}.cpp") for name in BINDINGS],
        include_dirs=[str(CSRC.resolve())],
        define_macros=MACROS,
        libraries=first,
        extra_compile_args={"cxx": FLAGS},
        depends=HEADERS,
        py_limited_api=True,
    )


def runtime_extension() -> Extension:
    # Its C interface stays inside: a program may load the C library too.
    return Extension(
        "l1sparse._runtime",
        [*map(str, CAPI_SOURCES), str(CSRC / "bindings" / "runtime.cpp")],
        include_dirs=[str(CSRC.resolve())],
        define_macros=[("L1SPARSE_API", "")],
        extra_compile_args=FLAGS if torch is None else {"cxx": FLAGS},  # type: ignore[arg-type]
        depends=HEADERS,
        py_limited_api=True,
    )


setup(
    ext_modules=[
        *([torch_extension()] if torch is not None else []),
        runtime_extension(),
        *([cuda_extension()] if wants_cuda() else []),
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
