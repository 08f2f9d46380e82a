# SPDX-License-Identifier: MIT
"""A convolution for the tests of GPU code: its arguments, what it should give, and how nearly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from l1sparse import GroupShape, pack, reference
from l1sparse.gpu.plan import round_to_tf32
from l1sparse.group_mask import expand_group_mask

Pair = tuple[int, int]
CLAMP = (-0.25, 0.75)


@dataclass(frozen=True)
class Case:
    """Everything that a result depends on but the numbers in the tensors."""

    filters: int
    channels: int
    """Filters and channels of one convolution group."""
    kernel: Pair
    size: Pair
    group: str
    layout: str
    """``"tensor_core"``, ``"compressed"`` or ``"simt"``."""
    dtype: torch.dtype = torch.float32
    batch: int = 1
    groups: int = 1
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    density: float = 0.5
    memory: str = "channels_last"
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    seed: int = field(default=0)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.groups * self.filters, self.channels, *self.kernel)

    @property
    def geometry(self) -> tuple[Any, ...]:
        return (self.stride, self.padding, self.dilation, self.groups)

    def but(self, **changes: Any) -> Case:
        return replace(self, **changes)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        kernel = "x".join(map(str, self.kernel))
        return f"{self.layout} {dtype} {self.group} {self.channels}-{self.filters} {kernel}"


@dataclass(frozen=True)
class Tensors:
    """A case's numbers; input and residual in the case's dtype and memory format."""

    case: Case
    input: Tensor
    weight: Tensor
    mask: Tensor
    packed: Tensor
    bias: Tensor | None
    residual: Tensor | None

    def arguments(self) -> dict[str, Any]:
        """Of the operator, but `backend`."""
        case = self.case
        return {
            "input": self.input,
            "packed": self.packed,
            "weight_shape": list(case.weight_shape),
            "bias": self.bias,
            "stride": list(case.stride),
            "padding": list(case.padding),
            "dilation": list(case.dilation),
            "groups": case.groups,
            "residual": self.residual,
            "activation": case.activation,
            "clamp_min": CLAMP[0],
            "clamp_max": CLAMP[1],
        }

    def check(self, output: Tensor, tf32_activations: bool = False) -> None:
        """Hold `output` against the reference in float64, with the weights as tiles hold them.

        What rounding can do grows with the sum of the absolute products: every product and sum is
        rounded to float32, the output to its dtype; and on tensor cores (`tf32_activations`) the
        activations lose all but 10 bits of their mantissa, by cutting them off.
        """
        case = self.case
        weight = self.weight
        if case.layout != "simt":
            to_tf32 = case.dtype == torch.float32
            weight = round_to_tf32(weight) if to_tf32 else weight.to(case.dtype)
        arguments = (self.input.double(), weight.double(), self.mask)
        bias = None if self.bias is None else self.bias.double()
        residual = None if self.residual is None else self.residual.double()
        expected = reference.sparse_conv2d(
            *arguments, bias, *case.geometry, residual, case.activation, CLAMP
        )
        sums = reference.sparse_conv2d(
            arguments[0].abs(), arguments[1].abs(), self.mask, None, *case.geometry
        )
        tolerance = 2e-6 * (sums + 3)
        if tf32_activations and case.layout != "simt" and case.dtype == torch.float32:
            tolerance = tolerance + 2**-10 * sums
        if case.activation == "hardswish":
            tolerance = tolerance * 1.5  # its steepest slope
        if case.dtype != torch.float32:  # half a unit in the output's last place
            tolerance = tolerance + expected.abs() * torch.finfo(case.dtype).eps / 2 + 2**-25
        assert output.dtype == case.dtype
        assert output.shape == expected.shape
        error = (output - expected).abs()
        assert (error <= tolerance).all(), f"{error.max()} at {error.argmax()}"


def tensors_of(case: Case) -> Tensors:
    random = torch.Generator().manual_seed(case.seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    grid = GroupShape.of(case.group).grid(case.weight_shape)
    grid_mask = torch.rand(grid, generator=random) < case.density
    weight = randn(*case.weight_shape)
    input = in_memory(randn(case.batch, case.groups * case.channels, *case.size), case)
    bias = randn(case.weight_shape[0]) if case.bias else None
    shape = F.conv2d(
        torch.empty(input.shape, device="meta"),
        torch.empty(weight.shape, device="meta"),
        None,
        *case.geometry,
    ).shape
    residual = in_memory(randn(*shape), case) if case.residual else None
    mask = expand_group_mask(grid_mask, weight.shape, case.group)
    return Tensors(case, input, weight, mask, pack(weight, grid_mask, case.group), bias, residual)


def in_memory(tensor: Tensor, case: Case) -> Tensor:
    """In the case's dtype and memory format; NaN lies where nothing must be read."""
    tensor = tensor.to(case.dtype)
    if case.memory == "sliced":
        n, c, h, w = tensor.shape
        around = torch.full((n, c + 2, h + 1, w + 3), torch.nan, dtype=case.dtype)
        view = around[:, 1 : c + 1, 1:, 2 : w + 2]
        return view.copy_(tensor)
    last = case.memory == "channels_last"
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


