# SPDX-License-Identifier: MIT
"""`l1sparse._cuda` for tensors on the CPU: reads the arrays at the addresses it is given.

By plain loops and in float64, as csrc/kernels/conv2d/gpu.h says what the arrays hold; so that what
the CUDA backend passes to a launcher is what the launcher needs.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

launches: list[dict[str, Any]] = []


def array(address: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """What lies at an address, without a copy."""
    assert address, "the address of no array"
    count = int(np.prod(shape))
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype, count=count).reshape(shape)


def group_l1_norm(**given: Any) -> None:
    assert set(given) == {"device", "stream", "dtype", "weight", "norms", "shape", "group"}
    launches.append(given)
    filters, channels, taps = given["shape"]
    weight = array(given["weight"], getattr(torch, given["dtype"]), given["shape"])
    rows, columns = -(-filters // given["group"][0]), -(-channels // given["group"][1])
    norms = array(given["norms"], torch.float32, (rows, columns, taps))
    for row, part in enumerate(weight.split(given["group"][0], 0)):
        for column, cell in enumerate(part.split(given["group"][1], 1)):
            norms[row, column] = cell.double().abs().mean((0, 1)).float()


def tensor_core_conv2d(**given: Any) -> None:
    strips, pixels = given.pop("strips"), given.pop("pixels")
    assert (strips, pixels) in ((4, 64), (4, 128), (8, 128))
    dtype = getattr(torch, given["dtype"])
    word = 4 // dtype.itemsize
    assert given["input"] % 16 == 0
    assert given["tiles"] % 16 == 0

    def tile(number: int, channels: int) -> Tensor:
        lanes = array(given["tiles"] + 512 * number, dtype, (32, 4 * word))
        matrix = torch.empty(16, 8 * word, dtype=dtype)
        for lane in range(32):
            g, t = divmod(lane, 4)
            for i, (row, column) in enumerate(((g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4))):
                words = slice(column * word, (column + 1) * word)
                matrix[row, words] = lanes[lane, i * word : (i + 1) * word]
        assert channels == 8 * word
        return matrix

    def has_tile(column: int, last: int, run: int) -> bool:
        return bool(last >> run & 1)

    _convolve(given, 16, strips, lambda last: 8 * word, has_tile, tile)


def compressed_conv2d(**given: Any) -> None:
    piece_masks = given.pop("piece_masks")
    dtype = getattr(torch, given["dtype"])
    half = 16 // dtype.itemsize
    blocks = given["blocks"]
    count = int(array(given["block_offsets"], torch.int32, (blocks + 1,))[-1])
    masks = array(piece_masks, torch.int32, (count, 4)) if count else torch.empty(0, 4)
    assert given["input"] % 16 == given["tiles"] % 16 == piece_masks % 16 == 0
    piece = 0
    # In the order in which `_convolve` asks for them.
    words = iter([int(mask) for mask in masks.flatten() if mask])

    def tile(number: int, channels: int) -> Tensor:
        nonlocal piece
        word = next(words)
        matrix = torch.zeros(16, 2 * half, dtype=dtype)
        for bit in range(32):
            if word >> bit & 1:
                kept = array(given["tiles"] + 16 * piece, dtype, (half,))
                matrix[bit % 16, bit // 16 * half :][:half] = kept
                piece += 1
        return matrix

    def has_tile(column: int, last: int, run: int) -> bool:
        if run == 0:
            offsets = array(given["tile_offsets"], torch.int32, (column + 2,))
            assert piece == offsets[column]
            assert last == offsets[column + 1] - piece
        return bool(masks[column, run])

    _convolve(given, 16, 4, lambda last: 2 * half, has_tile, tile, counted=False)
    assert piece == int(array(given["tile_offsets"], torch.int32, (count + 1,))[-1])


def simt_conv2d(**given: Any) -> None:
    chunk, order = given.pop("chunk"), given.pop("block_order")
    masks = given.pop("filter_masks")
    assert chunk in (8, 4, 1)
    blocks = given["blocks"]
    assert sorted(array(order, torch.int32, (blocks,)).tolist()) == list(range(blocks))

    def tile(number: int, channels: int) -> Tensor:
        return array(given["tiles"] + 4 * chunk * number, torch.float32, (1, chunk))[:, :channels]

    def has_tile(column: int, last: int, run: int) -> bool:
        word = int(array(masks, torch.int32, (column + 1, 2))[column, run // 32])
        return bool(word >> (run % 32) & 1)

    _convolve(given, 1, 64, lambda last: last, has_tile, tile)


def _convolve(
    given: dict[str, Any], tile_filters: int, runs: int, channels_of: Any, has_tile: Any, tile: Any,
    counted: bool = True,
) -> None:  # fmt: skip
    """`counted`: whether tile offsets count what `tile` gives."""
    assert set(given) == {
        "device", "stream", "dtype", "input", "output", "bias", "residual", "filter_order",
        "block_offsets", "columns", "tile_offsets", "tiles", "partial", "blocks", "splits",
        "input_shape", "output_shape", "stride", "padding", "dilation", "groups", "activation",
        "clamp",
    }  # fmt: skip
    launches.append(given)
    dtype = getattr(torch, given["dtype"])
    batch, in_channels, height, width = given["input_shape"]
    _, filters, out_h, out_w = given["output_shape"]
    pixels, blocks, groups = batch * out_h * out_w, given["blocks"], given["groups"]
    input = array(given["input"], dtype, (batch, height, width, in_channels)).double()
    offsets = array(given["block_offsets"], torch.int32, (blocks + 1,)).tolist()
    columns = array(given["columns"], torch.int32, (offsets[-1], 4)) if offsets[-1] else None
    first_tiles = array(given["tile_offsets"], torch.int32, (offsets[-1] + 1,)).tolist()
    sums = torch.zeros(batch, out_h, out_w, filters, dtype=torch.float64)
    group_filters, per_group = filters // groups, blocks // groups
    order = list(range(filters))
    if given["filter_order"]:
        order = array(given["filter_order"], torch.int32, (filters,)).tolist()
    for block in range(blocks):
        group, within = divmod(block, per_group)
        for column in range(offsets[block], offsets[block + 1]):
            y, x, channel, last = columns[column].tolist()
            count = channels_of(last)
            seen = _seen(input, y, x, given, (out_h, out_w))[..., channel : channel + count]
            number = first_tiles[column]
            for run in range(runs):
                if not has_tile(column, last, run):
                    continue
                products = seen @ tile(number, count).double().T
                number += 1
                for i in range(tile_filters):
                    place = (within * runs + run) * tile_filters + i
                    if place < group_filters:
                        sums[..., order[group * group_filters + place]] += products[..., i]
            assert not counted or number == first_tiles[column + 1]
    if given["bias"]:
        sums += array(given["bias"], torch.float32, (filters,)).double()
    shape = (batch, out_h, out_w, filters)
    if given["residual"]:
        sums += array(given["residual"], dtype, shape).double()
    low, high = given["clamp"]
    last_step = {
        "none": lambda s: s,
        "relu": torch.relu,
        "clamp": lambda s: s.clamp(low, high),
        "hardswish": torch.nn.functional.hardswish,
    }
    array(given["output"], dtype, shape).copy_(last_step[given["activation"]](sums))
    if given["splits"] > 1:  # there has to be room for every partial sum
        rows = runs * tile_filters * blocks
        array(given["partial"], torch.float32, (given["splits"], pixels, rows)).fill_(0)
    else:
        assert given["partial"] == 0


def _seen(input: Tensor, y: int, x: int, given: dict[str, Any], size: tuple[int, int]) -> Tensor:
    """What each output pixel sees at a tap."""
    (top, left), (down, right) = given["padding"], given["dilation"]
    step_h, step_w = given["stride"]
    out_h, out_w = size
    padded = torch.nn.functional.pad(input, (0, 0, left, left, top, top))
    rows = padded[:, y * down :: step_h][:, :out_h]
    return rows[:, :, x * right :: step_w][:, :, :out_w]
