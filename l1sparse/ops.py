# SPDX-License-Identifier: MIT
"""The native operators, typed and documented; `l1sparse.reference` has each again in plain torch.

The same operators are reachable as ``torch.ops.l1sparse.*``. They check their arguments
themselves, so a direct call is as safe as one through this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from l1sparse import _C as _C  # importing it registers the operators
from l1sparse.format import GroupShape, PackedInfo
from l1sparse.group_mask import expand_group_mask, nonzero_groups
from l1sparse.reference import activate

ACTIVATIONS = ("none", "relu", "relu6", "clamp", "hardswish")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The order of csrc/format/strategy.inc.
STRATEGIES = ("auto", "channels", "pixels", "filters")


def group_l1_norm(weight: Tensor, group: GroupShape | Sequence[int] | str) -> Tensor:
    """Mean absolute weight of every channel group (claim 5 of CN111242287A).

    ``norm[i, j, y, x] = mean(|w|)`` over the weights of group ``(i, j)`` at tap ``(y, x)``. A
    shorter last group is averaged over the weights that it has. Differentiable.

    Args:
        weight: ``[O, C, kH, kW]``, float32, bfloat16 or float16, any strides.
        group: channel-group shape.

    Returns:
        ``[ceil(O / filters), ceil(C / channels), kH, kW]``, float32.

    Raises:
        ValueError: if `group` is no pair of positive whole numbers.
        RuntimeError: if `weight` has another dtype, rank or device, or an empty dimension.
    """
    shape = GroupShape.of(group)
    return cast(Tensor, torch.ops.l1sparse.group_l1_norm(weight, shape.as_list()))


def pack(
    weight: Tensor,
    mask: Tensor | None = None,
    group: GroupShape | Sequence[int] | str = (1, 8),
    strategy: str = "auto",
) -> Tensor:
    """Pack the weights of the kept groups into one contiguous buffer.

    Args:
        weight: ``[O, C, kH, kW]``, float32, bfloat16 or float16, any strides; packed as float32.
        mask: bool, True where kept, of the weight's shape or of the group grid's
            (`GroupShape.grid`). None: groups that are all zero are pruned.
        group: channel-group shape.
        strategy: one of `STRATEGIES`: how the kernel goes through the kept groups, which decides
            the order in which they are stored (``docs/kernels.md``). ``"auto"`` takes the one
            that is expected to be fastest.

    Returns:
        ``[bytes]``, uint8: header, offsets and values, see ``csrc/format/packed.h``.

    Raises:
        ValueError: if `group` is no pair of positive whole numbers, or `mask` is None and `weight`
            has another rank.
        RuntimeError: if `weight` or `mask` has a wrong dtype, rank, shape or device, or if `mask`
            is not constant over a group, or if `strategy` is unknown.
    """
    shape = GroupShape.of(group)
    if mask is None:
        mask = nonzero_groups(weight, shape)
    return cast(Tensor, torch.ops.l1sparse.pack(weight, mask, shape.as_list(), strategy))


def unpack(packed: Tensor) -> Tensor:
    """Dense weight of a packed buffer; pruned weights are +0.

    Args:
        packed: a result of `pack`.

    Returns:
        ``[O, C, kH, kW]``, float32.

    Raises:
        RuntimeError: if `packed` is damaged or not a packed weight; the message says in what.
    """
    return cast(Tensor, torch.ops.l1sparse.unpack(packed, packed_info(packed).weight_shape))


def packed_info(packed: Tensor) -> PackedInfo:
    """What a packed buffer says of itself, after its checks.

    Sizes, offsets and columns are checked at every call; the checksum when a buffer is first seen,
    here and in `sparse_conv2d`. `unpack` checks everything each time.

    Args:
        packed: a result of `pack`.

    Raises:
        RuntimeError: if `packed` is damaged or not a packed weight; the message says in what.
    """
    numbers = torch.ops.l1sparse.packed_info(packed)
    return PackedInfo(
        weight_shape=tuple(numbers[:4]),
        group=GroupShape(*numbers[4:6]),
        kept_groups=numbers[6],
        kept_weights=numbers[7],
        strategy=STRATEGIES[1 + numbers[8]],
    )


def sparse_conv2d(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    residual: Tensor | None = None,
    activation: str = "none",
    weight_shape: Sequence[int] | None = None,
    clamp: tuple[float, float] = (0.0, 6.0),
    backend: str = "auto",
) -> Tensor:
    """2-D convolution that skips the pruned groups.

    ``output = activation(conv2d(input, unpack(packed), bias) + residual)``. As dense convolution
    with NaN and infinities too, except that a pruned weight contributes nothing, whatever the
    input holds there. Gradients flow to `input`, `bias` and `residual`; training of the weight
    goes through the dense masked weight (`l1sparse.SparseConv2d`).

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``, float32, bfloat16 or float16; NCHW and
            channels_last are read as they are, and so are slices. Sums are float32 in any case.
        packed: a result of `pack`, for a weight ``[O, C / groups, kH, kW]``.
        bias: ``[O]``, any of these types.
        stride: step between outputs, a number or ``(height, width)``.
        padding: zeros at each side, a number, ``(height, width)``, ``"same"`` or ``"valid"``.
        dilation: step between taps, a number or ``(height, width)``.
        groups: convolution groups.
        residual: added before the activation, of the input's dtype and the output's shape.
        activation: one of `ACTIVATIONS`, as in `torch.nn.functional`; ``"relu6"`` is
            ``"clamp"`` to 0 .. 6.
        weight_shape: ``(O, C / groups, kH, kW)`` of the packed weight, where it is known; None
            reads it from `packed`.
        clamp: least and greatest output of activation ``"clamp"``.
        backend: what runs it on a GPU: ``"auto"``, ``"cuda"`` or ``"triton"``, with
            ``"/tensor_core"``, ``"/compressed"`` or ``"/simt"`` after it where a layout is forced
            (docs/gpu-use.md).

    Returns:
        The output, of the input's dtype and memory format.

    Raises:
        ValueError: if an argument is not of the form above.
        RuntimeError: if tensors do not fit each other, have another dtype or device, if `packed`
            is damaged, or if `backend` can't run them.
    """
    if input.dim() not in (3, 4):
        raise ValueError(
            f"input: has shape {list(input.shape)}, expected 4 dimensions [N, C, H, W] or "
            "3 [C, H, W]"
        )
    shape = list(packed_info(packed).weight_shape if weight_shape is None else weight_shape)
    stride_pair = as_pair("stride", stride)
    dilation_pair = as_pair("dilation", dilation)
    if isinstance(padding, str):
        input, padding_pair = _resolve_padding(input, shape, padding, stride_pair, dilation_pair)
    else:
        padding_pair = as_pair("padding", padding)
    batched = input.dim() == 4
    if residual is not None and not batched:
        residual = residual.unsqueeze(0)
    output = call_sparse_conv2d(
        input if batched else input.unsqueeze(0),
        packed,
        shape,
        bias,
        (stride_pair, padding_pair, dilation_pair, groups),
        residual,
        activation,
        clamp,
        backend,
    )
    return output if batched else output.squeeze(0)


def call_sparse_conv2d(
    input: Tensor,
    packed: Tensor,
    weight_shape: Sequence[int],
    bias: Tensor | None,
    geometry: Sequence[Any],
    residual: Tensor | None = None,
    activation: str = "none",
    clamp: tuple[float, float] = (0.0, 6.0),
    backend: str = "auto",
) -> Tensor:
    """The operator as it is, on arguments in their final form.

    Args:
        input: ``[N, C, H, W]``.
        packed: see `sparse_conv2d`.
        weight_shape: ``(O, C / groups, kH, kW)``.
        bias: see `sparse_conv2d`.
        geometry: stride, padding and dilation as pairs, and the number of convolution groups.
        residual: see `sparse_conv2d`.
        activation: see `sparse_conv2d`.
        clamp: see `sparse_conv2d`.
        backend: see `sparse_conv2d`.
    """
    operator = torch.ops.l1sparse.sparse_conv2d.default
    arguments = (
        input,
        packed,
        weight_shape,
        bias,
        *geometry,
        residual,
        activation,
        *clamp,
        backend,
    )
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return cast(Tensor, operator(*arguments))
    # Past the autograd layer, which is Python here and would cost more than a small convolution.
    with torch._C._AutoDispatchBelowAutograd():
        return cast(Tensor, operator(*arguments))


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[list[int], list[int]]:
    """``padding="same"`` as numbers: zeros before and zeros after, height first.

    Where the total is odd the extra zero comes after, as in `torch.nn.Conv2d`.
    """
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    before = [total // 2 for total in totals]
    return before, [total - b for total, b in zip(totals, before, strict=True)]


def as_pair(name: str, value: int | Sequence[int]) -> list[int]:
    """``[value, value]`` for a number, the two numbers of a pair.

    Raises:
        ValueError: if `value` is neither; the message names the argument `name`.
    """
    values = list(value) if isinstance(value, Sequence) else [value, value]
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise ValueError(f"{name}: got {value!r}, expected a whole number or a pair of them")
    return values


def _resolve_padding(
    input: Tensor, shape: list[int], padding: str, stride: list[int], dilation: list[int]
) -> tuple[Tensor, list[int]]:
    if padding == "valid":
        return input, [0, 0]
    if padding != "same":
        raise ValueError(f"padding: got {padding!r}, expected a number, a pair, 'same' or 'valid'")
    if stride != [1, 1]:
        raise ValueError(f"stride: got {stride}, expected 1 with padding='same'")
    before, after = same_padding(shape[2:], dilation)
    if before == after:
        return input, before
    extra = [b - a for b, a in zip(after, before, strict=True)]
    return F.pad(input, (0, extra[1], 0, extra[0])), before


# ---- what torch needs to know of the operators: shapes without data, and gradients --------------


@torch.library.register_fake("l1sparse::group_l1_norm")
def _(weight: Tensor, group: list[int]) -> Tensor:
    return weight.new_empty(GroupShape(*group).grid(weight.shape), dtype=torch.float32)


def _check_one_device(**tensors: Tensor | None) -> None:
    # A tensor without data among others makes torch take all of them for such tensors.
    (first, expected), *others = ((k, t.device) for k, t in tensors.items() if t is not None)
    for name, device in others:
        if device != expected:
            raise RuntimeError(f"{name}: is on {device}, expected {expected}, where {first} is")


@torch.library.register_fake("l1sparse::pack")
def _(weight: Tensor, mask: Tensor, group: list[int], strategy: str = "auto") -> Tensor:
    _check_one_device(weight=weight, mask=mask)
    # How many groups are kept is in the data, and with it the size.
    size = torch.library.get_ctx().new_dynamic_size(min=64)
    return weight.new_empty((size,), dtype=torch.uint8)


@torch.library.register_fake("l1sparse::unpack")
def _(packed: Tensor, weight_shape: list[int]) -> Tensor:
    return packed.new_empty(weight_shape, dtype=torch.float32)


@torch.library.register_fake("l1sparse::sparse_conv2d")
def _(
    input: Tensor,
    packed: Tensor,
    weight_shape: list[int],
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    residual: Tensor | None = None,
    activation: str = "none",
    clamp_min: float = 0.0,
    clamp_max: float = 6.0,
    backend: str = "auto",
) -> Tensor:
    _check_one_device(input=input, packed=packed, bias=bias, residual=residual)
    size = _conv_output(input.shape[2:], weight_shape[2:], stride, padding, dilation)
    channels_last = input.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        (input.shape[0], weight_shape[0], *size),
        dtype=input.dtype,
        device=input.device,
        memory_format=torch.channels_last
        if channels_last and not input.is_contiguous()
        else torch.contiguous_format,
    )


@torch.library.register_fake("l1sparse::sparse_conv2d_into")
def _(
    input: Tensor,
    packed: Tensor,
    weight_shape: list[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    residual: Tensor | None,
    activation: str,
    clamp_min: float,
    clamp_max: float,
    out: Tensor,
) -> None:
    _check_one_device(input=input, packed=packed, bias=bias, residual=residual, out=out)


@torch.library.register_fake("l1sparse::sparse_conv2d_sequence")
def _(read: list[Tensor], written: list[Tensor], steps: Tensor, clamps: Tensor) -> None:
    tensors = {f"tensor {i}": tensor for i, tensor in enumerate([*read, *written])}
    _check_one_device(**tensors, steps=steps, clamps=clamps)


@torch.library.register_fake("l1sparse::sparse_conv2d_max_pool")
def _(
    input: Tensor,
    packed: Tensor,
    weight_shape: list[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    clamp_min: float,
    clamp_max: float,
    pool_kernel: Sequence[int],
    pool_stride: Sequence[int],
    pool_padding: Sequence[int],
) -> Tensor:
    _check_one_device(input=input, packed=packed, bias=bias)
    size = _conv_output(input.shape[2:], weight_shape[2:], stride, padding, dilation)
    size = _conv_output(size, pool_kernel, pool_stride, pool_padding, (1, 1))
    return input.new_empty((input.shape[0], weight_shape[0], *size))


@torch.library.register_fake("l1sparse::linear")
def _(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _check_one_device(input=input, weight=weight, bias=bias)
    return input.new_empty((input.shape[0], weight.shape[0]))


def _conv_output(
    input: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Height and width of a convolution's output, by `nn.Conv2d`'s formula."""
    return [
        (input[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]


def _save_group_l1_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, group = inputs
    ctx.save_for_backward(weight)
    ctx.group = group


def _group_l1_norm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (weight,) = ctx.saved_tensors
    shape = GroupShape(*ctx.group)
    rows, columns = grad.shape[:2]
    filters = grad.new_full((rows,), float(shape.filters))
    filters[-1] = weight.shape[0] - (rows - 1) * shape.filters
    channels = grad.new_full((columns,), float(shape.channels))
    channels[-1] = weight.shape[1] - (columns - 1) * shape.channels
    sizes = filters[:, None, None, None] * channels[None, :, None, None]
    expanded = expand_group_mask(grad / sizes, weight.shape, shape)
    return weight.sign() * expanded.to(weight.dtype), None


torch.library.register_autograd(
    "l1sparse::group_l1_norm", _group_l1_norm_backward, setup_context=_save_group_l1_norm
)


def _save_sparse_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, packed, weight_shape, bias, stride, padding, dilation, groups, residual, act = inputs[
        :10
    ]
    ctx.has_bias = bias is not None
    ctx.has_residual = residual is not None
    ctx.weight_shape = weight_shape
    ctx.geometry = (stride, padding, dilation, groups)
    ctx.activation, ctx.backend = inputs[9:12], inputs[12]
    ctx.input_shape = input.shape
    last = input.is_contiguous(memory_format=torch.channels_last)
    ctx.channels_last = last and not input.is_contiguous()
    # ReLU's gradient is in its output; that of the others needs what they were given.
    recompute = act not in ("none", "relu")
    ctx.save_for_backward(
        packed,
        output if act == "relu" else None,
        *((input, bias, residual) if recompute else (None, None, None)),
    )


def _sparse_conv2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, output, input, bias, residual = ctx.saved_tensors
    if input is not None:
        before = call_sparse_conv2d(
            input, packed, ctx.weight_shape, bias, ctx.geometry, residual, backend=ctx.backend
        ).detach()
        with torch.enable_grad():
            after = activate(before.requires_grad_(), *ctx.activation)
        (grad,) = torch.autograd.grad(after, before, grad)
    grad_input: Tensor | None = None
    if output is not None:
        grad = torch.where(output > 0, grad, torch.zeros_like(grad))
    if ctx.needs_input_grad[0] and grad.device.type != "cpu":
        weight = torch.ops.l1sparse.unpack(packed, ctx.weight_shape).to(grad.dtype)
        grad_input, _ = conv2d_gradients(grad, weight, ctx.input_shape, ctx.geometry)
    elif ctx.needs_input_grad[0]:
        layout = (*ctx.input_shape[2:], ctx.channels_last)
        grad_input = torch.ops.l1sparse.conv2d_input_grad(
            grad, None, packed, ctx.weight_shape, *layout, *ctx.geometry
        )
    grads: list[Tensor | None] = [None] * 13
    grads[0] = grad_input
    grads[3] = grad.sum((0, 2, 3)) if ctx.has_bias else None
    grads[8] = grad if ctx.has_residual else None
    return tuple(grads)


def conv2d_gradients(
    grad: Tensor,
    weight: Tensor,
    input_shape: Sequence[int] | None,
    geometry: Sequence[Any],
    output: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of `sparse_conv2d` before its activation and at its input, in any float dtype.

    Args:
        grad: gradient of the output.
        weight: dense masked weight ``[O, C / groups, kH, kW]``.
        input_shape: ``(N, C, H, W)``, or None where the input needs no gradient.
        geometry: stride, padding and dilation as pairs, and the number of convolution groups.
        output: the output where its activation was ReLU, None where there was none.

    Returns:
        The input's gradient or None, and the gradient before the activation: the residual's, and,
        summed over all but the channels, the bias's.
    """
    if output is not None:
        grad = torch.where(output > 0, grad, torch.zeros_like(grad))
    if input_shape is None:
        return None, grad
    return conv2d_input(list(input_shape), weight, grad, *geometry), grad


torch.library.register_autograd(
    "l1sparse::sparse_conv2d", _sparse_conv2d_backward, setup_context=_save_sparse_conv2d
)


# Whichever module of the package is imported first, the operators are complete: on the instruction
# set that was asked for, and on a GPU too. By name, since both are made of what stands above.
import_module("l1sparse.start")
