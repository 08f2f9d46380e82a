# SPDX-License-Identifier: MIT
"""Training on a pattern: the convolution with its kept weights in a tensor of their own.

A packed weight serves as the *pattern* here: it says which groups are kept, and its own values are
not looked at. The weights are ``values``, ``[kept_groups, filters, channels]`` in the order in
which the pattern stores its groups, so that a step of an optimizer needs no packing. Every operator
here has gradients of any order, and each costs what the pattern keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from l1sparse.ops import packed_info

_OPS = torch.ops.l1sparse


def values_shape(pattern: Tensor) -> list[int]:
    """``[kept_groups, filters, channels]`` of a pattern's values.

    Args:
        pattern: a result of `l1sparse.pack`.

    Raises:
        RuntimeError: if `pattern` is damaged or not a packed weight.
    """
    info = packed_info(pattern)
    out_channels, in_channels = info.weight_shape[:2]
    filters, channels = info.group.filters, info.group.channels
    return [info.kept_groups, min(filters, out_channels), min(channels, in_channels)]


def gather_values(weight: Tensor, pattern: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """The weights of the kept groups; differentiable, 0 where a group is pruned.

    Args:
        weight: ``[O, C / groups, kH, kW]``, float32, bfloat16 or float16, any strides.
        pattern: a result of `l1sparse.pack` for a weight of this shape.
        shape: `values_shape` of the pattern, where it is known; None reads it.

    Returns:
        float32 values. What a last group has beyond the weight is 0.

    Raises:
        RuntimeError: if the two don't fit each other, or `pattern` is damaged.
    """
    shape = values_shape(pattern) if shape is None else list(shape)
    return cast(Tensor, _OPS.gather_values(weight, pattern, shape))


def scatter_values(values: Tensor, pattern: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """The dense weight with these values, +0 elsewhere; differentiable.

    Args:
        values: of `values_shape`, float32.
        pattern: a result of `l1sparse.pack`.
        weight_shape: ``(O, C / groups, kH, kW)`` of the pattern.

    Returns:
        ``[O, C / groups, kH, kW]``, float32.

    Raises:
        RuntimeError: if the two don't fit each other, or `pattern` is damaged.
    """
    return cast(Tensor, _OPS.scatter_values(values, pattern, list(weight_shape)))


def values_conv2d(
    input: Tensor,
    values: Tensor,
    pattern: Tensor,
    weight_shape: Sequence[int],
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """`l1sparse.sparse_conv2d` with gradients for `values` too; on the CPU.

    Args:
        input: ``[N, C, H, W]``, float32, bfloat16 or float16.
        values: of `values_shape`, float32.
        pattern: a result of `l1sparse.pack`.
        weight_shape: ``(O, C / groups, kH, kW)`` of the pattern.
        bias: ``[O]``.
        stride: step between outputs, ``(height, width)``.
        padding: zeros at each side, ``(height, width)``.
        dilation: step between taps, ``(height, width)``.
        groups: convolution groups.
        residual: added before the activation, of the input's dtype and the output's shape.
        activation: ``"none"`` or ``"relu"``; apply others to the output.

    Returns:
        The output, of the input's dtype and memory format.

    Raises:
        RuntimeError: if tensors do not fit each other, have another dtype or device, or if
            `pattern` is damaged.
    """
    geometry = (stride, padding, dilation, groups)
    return cast(
        Tensor,
        _OPS.values_conv2d(
            input, values, pattern, weight_shape, bias, *geometry, residual, activation
        ),
    )


# ---- shapes without data ------------------------------------------------------------------------


@torch.library.register_fake("l1sparse::gather_values")
def _(weight: Tensor, pattern: Tensor, values_shape: list[int]) -> Tensor:
    return weight.new_empty(values_shape, dtype=torch.float32)


@torch.library.register_fake("l1sparse::scatter_values")
def _(values: Tensor, pattern: Tensor, weight_shape: list[int]) -> Tensor:
    return values.new_empty(weight_shape)


@torch.library.register_fake("l1sparse::values_conv2d")
def _(
    input: Tensor,
    values: Tensor,
    pattern: Tensor,
    weight_shape: list[int],
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    residual: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    return cast(
        Tensor,
        _OPS.sparse_conv2d(
            input, pattern, weight_shape, bias, stride, padding, dilation, groups, residual
        ),
    )


@torch.library.register_fake("l1sparse::conv2d_input_grad")
def _(
    grad: Tensor,
    values: Tensor | None,
    pattern: Tensor,
    weight_shape: list[int],
    in_h: int,
    in_w: int,
    channels_last: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return torch.empty(
        (grad.shape[0], weight_shape[1] * groups, in_h, in_w),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


@torch.library.register_fake("l1sparse::conv2d_values_grad")
def _(
    grad: Tensor,
    input: Tensor,
    pattern: Tensor,
    weight_shape: list[int],
    values_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return grad.new_empty(values_shape, dtype=torch.float32)


# ---- gradients: each operator's are made of the others -------------------------------------------


def _is_channels_last(tensor: Tensor) -> bool:
    # As the native code reads it: what could be read either way counts as NCHW.
    last = tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _save_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, pattern, ctx.values_shape = inputs
    ctx.weight_shape, ctx.dtype = list(weight.shape), weight.dtype
    ctx.save_for_backward(pattern)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (pattern,) = ctx.saved_tensors
    return _OPS.scatter_values(grad, pattern, ctx.weight_shape).to(ctx.dtype), None, None


def _save_scatter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, pattern, _ = inputs
    ctx.values_shape = list(values.shape)
    ctx.save_for_backward(pattern)


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (pattern,) = ctx.saved_tensors
    return _OPS.gather_values(grad, pattern, ctx.values_shape), None, None


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, values, pattern, weight_shape, bias, *geometry, residual, activation = inputs
    ctx.weight_shape, ctx.geometry = weight_shape, geometry
    ctx.input_size = input.shape[2:]
    ctx.channels_last = _is_channels_last(input)
    ctx.values_shape = list(values.shape)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.has_residual = residual is not None
    ctx.save_for_backward(
        # Each is there for the other's gradient.
        input if ctx.needs_input_grad[1] else None,
        values if ctx.needs_input_grad[0] else None,
        pattern,
        output if activation == "relu" else None,
    )


def _conv2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, values, pattern, output = ctx.saved_tensors
    if output is not None:
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
    grads: list[Tensor | None] = [None] * 11
    if ctx.needs_input_grad[0]:
        layout = (*ctx.input_size, ctx.channels_last)
        grads[0] = _OPS.conv2d_input_grad(
            grad, values, pattern, ctx.weight_shape, *layout, *ctx.geometry
        )
    if ctx.needs_input_grad[1]:
        grads[1] = _OPS.conv2d_values_grad(
            grad, input, pattern, ctx.weight_shape, ctx.values_shape, *ctx.geometry
        )
    if ctx.bias_dtype is not None and ctx.needs_input_grad[4]:
        grads[4] = grad.sum((0, 2, 3), dtype=torch.float32).to(ctx.bias_dtype)
    grads[9] = grad if ctx.has_residual else None
    return tuple(grads)


def _save_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, values, pattern, weight_shape, _, _, _, *geometry = inputs
    ctx.weight_shape, ctx.geometry = weight_shape, geometry
    ctx.values_shape = None if values is None else list(values.shape)
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, values, pattern)


def _input_grad_backward(ctx: Any, twice: Tensor) -> tuple[Tensor | None, ...]:
    grad, values, pattern = ctx.saved_tensors
    grads: list[Tensor | None] = [None] * 11
    if ctx.needs_input_grad[0]:
        if values is None:
            grads[0] = _OPS.sparse_conv2d(twice, pattern, ctx.weight_shape, None, *ctx.geometry)
        else:
            grads[0] = _OPS.values_conv2d(
                twice, values, pattern, ctx.weight_shape, None, *ctx.geometry
            )
    if ctx.needs_input_grad[1]:
        grads[1] = _OPS.conv2d_values_grad(
            grad, twice, pattern, ctx.weight_shape, ctx.values_shape, *ctx.geometry
        )
    return tuple(grads)


def _save_values_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, input, pattern, weight_shape, _, *geometry = inputs
    ctx.weight_shape, ctx.geometry = weight_shape, geometry
    ctx.input_size, ctx.channels_last = input.shape[2:], _is_channels_last(input)
    ctx.dtype = grad.dtype
    ctx.save_for_backward(
        grad if ctx.needs_input_grad[1] else None,
        input if ctx.needs_input_grad[0] else None,
        pattern,
    )


def _values_grad_backward(ctx: Any, twice: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, pattern = ctx.saved_tensors
    grads: list[Tensor | None] = [None] * 9
    if ctx.needs_input_grad[0]:
        output = _OPS.values_conv2d(input, twice, pattern, ctx.weight_shape, None, *ctx.geometry)
        grads[0] = output.to(ctx.dtype)
    if ctx.needs_input_grad[1]:
        layout = (*ctx.input_size, ctx.channels_last)
        grads[1] = _OPS.conv2d_input_grad(
            grad, twice, pattern, ctx.weight_shape, *layout, *ctx.geometry
        )
    return tuple(grads)


for _name, _backward, _save in (
    ("gather_values", _gather_backward, _save_gather),
    ("scatter_values", _scatter_backward, _save_scatter),
    ("values_conv2d", _conv2d_backward, _save_conv2d),
    ("conv2d_input_grad", _input_grad_backward, _save_input_grad),
    ("conv2d_values_grad", _values_grad_backward, _save_values_grad),
):
    torch.library.register_autograd(f"l1sparse::{_name}", _backward, setup_context=_save)