_DOT = Case(48, 32, (3, 3), (7, 9), "16x16", "tensor_core", torch.float16, padding=(1, 1))
_SIMT = Case(21, 24, (3, 3), (7, 9), "1x8", "simt", padding=(1, 1))

CASES = {
    "half": _DOT,
    "tf32": _DOT.but(group="16x8", dtype=torch.float32),
    "NCHW": _DOT.but(memory="contiguous", residual=True, activation="relu"),
    "a slice": _DOT.but(memory="sliced", residual=True, activation="clamp"),
    "1x1": _DOT.but(kernel=(1, 1), padding=(0, 0), batch=3, filters=64),
    "everything at once": _DOT.but(
        batch=2, filters=24, groups=2, stride=(2, 1), padding=(2, 3), dilation=(1, 2),
        residual=True, activation="hardswish", size=(9, 8),
    ),
    "everything at once, tf32": _DOT.but(
        batch=2, filters=24, groups=3, stride=(1, 2), padding=(2, 3), dilation=(2, 1), channels=8,
        residual=True, activation="relu6", size=(9, 8), dtype=torch.float32, group="16x8",
    ),
    "few filters": _DOT.but(filters=5, bias=False),
    "nothing kept": _DOT.but(density=0.0, residual=True, activation="relu"),
    "everything kept": _DOT.but(density=1.0, filters=16, channels=16),
    "one channel group of 1x8": _DOT.but(group="1x8", density=0.1),
    "padding beyond the kernel": _DOT.but(kernel=(1, 1), padding=(3, 2), size=(2, 2)),
    "compressed": _DOT.but(layout="compressed", group="1x8"),
    "compressed bfloat16": _DOT.but(
        layout="compressed", group="1x16", dtype=torch.bfloat16, residual=True, density=0.1
    ),
    "compressed everything at once, tf32": _DOT.but(
        layout="compressed", group="1x8", batch=2, filters=24, groups=3, stride=(1, 2),
        padding=(2, 3), dilation=(2, 1), channels=8, residual=True, activation="relu6",
        size=(9, 8), dtype=torch.float32,
    ),
    "compressed, nothing kept": _DOT.but(layout="compressed", density=0.0, residual=True),
    "simt": _SIMT,
    "simt half": _SIMT.but(dtype=torch.float16, activation="relu"),
    "simt bfloat16": _SIMT.but(dtype=torch.bfloat16, activation="relu", residual=True),
    "simt NCHW": _SIMT.but(memory="contiguous", residual=True, activation="relu6"),
    "simt slice": _SIMT.but(memory="sliced", residual=True, activation="clamp"),
    "simt 4x4": _SIMT.but(group="4x4", channels=12),
    "simt odd": _SIMT.but(group="3x5", channels=7, filters=5),
    "simt depthwise": _SIMT.but(group="1x1", channels=1, filters=1, groups=11, stride=(2, 2)),
    "simt everything at once": _SIMT.but(
        batch=2, filters=9, groups=2, stride=(2, 1), padding=(2, 3), dilation=(1, 2),
        residual=True, activation="hardswish", size=(9, 8), channels=20, group="1x16",
    ),
    "simt nothing kept": _SIMT.but(density=0.0, residual=True),
}  # fmt: skip
# Of the layouts that Triton has a kernel for.
TRITON_CASES = {name: case for name, case in CASES.items() if case.layout != "compressed"}
