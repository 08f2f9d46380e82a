# SPDX-License-Identifier: MIT
"""The CUDA kernels, run without a GPU.

Kernels, launchers and Python binding are compiled as they are. Only the CUDA runtime below them is
replaced (``fake_runtime.cpp``): it says which kernel would be launched, and the interpreter in
``tests/ptx`` then runs that kernel's PTX on copies of the tensors whose addresses were passed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ptx import Memory, Module, Report, launch

from gpu_code import find_tool

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
ARCH = 80

_LISTENER = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_size_t,
    ctypes.c_void_p,
)


@dataclass
class Launch:
    """A launch that was asked for."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    argument: bytes
    """The kernel's only parameter, a struct."""
    shared: int
    stream: int


def compile_ptx(source: Path, folder: Path, csrc: Path = CSRC, arch: int = ARCH) -> str:
    """The PTX of a ``.cu`` file."""
    target = folder / f"{source.stem}.ptx"
    run(
        find_tool("nvcc"), "-ptx", f"-arch=compute_{arch}", "-std=c++20", "-O3", f"-I{csrc}",
        str(source), "-o", str(target),
    )  # fmt: skip
    return target.read_text()


def run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"


@dataclass
class Gpu:
    """The binding over the fake runtime, and the PTX of every kernel by file."""

    binding: ModuleType
    library: ctypes.CDLL
    texts: dict[str, str]
    modules: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def build(cls, folder: Path) -> Gpu:
        """Compile all of it into `folder`."""
        sources = sorted(CSRC.rglob("*.cu"))
        nvcc = find_tool("nvcc")

        def compile_one(source: Path) -> str:
            kept = folder / source.stem
            kept.mkdir()
            run(
                nvcc, "-c", "--keep", "--keep-dir", str(kept), "-std=c++20", "-O3", f"-I{CSRC}",
                f"-gencode=arch=compute_{ARCH},code=compute_{ARCH}", "-Xcompiler=-fPIC",
                str(source), "-o", str(kept / "object.o"),
            )  # fmt: skip
            return str(kept / "object.o")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, sources))
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        library = folder / f"_cuda{suffix}"
        # By nvcc, which knows where its headers are; its host compiler links. Symbolic: a torch for
        # CUDA brings the real runtime, whose functions would otherwise come first.
        run(
            nvcc, "-shared", "-cudart=none", "-Xlinker=-Bsymbolic", "-std=c++20", "-O1",
            "-Xcompiler=-fPIC", f"-I{CSRC}", f"-I{sysconfig.get_paths()['include']}",
            str(CSRC / "bindings/cuda.cpp"), str(Path(__file__).with_name("fake_runtime.cpp")),
            *objects, "-o", str(library),
        )  # fmt: skip
        spec = importlib.util.spec_from_file_location("_cuda", library)
        assert spec is not None
        assert spec.loader is not None
        binding = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(binding)
        texts = {s.stem: next((folder / s.stem).glob("*.ptx")).read_text() for s in sources}
        return cls(binding, ctypes.CDLL(str(library)), texts)

    def record(self, call: Callable[[], object]) -> list[Launch]:
        """The launches that `call` asks for; nothing runs."""
        launches: list[Launch] = []

        def listen(kernel: bytes, grid: Any, block: Any, arguments: Any, *rest: Any) -> None:
            shared, stream = rest
            name = kernel.decode()
            size = parameter_size(self.text_of(name), name)
            launches.append(
                Launch(
                    name,
                    tuple(grid[:3]),
                    tuple(block[:3]),
                    ctypes.string_at(arguments[0], size),
                    shared,
                    stream or 0,
                )
            )

        self.library.fake_listen(listener := _LISTENER(listen))
        try:
            call()
        finally:
            self.library.fake_listen(_LISTENER(0))
        del listener
        return launches

    def text_of(self, kernel: str) -> str:
        """The PTX that has the kernel of this mangled name."""
        return next(t for t in self.texts.values() if f".entry {kernel}(" in t)

    def module_of(self, kernel: str) -> Module:
        """The same, parsed once."""
        text = self.text_of(kernel)
        if text not in self.modules:
            self.modules[text] = Module.parse(text)
        return self.modules[text]

    def run(
        self,
        launches: Sequence[Launch],
        arrays: Mapping[str, Array],
        replaced: Mapping[str, tuple[Module, str]] | None = None,
        **options: Any,
    ) -> list[Report]:
        """Run launches by the interpreter.

        Args:
            launches: of `record`.
            arrays: all that kernels read or write, by name. They work on copies of it, which are
                copied back at the end, so that an access beside an array is noticed. Of what they
                are to fill, nothing may be read before it is written, nor left unwritten.
            replaced: by `plain_name`: a module and the name of a kernel there, to run instead.
            options: of `ptx.launch`.
        """
        memory = Memory()
        places = {}
        for name, array in arrays.items():
            how = {"name": name, "offset": array.address % 256}  # as little aligned as it is
            if array.address and array.count and array.filled:
                places[array.address] = memory.allocate((array.count,), array.dtype, **how)
            elif array.address and array.count:
                places[array.address] = memory.upload(array.numbers(), **how)
        reports = []
        for one in launches:
            module, kernel = (replaced or {}).get(plain_name(one.kernel), (None, one.kernel))
            words = np.frombuffer(one.argument, np.uint64).copy()
            for i, word in enumerate(words):
                if int(word) in places:
                    words[i] = places[int(word)]
            reports.append(
                launch(
                    module or self.module_of(one.kernel),
                    kernel,
                    grid=one.grid,
                    block=one.block,
                    arguments=[words.tobytes()],
                    memory=memory,
                    dynamic_shared=one.shared,
                    **options,
                )
            )
        for name, array in arrays.items():
            if array.filled and array.address and array.count:
                address = places[array.address]
                assert memory.written(address).all(), f"{name} is not written in all places"
                array.numbers()[:] = memory.download(address)
        return reports


