# SPDX-License-Identifier: MIT
"""Norms, packing and convolution on NumPy arrays; `l1sparse.ops` has the same for tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from l1sparse import _runtime
from l1sparse.format import GroupShape

# The numbers of csrc/include/l1sparse.h.
_STRATEGIES = {"auto": 0, "channels": 1, "pixels": 2, "filters": 3}
_ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2, "clamp": 2, "hardswish": 3}

Group = GroupShape | Sequence[int] | str


class Weight:
    """A packed weight, checked once and kept for any number of convolutions.

    Args:
        packed: ``[bytes]``, uint8, a result of `pack` or a ``.packed`` array of a file; copied.

    Raises:
        ValueError: if `packed` is damaged or no packed weight; the message says in what.
    """

    shape: tuple[int, int, int, int]
    """``(O, C / groups, kH, kW)`` of the dense weight."""
    group: GroupShape

    def __init__(self, packed: ArrayLike) -> None:
        array = np.ascontiguousarray(packed)
        if array.dtype != np.uint8:
            raise ValueError(f"packed: has dtype {array.dtype}, expected uint8")
        self._opened = _runtime.open_weight(array)
        numbers = _runtime.weight_shape(self._opened)
        self.shape = numbers[:4]
        self.group = GroupShape(*numbers[4:])

    def unpack(self) -> NDArray[np.float32]:
        """The dense weight ``[O, C, kH, kW]``, pruned weights +0."""
        dense = np.empty(self.shape, np.float32)
        _runtime.unpack(self._opened, dense)
        return dense


def group_l1_norm(weight: ArrayLike, group: Group) -> NDArray[np.float32]:
    """Mean absolute weight of every channel group, as `l1sparse.group_l1_norm`.

    Args:
        weight: ``[O, C, kH, kW]``, converted to float32.
        group: channel-group shape.

    Returns:
        ``[ceil(O / filters), ceil(C / channels), kH, kW]``.

    Raises:
        ValueError: if `group` is no group shape, or `weight` has another rank or no elements.
    """
    dense, shape = _float_weight(weight), GroupShape.of(group)
    norms = np.empty(shape.grid(dense.shape), np.float32)
    _runtime.group_l1_norm(dense, shape.filters, shape.channels, norms)
    return norms


def pack(
    weight: ArrayLike, mask: ArrayLike, group: Group = (1, 8), strategy: str = "auto"
) -> NDArray[np.uint8]:
    """Pack the weights of the kept groups, as `l1sparse.pack`.

    Args:
        weight: ``[O, C, kH, kW]``, converted to float32.
        mask: bool, of the group grid's shape, True where kept.
        group: channel-group shape.
        strategy: ``"auto"``, ``"channels"``, ``"pixels"`` or ``"filters"``.

    Returns:
        ``[bytes]``, uint8.

    Raises:
        ValueError: if an argument has a wrong shape or type, or `strategy` is unknown.
    """
    dense, shape = _float_weight(weight), GroupShape.of(group)
    kept = np.ascontiguousarray(mask)
    if kept.dtype != np.bool_ or kept.shape != shape.grid(dense.shape):
        raise ValueError(
            f"mask: is {kept.dtype} of shape {list(kept.shape)}, expected bool of the group "
            f"grid's {list(shape.grid(dense.shape))}"
        )
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy: got {strategy!r}, expected one of {tuple(_STRATEGIES)}")
    packed = _runtime.pack(dense, kept, shape.filters, shape.channels, _STRATEGIES[strategy])
    return np.frombuffer(packed, np.uint8)


def unpack(packed: ArrayLike | Weight) -> NDArray[np.float32]:
    """Dense weight ``[O, C, kH, kW]`` of a packed one; pruned weights are +0.

    Raises:
        ValueError: if `packed` is damaged or no packed weight; the message says in what.
    """
    return _as_weight(packed).unpack()


def conv2d(
    input: ArrayLike,
    packed: ArrayLike | Weight,
    bias: ArrayLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    residual: ArrayLike | None = None,
    activation: str = "none",
    clamp: tuple[float, float] = (0.0, 6.0),
    channels_last: bool = False,
) -> NDArray[Any]:
    """2-D convolution that skips the pruned groups, as `l1sparse.sparse_conv2d`.

    Args:
        input: ``[N, C, H, W]``, float32 or float16, any strides. (NHWC: pass the transposed view.)
        packed: the packed weight; a `Weight` saves its check and copy at every call.
        bias: ``[O]``, converted to float32.
        stride: step between outputs, a number or ``(height, width)``.
        padding: zeros at each side, a number, ``(height, width)``, ``"same"`` or ``"valid"``.
        dilation: step between taps, a number or ``(height, width)``.
        groups: convolution groups.
        residual: added before the activation, of the output's shape and the input's dtype.
        activation: ``"none"``, ``"relu"``, ``"relu6"``, ``"clamp"`` or ``"hardswish"``.
        clamp: least and greatest output of activation ``"clamp"``.
        channels_last: whether the output lies as NHWC; its shape is ``[N, O, H, W]`` in any case.

    Returns:
        ``[N, O, H, W]``, of the input's dtype.

    Raises:
        ValueError: if an argument has a wrong shape, type or value; the message names it.
    """
    weight, array = _as_weight(packed), _readable(np.asarray(input))
    if array.ndim != 4 or array.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"input: is {array.dtype} of shape {list(array.shape)}, expected float32 or float16 "
            "[N, C, H, W]"
        )
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected one of {tuple(_ACTIVATIONS)}")
    strides, dilations = _pair("stride", stride), _pair("dilation", dilation)
    zeros = _padding(padding, weight.shape[2:], strides, dilations)
    shape = (
        array.shape[0],
        weight.shape[0],
        *(
            max((array.shape[2 + i] + zeros[i] + zeros[2 + i] - dilations[i] * (k - 1) - 1), -1)
            // max(strides[i], 1)
            + 1
            for i, k in enumerate(weight.shape[2:])
        ),
    )
    added = None if residual is None else np.asarray(residual)
    if added is not None and (added.shape != shape or added.dtype != array.dtype):
        raise ValueError(
            f"residual: is {added.dtype} of shape {list(added.shape)}, expected {array.dtype} of "
            f"shape {list(shape)}"
        )
    output = _empty(shape, array.dtype, channels_last)
    if added is not None:
        laid_out = _empty(shape, array.dtype, channels_last)
        laid_out[...] = added
        added = laid_out
    _runtime.conv2d(
        array,
        weight._opened,
        None if bias is None else np.ascontiguousarray(bias, np.float32),
        added,
        output,
        strides,
        zeros,
        dilations,
        groups,
        _ACTIVATIONS[activation],
        *((0.0, 6.0) if activation == "relu6" else clamp),
        channels_last,
    )
    return output


def _as_weight(packed: ArrayLike | Weight) -> Weight:
    return packed if isinstance(packed, Weight) else Weight(packed)


def _float_weight(weight: ArrayLike) -> NDArray[np.float32]:
    dense = np.require(weight, np.float32, ["C", "A"])
    if dense.ndim != 4 or dense.size == 0:
        raise ValueError(
            f"weight: has shape {list(dense.shape)}, expected [O, C, kH, kW], none of them 0"
        )
    return dense


def _readable(array: NDArray[Any]) -> NDArray[Any]:
    """`array`, or a copy where the kernels can't read it in place.

    That is where its elements lie backwards, unaligned, in another byte order, or all in one place
    (strides that are all 0 say something else to the C interface).
    """
    whole = all(s >= 0 and s % array.itemsize == 0 for s in array.strides) and any(array.strides)
    if whole and array.flags.aligned and array.dtype.isnative:
        return array
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def _empty(shape: tuple[int, ...], dtype: Any, channels_last: bool) -> NDArray[Any]:
    if not channels_last:
        return np.empty(shape, dtype)
    n, c, h, w = shape
    return np.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int | np.integer) for v in values):
        raise ValueError(f"{name}: got {value!r}, expected a whole number or a pair of them")
    return int(values[0]), int(values[1])


def _padding(
    padding: int | Sequence[int] | str,
    kernel: Sequence[int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Zeros above, left, below and right."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"stride: got {stride}, expected 1 with padding='same'")
        y, x = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return y // 2, x // 2, y - y // 2, x - x // 2
    if isinstance(padding, str):
        raise ValueError(f"padding: got {padding!r}, expected a number, a pair, 'same' or 'valid'")
    top, left = _pair("padding", padding)
    return top, left, top, left
