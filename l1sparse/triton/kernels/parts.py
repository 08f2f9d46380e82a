# SPDX-License-Identifier: MIT
"""What the two convolution kernels share: where an output pixel lies, and the last step."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def output_pixels(
    tile, pixels, out_h, out_w, stride_h, stride_w, pad_h, pad_w,
    PIXELS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The pixels of a tile: number among all outputs, image, place in it, first input row, column.

    `pixels` counts the outputs of all images, row by row; those of a tile that lie beyond it must
    not be read or written. `WIDE`: numbers and images in 64 bits.
    """
    if WIDE:
        tile = tile.to(tl.int64)
    number = tile * PIXELS + tl.arange(0, PIXELS)
    place = number % (out_h * out_w)
    image = number // (out_h * out_w)
    in_row = ((place // out_w) * stride_h - pad_h).to(tl.int32)
    in_column = ((place % out_w) * stride_w - pad_w).to(tl.int32)
    return number, image, place, in_row, in_column


@triton.jit
def activate(x, low, high, ACTIVATION: tl.constexpr):
    """`l1sparse.reference.activate`; NaN stays NaN, as in torch."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "clamp":
        x = tl.where(x < low, low, x)
        x = tl.where(x > high, high, x)
    elif ACTIVATION == "hardswish":
        inner = tl.where(x + 3 < 0, 0.0, x + 3)
        inner = tl.where(inner > 6, 6.0, inner)
        x = x * inner / 6
    return x
