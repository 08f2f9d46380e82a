# SPDX-License-Identifier: MIT
"""An order of filters in which strips of 16 share columns, so that tensor cores can skip more.

A tensor-core tile can be skipped only where all 16 filters of its strip pruned it. With masks that
every filter has of its own that is rare; bringing together filters that kept the same columns makes
it more frequent. A *column* is a tap and a run of channels as wide as a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l1sparse.gpu.cells import KeptByMask

STRIP = 16


@dataclass(frozen=True)
class FilterOrder:
    """A permutation of filters within their convolution groups, and what it is good for."""

    order: Tensor
    """int64, ``[O]``: the i-th filter is filter ``order[i]`` of the weight."""
    tiles_before: int
    """Tiles with a kept weight, filters in the weight's own order."""
    tiles_after: int
    kept_weights: int
    tile_weights: int
    """Of one tile."""

    @property
    def fill_in_before(self) -> float:
        """Stored weights over kept ones in the weight's own order; 1 where nothing is kept."""
        return self._fill_in(self.tiles_before)

    @property
    def fill_in_after(self) -> float:
        """The same in this order."""
        return self._fill_in(self.tiles_after)

    @property
    def is_identity(self) -> bool:
        """Whether no order was found that is better than the weight's own."""
        return bool((self.order == torch.arange(len(self.order))).all())

    def _fill_in(self, tiles: int) -> float:
        return tiles * self.tile_weights / self.kept_weights if self.kept_weights else 1.0


def filter_order(kept: KeptByMask, channels: int, strips: int = 4) -> FilterOrder:
    """Order filters so that fewer tiles have a kept weight; never more than in their own order.

    Per convolution group: strips are built one after another, each from the filter that has the
    most columns left, then whichever filter brings the fewest new ones (a tie goes to the larger
    overlap, then to the earlier filter). Strips are brought together to blocks in the same way.
    Where this is no better than the weight's own order, that is kept. Deterministic.

    Args:
        kept: the mask.
        channels: of a tile, 16 or 8 for float32.
        strips: of a block of threads, which reads a column once for all of them.
    """
    columns = kept.pooled(1, channels).flatten(2)  # [groups, filters, columns]
    per_group = columns.shape[1]
    orders = []
    before = after = 0
    for number, own in enumerate(columns):
        order = _brought_together(own, strips)
        tiles = [_unions(own[rows], STRIP) for rows in (torch.arange(per_group), order)]
        blocks = [_unions(own[rows], STRIP * strips) for rows in (torch.arange(per_group), order)]
        if (int(tiles[1].sum()), int(blocks[1].sum())) >= (
            int(tiles[0].sum()),
            int(blocks[0].sum()),
        ):
            order, tiles[1] = torch.arange(per_group), tiles[0]
        before, after = before + int(tiles[0].sum()), after + int(tiles[1].sum())
        orders.append(order + number * per_group)
    return FilterOrder(torch.cat(orders), before, after, int(kept.weights()), STRIP * channels)


def _brought_together(columns: Tensor, strips: int) -> Tensor:
    """Rows in an order in which strips, and blocks of strips, share columns."""
    in_strips = _clusters(columns, STRIP)
    full = len(in_strips) // STRIP * STRIP
    # A last strip of fewer filters stays last: the others have to start at multiples of 16.
    unions = _unions(columns[in_strips[:full]], STRIP)
    strip_order = _clusters(unions, strips)
    whole = in_strips[:full].reshape(-1, STRIP)[strip_order].flatten()
    return torch.cat([whole, in_strips[full:]])


def _clusters(rows: Tensor, size: int) -> Tensor:
    """An order of bool `rows` whose runs of `size` have small unions."""
    values = rows.to(torch.float32)
    free = torch.ones(len(rows), dtype=torch.bool)
    counts = values.sum(1)
    order: list[int] = []
    union = torch.zeros(rows.shape[1])
    while len(order) < len(rows):
        if len(order) % size == 0:
            score = counts.clone()
        else:
            shared = values @ union
            # Fewest new columns first; of these the largest overlap, which is below the step.
            score = -(counts - shared) * (rows.shape[1] + 1) + shared
        score[~free] = -torch.inf
        best = int(score.argmax())
        union = values[best] if len(order) % size == 0 else torch.maximum(union, values[best])
        free[best] = False
        order.append(best)
    return torch.tensor(order, dtype=torch.int64)


def _unions(rows: Tensor, size: int) -> Tensor:
    """For every run of `size` rows, the columns that any of them has."""
    return torch.stack([part.any(0) for part in rows.split(size)]) if len(rows) else rows
