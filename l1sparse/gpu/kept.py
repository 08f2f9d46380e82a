# SPDX-License-Identifier: MIT
"""Which groups a packed weight keeps, read from its bytes on the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from l1sparse.format import PackedInfo

# Numbers of 4 bytes in the header of csrc/format/packed.h, and the place of `block_groups` there.
_HEADER_NUMBERS = 16
_BLOCK_GROUPS = 10


def kept_groups(packed: Tensor, info: PackedInfo) -> Tensor:
    """The group mask that a weight was packed with.

    A kept group whose weights are all zero is found too: times an infinite input it gives NaN,
    as in dense convolution.

    Args:
        packed: a result of `l1sparse.pack` that `l1sparse.packed_info` has checked, on the CPU.
        info: what `l1sparse.packed_info` says of it.

    Returns:
        bool, of the group grid's shape.
    """
    numbers = packed.numpy().view(np.uint32)
    rows_of_a_block, block_entries, entries = _rows(info, int(numbers[_BLOCK_GROUPS]))
    rows = rows_of_a_block * -(-entries // block_entries)
    offsets = numbers[_HEADER_NUMBERS : _HEADER_NUMBERS + rows + 1].astype(np.int64)
    first = _HEADER_NUMBERS + rows + 1
    entry = numbers[first : first + info.kept_groups].astype(np.int64)
    row = np.repeat(np.arange(rows) % rows_of_a_block, offsets[1:] - offsets[:-1])
    column, filter_group = (row, entry) if info.strategy == "pixels" else (entry, row)
    grid = info.group.grid(info.weight_shape)
    mask = np.zeros((grid[0], grid[1] * grid[2] * grid[3]), dtype=bool)
    mask[filter_group, column] = True
    return torch.from_numpy(mask.reshape(grid))


def _rows(info: PackedInfo, block_groups: int) -> tuple[int, int, int]:
    """Rows of a block, entries of a block's row, and entries of all blocks together."""
    filter_groups, channel_groups, height, width = info.group.grid(info.weight_shape)
    columns = channel_groups * height * width
    if info.strategy == "pixels":
        return columns, block_groups, filter_groups
    return filter_groups, block_groups * height * width, columns
