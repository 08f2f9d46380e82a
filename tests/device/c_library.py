# SPDX-License-Identifier: MIT
"""The C interface as Python's ctypes sees it; csrc/include/l1sparse.h says what things mean."""

from __future__ import annotations

import ctypes as c
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ACTIVATIONS = {"none": 0, "relu": 1, "clamp": 2, "hardswish": 3}


class Status(c.Structure):
    _fields_ = (
        ("code", c.c_int32),
        ("argument", c.c_int32),
        ("got", c.c_int64),
        ("want", c.c_int64),
    )


class Shape(c.Structure):
    _fields_ = tuple(
        (name, c.c_int64)
        for name in (
            [
                "out_channels",
                "in_channels",
                "kernel_h",
                "kernel_w",
                "group_filters",
                "group_channels",
            ]
        )
    )


class Weight(c.Structure):
    _fields_ = (("opaque", c.c_uint64 * 24),)


class Options(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t),
        *((name, c.c_int64) for name in ("batch", "in_channels", "in_h", "in_w")),
        ("input_strides", c.c_int64 * 4),
        *((name, c.c_int64) for name in ("stride_h", "stride_w")),
        *((name, c.c_int64) for name in ("pad_top", "pad_left", "pad_bottom", "pad_right")),
        *((name, c.c_int64) for name in ("dilation_h", "dilation_w", "groups")),
        *((name, c.c_int32) for name in ("dtype", "format", "activation")),
        ("low", c.c_float),
        ("high", c.c_float),
    )


class Sizes(c.Structure):
    _fields_ = (
        ("out_h", c.c_int64),
        ("out_w", c.c_int64),
        ("output_bytes", c.c_size_t),
        ("workspace_bytes", c.c_size_t),
    )


class Tensors(c.Structure):
    _fields_ = tuple((name, c.c_void_p) for name in ("input", "bias", "residual", "output"))


BODY = c.CFUNCTYPE(None, c.c_void_p, c.c_int64)
RUN = c.CFUNCTYPE(None, c.c_void_p, c.c_int64, BODY, c.c_void_p)


class Threads(c.Structure):
    _fields_ = (("run", RUN), ("pool", c.c_void_p), ("count", c.c_int64))


class StatusError(Exception):
    """A status that is not ok."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Library:
    def __init__(self, prefix: Path) -> None:
        self.c: Any = c.CDLL(str(prefix / "lib" / "libl1sparse.so"))
        for name in [
            "weight_open",
            "weight_shape",
            "unpack",
            "grid",
            "pack_bytes",
            "pack",
            "group_l1_norm",
            "conv2d_query",
            "conv2d",
            "select_isa",
        ]:
            getattr(self.c, f"l1sparse_{name}").restype = Status
        self.c.l1sparse_isa.restype = c.c_char_p

    def text(self, status: Status) -> str:
        text = c.create_string_buffer(160)
        self.c.l1sparse_status_text(status, text, c.c_size_t(160))
        return text.value.decode()

    def check(self, status: Status) -> None:
        if status.code != 0:
            raise StatusError(status.code, self.text(status))

    def open(self, packed: Tensor) -> Weight:
        weight = Weight()
        address = c.c_void_p(packed.data_ptr())
        self.check(
            self.c.l1sparse_weight_open(address, c.c_size_t(packed.numel()), c.byref(weight))
        )
        return weight

    def options(self, *input_size: int, **changes: Any) -> Options:
        options = Options()
        sizes = [c.c_int64(size) for size in input_size]
        self.c.l1sparse_conv2d_init(c.byref(options), *sizes)
        for name, value in changes.items():
            setattr(options, name, (c.c_int64 * 4)(*value) if name == "input_strides" else value)
        return options

    def conv2d(
        self,
        input: Tensor,
        weight: Weight,
        options: Options,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        threads: Threads | None = None,
    ) -> Tensor:
        """The output; memory around it and the scratch memory is checked to be untouched."""
        sizes, shape = Sizes(), Shape()
        self.check(self.c.l1sparse_weight_shape(c.byref(weight), c.byref(shape)))
        count = c.c_int64(1 if threads is None else threads.count)
        self.check(
            self.c.l1sparse_conv2d_query(c.byref(weight), c.byref(options), count, c.byref(sizes))
        )
        output, written = guarded(sizes.output_bytes)
        scratch, used = guarded(sizes.workspace_bytes)
        tensors = Tensors(
            input.data_ptr(),
            None if bias is None else bias.data_ptr(),
            None if residual is None else residual.data_ptr(),
            written.data_ptr(),
        )
        self.check(
            self.c.l1sparse_conv2d(
                c.byref(weight),
                c.byref(options),
                c.byref(tensors),
                None if threads is None else c.byref(threads),
                c.c_void_p(used.data_ptr()),
                c.c_size_t(sizes.workspace_bytes),
            )
        )
        for memory, inside in ((output, written), (scratch, used)):
            first = inside.data_ptr() - memory.data_ptr()
            assert bool((memory[:first] == GUARD).all())
            assert bool((memory[first + inside.numel() :] == GUARD).all())
        result = written.view(input.dtype)
        n, filters, height, width = options.batch, shape.out_channels, sizes.out_h, sizes.out_w
        if options.format == 1:
            return result.reshape(n, height, width, filters).permute(0, 3, 1, 2)
        return result.reshape(n, filters, height, width)


GUARD = 0xA5


def guarded(size: int) -> tuple[Tensor, Tensor]:
    """Memory, and `size` bytes in the middle of it that start at a multiple of 64."""
    memory = torch.full((size + 256,), GUARD, dtype=torch.uint8)
    first = 64 + -memory.data_ptr() % 64
    return memory, memory[first : first + size]
