# SPDX-License-Identifier: MIT
"""PTX's fundamental types: their sizes, and how numpy holds them.

A register is held as the unsigned integer of its width (a predicate as a bool); each instruction
looks at it through the type it names. numpy has no bfloat16, so `bf16` stays an integer of
16 bits, and packed pairs (`f16x2`, `bf16x2`, `f32x2`) stay one integer.
"""

from __future__ import annotations

import numpy as np

NUMPY = {
    "pred": np.dtype(bool),
    "b8": np.dtype(np.uint8),
    "u8": np.dtype(np.uint8),
    "s8": np.dtype(np.int8),
    "b16": np.dtype(np.uint16),
    "u16": np.dtype(np.uint16),
    "s16": np.dtype(np.int16),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "b32": np.dtype(np.uint32),
    "u32": np.dtype(np.uint32),
    "s32": np.dtype(np.int32),
    "f32": np.dtype(np.float32),
    "tf32": np.dtype(np.uint32),
    "f16x2": np.dtype(np.uint32),
    "bf16x2": np.dtype(np.uint32),
    "f32x2": np.dtype(np.uint64),
    "b64": np.dtype(np.uint64),
    "u64": np.dtype(np.uint64),
    "s64": np.dtype(np.int64),
    "f64": np.dtype(np.float64),
}
"""The numpy type through which an instruction of a PTX type sees a register."""

SIZES = {name: dtype.itemsize for name, dtype in NUMPY.items()}
"""Bytes of each type."""

UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
"""The unsigned integer of so many bytes."""


def is_integer(kind: str) -> bool:
    """Whether it is a signed or unsigned integer, not bits."""
    return kind[0] in "us"


def is_signed(kind: str) -> bool:
    """Whether it is a signed integer."""
    return kind[0] == "s"


def is_bits(kind: str) -> bool:
    """Whether it is untyped bits."""
    return kind[0] == "b" and kind[1] != "f"


def is_pair(kind: str) -> bool:
    """Whether it is a pair of floating-point values in one register."""
    return kind in ("f16x2", "bf16x2", "f32x2")


def is_float(kind: str) -> bool:
    """Whether it is a floating-point type of one value."""
    return kind in ("f16", "bf16", "f32", "f64")
