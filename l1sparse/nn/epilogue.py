# SPDX-License-Identifier: MIT
"""What a convolution does to its output last: adds a residual and applies an activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from l1sparse.ops import ACTIVATIONS
from l1sparse.reference import activate


def check_activation(activation: str, clamp: tuple[float, float]) -> None:
    """Check the two arguments that say what the activation is.

    Raises:
        ValueError: if `activation` is none of `l1sparse.ops.ACTIVATIONS`, or `clamp` not ascending.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected one of {ACTIVATIONS}")
    if not clamp[0] <= clamp[1]:
        raise ValueError(f"clamp: got {clamp}, expected (least, greatest)")


def apply_epilogue(
    output: Tensor, residual: Any, activation: str, clamp: tuple[float, float]
) -> Tensor:
    """``activation(output + residual)`` in plain torch; `residual` may be None, or broadcast."""
    if residual is not None:
        output = output + residual
    return activate(output, activation, *clamp)


def is_fusable(residual: Any, input: Tensor, output_shape: Sequence[int]) -> bool:
    """Whether kernels can add `residual`: nothing, or a tensor of the output's shape and dtype."""
    return residual is None or (
        isinstance(residual, Tensor)
        and list(residual.shape) == list(output_shape)
        and residual.dtype == input.dtype
    )


def output_shape(conv: nn.Conv2d, input: Tensor, padding: Sequence[int]) -> list[int]:
    """``[N, O, height, width]`` that `conv` makes of `input`, with so many zeros at each side."""
    sizes = zip(input.shape[2:], padding, conv.dilation, conv.kernel_size, conv.stride, strict=True)
    return [
        input.shape[0],
        conv.out_channels,
        *((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, d, k, s in sizes),
    ]
