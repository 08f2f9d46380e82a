# SPDX-License-Identifier: MIT
"""What a convolution on a GPU is asked to do, checked on the host before anything is launched.

Messages are those of the CPU operator (``csrc/base/status.cpp`` and ``csrc/bindings``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The CPU's bound (csrc/kernels/conv2d/conv2d.cpp); kernels compute places in an image in 32 bits.
_MAX_PARAMETER = 0x3FFFFFFF
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Activation:
    """The last step of a kernel: a kind, and the bounds of ``"clamp"``."""

    kind: str
    """``"none"``, ``"relu"``, ``"clamp"`` or ``"hardswish"``."""
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Conv2dProblem:
    """Sizes, geometry and last step of a convolution; all of it fits what kernels can address."""

    batch: int
    in_channels: int
    in_h: int
    in_w: int
    out_channels: int
    out_h: int
    out_w: int
    channels: int
    """Of one convolution group."""
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    activation: Activation

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.batch * self.out_h * self.out_w

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(O, C / groups, kH, kW)``."""
        return (self.out_channels, self.channels, self.kernel_h, self.kernel_w)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """``(N, O, H, W)``."""
        return (self.batch, self.out_channels, self.out_h, self.out_w)

    @property
    def is_wide(self) -> bool:
        """Whether places in an input or output need more than 32 bits.

        An input may be spread over twice its size, and kernels also compute the place of a tap
        outside of the image before they find that it is outside, so an image's border counts.
        """
        border_h = self.pad_h + self.dilation_h * self.kernel_h
        border_w = self.pad_w + self.dilation_w * self.kernel_w
        inputs = self.batch * self.in_channels * (self.in_h + border_h) * (self.in_w + border_w)
        outputs = (self.pixels + 4096) * self.out_channels
        return max(2 * inputs, outputs) > _INT32_MAX


