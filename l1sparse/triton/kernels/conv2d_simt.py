# SPDX-License-Identifier: MIT
"""Group-sparse convolution by ordinary arithmetic: any group shape, any channels, any strides.

A program computes a block of 8 filters for a tile of pixels. For each column of the block, which is
a kernel tap and up to 8 channels, it loads the activations once and gives them to the filters that
kept the column. Pixels lie on the lanes, so NCHW is what it reads best.
"""

from __future__ import annotations

import triton
import triton.language as tl

from l1sparse.triton.kernels.parts import activate, output_pixels

BLOCK_FILTERS = 8


@triton.jit
def _load(input, at, number, channel_stride, channels, inside):
    """The pixels' activations in the column's channel `number`, zeros where it has fewer."""
    there = inside & (number < channels)
    return tl.load(input + at + number * channel_stride, there, 0.0).to(tl.float32)


@triton.jit
def _add(sums, taken, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS: tl.constexpr):
    """Add a filter's products if it kept the column; also gives the number of the next tile."""
    if taken != 0:
        weight = values + tile.to(tl.int64) * CHANNELS
        sums += tl.load(weight) * x0
        if CHANNELS >= 4:
            sums += tl.load(weight + 1) * x1
            sums += tl.load(weight + 2) * x2
            sums += tl.load(weight + 3) * x3
        if CHANNELS == 8:
            sums += tl.load(weight + 4) * x4
            sums += tl.load(weight + 5) * x5
            sums += tl.load(weight + 6) * x6
            sums += tl.load(weight + 7) * x7
        tile += 1
    return sums, tile


@triton.jit
def _finish(
    sums, filter, exists, bias, residual, to, output, is_pixel, low, high,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Bias, residual and activation of one filter; `to` is where its outputs lie."""
    if exists:
        if HAS_BIAS:
            sums += tl.load(bias + filter)
        if HAS_RESIDUAL:
            sums += tl.load(residual + to, is_pixel, 0.0).to(tl.float32)
        sums = activate(sums, low, high, ACTIVATION)
        tl.store(output + to, sums.to(output.dtype.element_ty), is_pixel)


@triton.jit
def conv2d_simt_kernel(
    input, values, block_offsets, columns, masks, tile_offsets, bias, residual, output,
    pixels, in_h, in_w, out_h, out_w, group_filters, blocks, blocks_per_group,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    in_n, in_c, in_y, in_x, image_stride, filter_stride, pixel_stride, low, high,
    CHANNELS: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """`in_*` are the input's strides, the others those of output and residual.

    `CHANNELS`: of a column, 8, 4 or 1.
    """
    # Programs that follow each other read the same activations for other filters.
    block = tl.program_id(0) % blocks
    number, image, place, in_row, in_column = output_pixels(
        tl.program_id(0) // blocks, pixels, out_h, out_w,
        stride_h, stride_w, pad_h, pad_w, PIXELS, WIDE,
    )  # fmt: skip
    is_pixel = number < pixels
    if WIDE:
        in_c = tl.cast(in_c, tl.int64)
        in_y = tl.cast(in_y, tl.int64)
        in_x = tl.cast(in_x, tl.int64)
        filter_stride = tl.cast(filter_stride, tl.int64)
    first_pixel = image * in_n + in_row * in_y + in_column * in_x
    zeros = tl.zeros((PIXELS,), tl.float32)
    s0, s1, s2, s3, s4, s5, s6, s7 = zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros
    for column in range(tl.load(block_offsets + block), tl.load(block_offsets + block + 1)):
        tap_row = tl.load(columns + column * 4) * dilation_h
        tap_column = tl.load(columns + column * 4 + 1) * dilation_w
        channel = tl.load(columns + column * 4 + 2)
        channels = tl.load(columns + column * 4 + 3)
        row = in_row + tap_row
        col = in_column + tap_column
        inside = (row >= 0) & (row < in_h) & (col >= 0) & (col < in_w) & is_pixel
        at = first_pixel + (tap_row * in_y + tap_column * in_x + channel * in_c)
        x0 = _load(input, at, 0, in_c, channels, inside)
        x1, x2, x3, x4, x5, x6, x7 = x0, x0, x0, x0, x0, x0, x0  # where columns have fewer
        if CHANNELS >= 4:
            x1 = _load(input, at, 1, in_c, channels, inside)
            x2 = _load(input, at, 2, in_c, channels, inside)
            x3 = _load(input, at, 3, in_c, channels, inside)
        if CHANNELS == 8:
            x4 = _load(input, at, 4, in_c, channels, inside)
            x5 = _load(input, at, 5, in_c, channels, inside)
            x6 = _load(input, at, 6, in_c, channels, inside)
            x7 = _load(input, at, 7, in_c, channels, inside)
        mask = tl.load(masks + column)
        tile = tl.load(tile_offsets + column)
        s0, tile = _add(s0, mask & 1, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s1, tile = _add(s1, mask & 2, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s2, tile = _add(s2, mask & 4, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s3, tile = _add(s3, mask & 8, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s4, tile = _add(s4, mask & 16, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s5, tile = _add(s5, mask & 32, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s6, tile = _add(s6, mask & 64, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)
        s7, tile = _add(s7, mask & 128, values, tile, x0, x1, x2, x3, x4, x5, x6, x7, CHANNELS)

    within = (block % blocks_per_group) * 8
    first = (block // blocks_per_group) * group_filters + within
    to = image * image_stride + place * pixel_stride
    for i in tl.static_range(8):
        sums = s0
        if i == 1:
            sums = s1
        if i == 2:
            sums = s2
        if i == 3:
            sums = s3
        if i == 4:
            sums = s4
        if i == 5:
            sums = s5
        if i == 6:
            sums = s6
        if i == 7:
            sums = s7
        _finish(
            sums, first + i, within + i < group_filters, bias, residual,
            to + (first + i) * filter_stride, output, is_pixel, low, high,
            ACTIVATION, HAS_BIAS, HAS_RESIDUAL,
        )  # fmt: skip