@dataclass(frozen=True)
class Array:
    """Numbers at an address of this process."""

    address: int
    dtype: type[np.generic]
    count: int
    filled: bool = False
    """By the kernels, and not before."""

    def numbers(self) -> np.ndarray:
        size = self.count * np.dtype(self.dtype).itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        return np.frombuffer(memory, self.dtype)


class Extension:
    """`l1sparse._cuda` for tensors on the CPU: the real binding, and the interpreter for a GPU."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.calls: list[Call] = []
        self.options: dict[str, Any] = {}
        """Of `Gpu.run`."""

    def group_l1_norm(self, **given: Any) -> None:
        filters, channels, taps = given["shape"]
        rows, columns = -(-filters // given["group"][0]), -(-channels // given["group"][1])
        dtype = DTYPES[given["dtype"]]
        arrays = {
            "weight": Array(given["weight"], dtype, filters * channels * taps),
            "norms": Array(given["norms"], np.float32, rows * columns * taps, filled=True),
        }
        self._call("group_l1_norm", given, arrays)

    def tensor_core_conv2d(self, **given: Any) -> None:
        filters = 16 * given["strips"]
        dtype = DTYPES[given["dtype"]]
        tile = 512 // np.dtype(dtype).itemsize
        self._call("tensor_core_conv2d", given, conv_arrays(given, dtype, tile, filters))

    def compressed_conv2d(self, **given: Any) -> None:
        dtype = DTYPES[given["dtype"]]
        arrays = conv_arrays(given, dtype, 16 // np.dtype(dtype).itemsize, 64)
        columns = arrays["columns"].count // 4
        arrays["piece_masks"] = Array(given["piece_masks"], np.int32, columns * 4)
        self._call("compressed_conv2d", given, arrays)

    def simt_conv2d(self, **given: Any) -> None:
        arrays = conv_arrays(given, np.float32, given["chunk"], 64)
        columns = arrays["columns"].count // 4
        arrays["filter_masks"] = Array(given["filter_masks"], np.int32, columns * 2)
        arrays["block_order"] = Array(given["block_order"], np.int32, given["blocks"])
        self._call("simt_conv2d", given, arrays)

    def _call(self, name: str, given: dict[str, Any], arrays: dict[str, Array]) -> None:
        function = getattr(self.gpu.binding, name)
        lists = {
            key: array.numbers().copy()
            for key, array in arrays.items()
            if array.dtype is np.int32 and array.address and array.count
        }
        call = Call(given, lists, self.gpu.record(lambda: function(**given)))
        self.calls.append(call)
        call.reports = self.gpu.run(call.launches, arrays, **self.options)


@dataclass
class Call:
    """A call of the binding, and what came of it."""

    given: dict[str, Any]
    lists: dict[str, np.ndarray]
    """Copies of the arrays of whole numbers."""
    launches: list[Launch]
    reports: list[Report] = field(default_factory=list)


# numpy has no bfloat16.
DTYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.float16,
}


def conv_arrays(
    given: dict[str, Any], tile_dtype: type[np.generic], tile_numbers: int, filters: int
) -> dict[str, Array]:
    """The arrays that all convolutions take, as large as csrc/kernels/conv2d/gpu.h says."""
    dtype = DTYPES[given["dtype"]]
    blocks, (batch, out_channels, out_h, out_w) = given["blocks"], given["output_shape"]
    pixels = batch * out_h * out_w
    offsets = Array(given["block_offsets"], np.int32, blocks + 1)
    columns = int(offsets.numbers()[-1])
    tile_offsets = Array(given["tile_offsets"], np.int32, columns + 1)
    tiles = int(tile_offsets.numbers()[-1])
    partial = given["splits"] * pixels * blocks * filters
    return {
        "input": Array(given["input"], dtype, math.prod(given["input_shape"])),
        "output": Array(given["output"], dtype, pixels * out_channels, filled=True),
        "bias": Array(given["bias"], np.float32, out_channels),
        "residual": Array(given["residual"], dtype, pixels * out_channels),
        "filter_order": Array(given["filter_order"], np.int32, out_channels),
        "block_offsets": offsets,
        "columns": Array(given["columns"], np.int32, columns * 4),
        "tile_offsets": tile_offsets,
        "tiles": Array(given["tiles"], tile_dtype, tiles * tile_numbers),
        "partial": Array(given["partial"], np.float32, partial, filled=True),
    }


def plain_name(kernel: str) -> str:
    """A kernel's mangled name without what the compiler makes of its file's name and text."""
    while found := re.search(r"(\d+)_GLOBAL__N__", kernel):
        # The number is the length of the name behind it.
        kernel = kernel[: found.start()] + kernel[found.end(1) + int(found[1]) :]
    return kernel


def parameter_size(text: str, kernel: str) -> int:
    """Bytes of a kernel's only parameter."""
    start = text.index(f"{kernel}_param_0[")
    return int(text[start:].split("[", 1)[1].split("]", 1)[0])
