# SPDX-License-Identifier: MIT
"""Group-sparse convolution on tensor cores: one matrix product for every kept tile.

A program computes a strip of 16 filters for a tile of pixels. For each column of the strip, which
is a kernel tap and `TILE_CHANNELS` channels, it multiplies the strip's weights [16, channels] with
the activations [channels, pixels] that the tap sees. Activations are channels_last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from l1sparse.triton.kernels.parts import activate, output_pixels


@triton.jit
def conv2d_dot_kernel(
    input, tiles, block_offsets, columns, filter_order, bias, residual, output,
    pixels, in_h, in_w, in_channels, out_h, out_w, group_filters, strips, strips_per_group,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    image_stride, filter_stride, pixel_stride, low, high,
    TILE_CHANNELS: tl.constexpr, ACTIVATION: tl.constexpr, HAS_ORDER: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, WIDE: tl.constexpr,
    PIXELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`COLUMNS` columns go into one product; the strides are those of output and residual."""
    # Programs that follow each other read the same activations for other filters.
    strip = tl.program_id(0) % strips
    number, image, place, in_row, in_column = output_pixels(
        tl.program_id(0) // strips, pixels, out_h, out_w,
        stride_h, stride_w, pad_h, pad_w, PIXELS, WIDE,
    )  # fmt: skip
    is_pixel = number < pixels
    first_pixel = ((image * in_h + in_row) * in_w + in_column) * in_channels

    k = tl.arange(0, COLUMNS * TILE_CHANNELS)
    channel = k % TILE_CHANNELS
    m = tl.arange(0, 16)
    sums = tl.zeros((16, PIXELS), tl.float32)
    begin = tl.load(block_offsets + strip)
    end = tl.load(block_offsets + strip + 1)
    for column in range(begin, end, COLUMNS):
        mine = column + k // TILE_CHANNELS
        there = mine < end
        tap_row = tl.load(columns + mine * 4, there, 0) * dilation_h
        tap_column = tl.load(columns + mine * 4 + 1, there, 0) * dilation_w
        first_channel = tl.load(columns + mine * 4 + 2, there, 0)
        first_channel = tl.max_constancy(
            tl.multiple_of(first_channel, TILE_CHANNELS), TILE_CHANNELS
        )
        tile = mine.to(tl.int64)[None, :] * (16 * TILE_CHANNELS)
        weights = tl.load(
            tiles + tile + m[:, None] * TILE_CHANNELS + channel[None, :], there[None, :], 0.0
        )
        at = (tap_row * in_w + tap_column) * in_channels + first_channel + channel
        row = in_row[None, :] + tap_row[:, None]
        col = in_column[None, :] + tap_column[:, None]
        inside = (row >= 0) & (row < in_h) & (col >= 0) & (col < in_w)
        inside &= is_pixel[None, :] & there[:, None]
        activations = tl.load(input + (first_pixel[None, :] + at[:, None]), inside, 0.0)
        sums = tl.dot(weights, activations, sums, input_precision="tf32")

    within = (strip % strips_per_group) * 16 + m
    filter = (strip // strips_per_group) * group_filters + within
    is_filter = within < group_filters
    if HAS_ORDER:
        filter = tl.load(filter_order + filter, is_filter, 0)
    if HAS_BIAS:
        sums += tl.load(bias + filter, is_filter, 0.0)[:, None]
    if WIDE:
        filter = filter.to(tl.int64)
    to = filter[:, None] * filter_stride + (image * image_stride + place * pixel_stride)[None, :]
    store = is_filter[:, None] & is_pixel[None, :]
    if HAS_RESIDUAL:
        sums += tl.load(residual + to, store, 0.0).to(tl.float32)
    sums = activate(sums, low, high, ACTIVATION)
    tl.store(output + to, sums.to(output.dtype.element_ty), store)