@functools.lru_cache(maxsize=4096)
def conv2d_problem(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    activation: str,
    clamp_min: float,
    clamp_max: float,
) -> Conv2dProblem:
    """Check the numbers of a convolution.

    Args:
        input_shape: ``(N, C, H, W)``.
        weight_shape: ``(O, C / groups, kH, kW)``, as the packed weight says.
        stride: height, width.
        padding: height, width.
        dilation: height, width.
        groups: convolution groups.
        activation: one of `l1sparse.ops.ACTIVATIONS`.
        clamp_min: least output of ``"clamp"``.
        clamp_max: greatest output of ``"clamp"``.

    Raises:
        RuntimeError: if they are not usable; the message names the argument.
    """
    batch, in_channels, in_h, in_w = input_shape
    out_channels, channels, kernel_h, kernel_w = weight_shape
    for name, pair in (("stride", stride), ("padding", padding), ("dilation", dilation)):
        if len(pair) != 2:
            raise RuntimeError(f"{name}: has {len(pair)} numbers, expected 2")
    last_step = _activation(activation, clamp_min, clamp_max)
    _check_range("stride", stride, 1)
    _check_range("padding", padding, 0)
    _check_range("dilation", dilation, 1)
    _check_range("groups", (groups,), 1)
    if out_channels % groups:
        raise RuntimeError(
            f"groups: {groups} does not divide the weight's {out_channels} output channels"
        )
    if in_channels != channels * groups:
        raise RuntimeError(
            f"input: has {in_channels} channels, expected {channels * groups} (the packed "
            "weight's channels times groups)"
        )
    out_h = _output_size(in_h, padding[0], kernel_h, stride[0], dilation[0])
    out_w = _output_size(in_w, padding[1], kernel_w, stride[1], dilation[1])
    if min(out_h, out_w) < 1:
        raise RuntimeError(
            f"input: the output would have a size of {min(out_h, out_w)}, expected at least 1"
        )
    image = max(
        in_channels * (in_h + 2 * padding[0]) * (in_w + 2 * padding[1]),
        out_channels * out_h * out_w,
    )
    if image > _INT32_MAX:
        raise RuntimeError(
            f"input: one image of input or output has {image} numbers, borders included, expected "
            f"at most {_INT32_MAX} on a GPU"
        )
    return Conv2dProblem(
        batch=batch,
        in_channels=in_channels,
        in_h=in_h,
        in_w=in_w,
        out_channels=out_channels,
        out_h=out_h,
        out_w=out_w,
        channels=channels,
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        stride_h=stride[0],
        stride_w=stride[1],
        pad_h=padding[0],
        pad_w=padding[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        groups=groups,
        activation=last_step,
    )


def check_tensors(
    input: Tensor, packed: Tensor, bias: Tensor | None, residual: Tensor | None
) -> None:
    """Check dtypes, ranks and devices, what can be said without the numbers of the convolution.

    Raises:
        RuntimeError: naming the argument, what it is and what it should be.
    """
    check_device(input, packed=packed, bias=bias, residual=residual)
    check_float("input", input, 4)
    if packed.dtype != torch.uint8:
        raise RuntimeError(f"packed: has dtype {dtype_text(packed.dtype)}, expected uint8")
    _check_rank("packed", packed, 1)
    if not packed.is_contiguous():
        raise RuntimeError("packed: is not contiguous, expected a result of pack()")
    if bias is not None:
        check_float("bias", bias, 1)
    if residual is not None and residual.dtype != input.dtype:
        raise RuntimeError(
            f"residual: has dtype {dtype_text(residual.dtype)}, expected "
            f"{dtype_text(input.dtype)}, the input's"
        )
    if residual is not None:
        _check_rank("residual", residual, 4)


def check_sides(problem: Conv2dProblem, bias: Tensor | None, residual: Tensor | None) -> None:
    """Check that `bias` and `residual` have the sizes that `problem` asks for.

    Raises:
        RuntimeError: naming the argument, what it is and what it should be.
    """
    if bias is not None and bias.shape[0] != problem.out_channels:
        raise RuntimeError(
            f"bias: has {bias.shape[0]} values, expected {problem.out_channels} (the packed "
            "weight's output channels)"
        )
    if residual is not None and tuple(residual.shape) != problem.output_shape:
        raise RuntimeError(
            f"residual: has shape {list(residual.shape)}, expected the output's "
            f"{list(problem.output_shape)}"
        )


def check_weight_shape(got: Sequence[int], packed_shape: tuple[int, ...]) -> None:
    """Hold the weight's shape as the caller states it against what the packed bytes say.

    Raises:
        RuntimeError: if they differ.
    """
    if tuple(got) != packed_shape:
        raise RuntimeError(
            f"weight_shape: got {list(got)}, expected the packed weight's {list(packed_shape)}"
        )


def check_device(input: Tensor, **others: Tensor | None) -> None:
    """Check that all tensors lie where `input` does.

    Raises:
        RuntimeError: naming the tensor that does not, and both devices.
    """
    for name, tensor in others.items():
        if tensor is not None and tensor.device != input.device:
            raise RuntimeError(
                f"{name}: is on {tensor.device}, expected {input.device}, where input is"
            )


def check_float(name: str, tensor: Tensor, rank: int) -> None:
    """Check that `tensor` has a dtype that kernels know and `rank` dimensions.

    Raises:
        RuntimeError: naming the argument, what it is and what it should be.
    """
    if tensor.dtype not in DTYPES:
        raise RuntimeError(
            f"{name}: has dtype {dtype_text(tensor.dtype)}, expected float32, bfloat16 or float16"
        )
    _check_rank(name, tensor, rank)


def dtype_text(dtype: torch.dtype) -> str:
    """``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel, and not the pixels of a channel, lie side by side.

    A tensor that could be read either way counts as NCHW, as in torch's suggest_memory_format.
    """
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _check_rank(name: str, tensor: Tensor, rank: int) -> None:
    if tensor.dim() != rank:
        raise RuntimeError(f"{name}: has shape {list(tensor.shape)}, expected {rank} dimensions")


def _check_range(name: str, values: Sequence[int], least: int) -> None:
    for value in values:
        if not least <= value <= _MAX_PARAMETER:
            raise RuntimeError(
                f"{name}: {value} is not usable, expected a whole number of at least {least}"
            )


def _activation(name: str, low: float, high: float) -> Activation:
    if name == "relu6":
        return Activation("clamp", 0.0, 6.0)
    if name == "clamp":
        if not low <= high:
            raise RuntimeError(
                f"clamp_min: {low:f} is not usable, expected at most clamp_max, {high:f}"
            )
        return Activation("clamp", low, high)
    if name in ("none", "relu", "hardswish"):
        return Activation(name)
    raise RuntimeError(
        f"activation: '{name}' is unknown, expected 'none', 'relu', 'relu6', 'clamp' or 'hardswish'"
    )


def _output_size(size: int, padding: int, kernel: int, stride: int, dilation: int) -> int:
    span = dilation * (kernel - 1) + 1
    room = size + 2 * padding
    return (room - span) // stride + 1 if room >= span else 0
