# SPDX-License-Identifier: MIT
"""What `gpu_check.py` asks of a GPU: a table of small problems, each complete in itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

Pair = tuple[int, int]

DTYPES = ("float32", "tf32", "float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """Everything that a check depends on; the tensors' numbers follow from `seed`."""

    check: str
    """Of `gpu_checks.CHECKS`."""
    backend: str = "auto"
    dtype: str = "float32"
    """One of `DTYPES`; ``tf32`` is float32 that may be rounded."""
    filters: int = 64
    channels: int = 64
    """Filters and channels of one convolution group."""
    kernel: Pair = (3, 3)
    size: Pair = (14, 14)
    batch: int = 2
    groups: int = 1
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    group: str = "16x16"
    density: float = 0.25
    memory: str = "channels_last"
    """``channels_last``, ``contiguous`` or ``sliced`` (NaN around it)."""
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    seed: int = 0

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(O, C / groups, kH, kW)``."""
        return (self.groups * self.filters, self.channels, *self.kernel)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Case:
        """What `to_dict` gave."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)

    def __str__(self) -> str:
        default = Case(self.check)
        changed = (f"{k}={v}" for k, v in asdict(self).items() if v != getattr(default, k))
        return " ".join([self.check, *changed])


_CONV = Case("conv")
# What kernels treat differently: taps, steps, edges, filters and channels that are left over,
# maps so small that sums are split, convolution groups.
SHAPES: dict[str, Case] = {
    "3x3": _CONV,
    "1x1": replace(_CONV, kernel=(1, 1), padding=(0, 0), filters=128, channels=64),
    "stride": replace(_CONV, stride=(2, 2), size=(15, 13), filters=256, channels=32),
    "small map": replace(
        _CONV, size=(7, 7), batch=1, filters=128, channels=512, residual=True, activation="relu"
    ),
    "one pixel": replace(
        _CONV, size=(3, 3), padding=(0, 0), batch=1, filters=64, channels=1024, activation="relu6"
    ),
    "odd": replace(
        _CONV, kernel=(3, 2), size=(9, 11), padding=(2, 0), stride=(1, 2), dilation=(2, 3), batch=5
    ),
    "groups": replace(_CONV, groups=3, filters=40, channels=32, activation="hardswish"),
    "wide kernel": replace(_CONV, kernel=(1, 7), padding=(0, 3), size=(12, 17), activation="clamp"),
    "few": replace(_CONV, filters=20, channels=24, residual=True),
    "fewest": replace(_CONV, filters=3, channels=5, kernel=(2, 2), bias=False),
    "depthwise": replace(_CONV, groups=24, filters=1, channels=1, stride=(2, 1)),
    "padding beyond": replace(_CONV, kernel=(1, 1), padding=(3, 2), size=(2, 3)),
    "large map": replace(_CONV, size=(57, 56), filters=128, channels=16),
}
FOR_TRITON = ("3x3", "stride", "small map", "few", "groups")
GROUPS = ("16x16", "16x8", "1x8", "4x4", "3x5")


def table(backends: Sequence[str], seed: int = 0) -> list[Case]:
    """All cases.

    Args:
        backends: that can run: ``"cuda"``, ``"triton"``.
        seed: of the first; each has one of its own.
    """
    cases = []
    for backend in backends:
        cases += _convolutions(backend)
        cases += _others(backend)
    cases += _norms()
    cases += [Case("errors"), Case("out of memory"), Case("large tensors", dtype="float16")]
    return [replace(case, seed=seed + number) for number, case in enumerate(cases)]


def _convolutions(backend: str) -> list[Case]:
    names = FOR_TRITON if backend == "triton" else tuple(SHAPES)
    cases = [
        replace(SHAPES[name], backend=backend, dtype=dtype, group=group)
        for name in names
        for dtype in DTYPES
        for group in GROUPS
    ]
    for dtype in DTYPES:
        whole = replace(_CONV, backend=backend, dtype=dtype)
        simt = replace(whole, backend=f"{backend}/simt", group="1x8")
        cases += [replace(one, memory="contiguous", residual=True) for one in (whole, simt)]
        cases += [replace(one, memory="sliced", residual=True) for one in (whole, simt)]
        cases += [replace(one, density=density) for one in (whole, simt) for density in (0.0, 1.0)]
        cases += [replace(simt, group=group) for group in ("1x16", "4x4", "16x16")]
        if dtype == "float32":
            continue  # a forced layout for tensor cores rounds, as tf32 does
        # Filters that tensor cores have to be given in another order, and filled-up tiles.
        cases.append(
            replace(whole, backend=f"{backend}/tensor_core", group="1x16", density=0.1, filters=96)
        )
        if backend == "cuda":
            compressed = replace(whole, backend="cuda/compressed", group="1x8")
            small = replace(SHAPES["small map"], backend="cuda/compressed", dtype=dtype)
            cases += [compressed, *(replace(compressed, density=d) for d in (0.0, 1.0))]
            cases += [replace(small, group=group, density=0.1) for group in ("1x8", "1x16", "4x4")]
    return cases


def _others(backend: str) -> list[Case]:
    cases = []
    for dtype in DTYPES:
        first = Case("conv", backend=backend, dtype=dtype, residual=True, activation="relu")
        simt = replace(first, backend=f"{backend}/simt", group="1x8", activation="hardswish")
        for one in (first, simt):
            checks = ("stream", "graph", "repeat", "second device", "new weights")
            cases += [replace(one, check=check) for check in checks]
        # At the corners of others than ReLU rounding decides what the gradient is.
        smooth = simt if dtype == "float32" else replace(simt, activation="none")
        cases += [replace(one, check="gradients") for one in (first, smooth)]
    cases.append(Case("module", backend=backend, activation="relu"))
    cases.append(Case("module", backend=backend, dtype="float16", group="1x8"))
    return cases


def _norms() -> list[Case]:
    shapes: list[dict[str, Any]] = [
        {"filters": 64, "channels": 64},
        {"filters": 30, "channels": 37, "kernel": (2, 5)},
        {"filters": 512, "channels": 2048, "kernel": (1, 1)},
        {"filters": 1, "channels": 1, "kernel": (1, 1)},
    ]
    return [
        Case("norm", dtype=dtype, group=group, **shape)
        for dtype in ("float32", "float16", "bfloat16")
        for group in (*GROUPS, "64x64")
        for shape in shapes
    ]
