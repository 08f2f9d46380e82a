# SPDX-License-Identifier: MIT
"""How many cells of a weight have something left, for any size of cell.

Every count that a tiled kernel's work is made of is one of these: tiles of 16 filters and 16
channels that have to be multiplied, columns of activations that some filter of a block needs, and
so on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.group_mask import as_grid_mask, expand_group_mask


class Kept(Protocol):
    """What is left of a weight ``[O, C, kH, kW]``."""

    def cells(self, filters: int, channels: int, taps: bool = True) -> float:
        """Cells of `filters` x `channels` at one tap with a kept weight.

        Cells start at the first filter and channel of each group of the convolution; the last ones
        may be smaller. With `taps` False a cell goes over all taps.
        """

    def weights(self) -> float:
        """Kept weights."""


@dataclass(frozen=True)
class KeptByMask:
    """Counts of a mask, exact."""

    mask: Tensor
    """bool, ``[O, C, kH, kW]``; True keeps."""
    groups: int = 1
    """Of the convolution, not of channels."""

    @classmethod
    def of(
        cls,
        mask: Tensor,
        weight_shape: Sequence[int],
        group: GroupShape | Sequence[int] | str,
        groups: int = 1,
    ) -> KeptByMask:
        """From a mask of the group grid's shape or of the weight's.

        Raises:
            TypeError: see `as_grid_mask`.
            ValueError: see there; or if `groups` does not divide the filters.
        """
        grid = as_grid_mask(mask, weight_shape, group)
        if groups < 1 or weight_shape[0] % groups:
            raise ValueError(f"groups: got {groups}, expected a divisor of {weight_shape[0]}")
        return cls(expand_group_mask(grid, weight_shape, group), groups)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(O, C, kH, kW)``."""
        out, channels, height, width = self.mask.shape
        return out, channels, height, width

    def pooled(self, filters: int, channels: int) -> Tensor:
        """Which cells have a kept weight.

        Returns:
            bool, ``[groups, ceil(O / groups / filters), ceil(C / channels), kH * kW]``.
        """
        out, depth, height, width = self.weight_shape
        per_group = out // self.groups
        rows, columns = -(-per_group // filters), -(-depth // channels)
        x = self.mask.reshape(self.groups, per_group, depth, height * width)
        x = F.pad(x, (0, 0, 0, columns * channels - depth, 0, rows * filters - per_group))
        return x.reshape(self.groups, rows, filters, columns, channels, -1).any(4).any(2)

    def cells(self, filters: int, channels: int, taps: bool = True) -> float:
        """See `Kept.cells`."""
        pooled = self.pooled(filters, channels)
        return float((pooled if taps else pooled.any(-1)).sum())

    def weights(self) -> float:
        """See `Kept.weights`."""
        return float(self.mask.sum())


@dataclass(frozen=True)
class KeptAtRandom:
    """Expected counts where each channel group is kept with probability `density`.

    Density 1 is a dense weight, and its counts are exact.
    """

    weight_shape: tuple[int, int, int, int]
    group: GroupShape
    density: float
    groups: int = 1

    def cells(self, filters: int, channels: int, taps: bool = True) -> float:
        """See `Kept.cells`: a cell over n channel groups is kept with ``1 - (1 - density)^n``."""
        out, depth, height, width = self.weight_shape
        per_group, area = out // self.groups, height * width
        rows = Counter(
            overlaps
            for first in range(0, out, per_group)
            for overlaps in _overlaps(first, per_group, filters, self.group.filters)
        )
        columns = Counter(_overlaps(0, depth, channels, self.group.channels))
        pruned = 1 - self.density
        expected = 0.0
        for (across, n), (along, m) in product(rows.items(), columns.items()):
            meets = across * along * (1 if taps else area)
            expected += n * m * (1 - pruned**meets)
        return expected * (area if taps else 1)

    def weights(self) -> float:
        """See `Kept.weights`."""
        out, depth, height, width = self.weight_shape
        return self.density * out * depth * height * width


def _overlaps(first: int, length: int, cell: int, group: int) -> list[int]:
    """Per cell of `length` items from `first` on, the groups that it overlaps.

    Groups are counted from item 0, cells from `first`.
    """
    counts = []
    for start in range(first, first + length, cell):
        last = min(start + cell, first + length) - 1
        counts.append(last // group - start // group + 1)
    return counts
