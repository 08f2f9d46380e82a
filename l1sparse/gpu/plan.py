# SPDX-License-Identifier: MIT
"""A packed weight in the order in which a GPU kernel reads it.

A *block* is a run of consecutive filters of one convolution group, handled together. A *column* is
one kernel tap and a run of consecutive channels; a block lists the columns that any of its filters
kept. A *tile* holds a column's weights for some of the block's filters; a column's tiles follow
each other in ascending order of filters, and a bit mask says which filters have one.

==============  ==================  ==================  =================
layout          filters of a block  filters of a tile   channels of a tile
==============  ==================  ==================  =================
`tensor_core`   16 a strip          16 (a strip)        16; 8 for float32
`compressed`    64                  1                   8; 4 for float32
`simt`          64                  1                   8, 4 or 1
==============  ==================  ==================  =================

In `compressed` a column is as wide as in `tensor_core`: two tiles for each of its filters.

The last block of a convolution group may have fewer filters, the last tile of a filter fewer
channels (`simt`); what is missing is zero. Blocks of convolution group g come before those of
g + 1. Everything here is plain torch, on any device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 16
STRIPS = 4
SIMT_FILTERS = 64
SIMT_CHANNELS = (8, 4, 1)
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Plan:
    """The arrays of a layout; all index arrays are int32 and contiguous."""

    layout: str
    """``"tensor_core"``, ``"compressed"`` or ``"simt"``."""
    weight_shape: tuple[int, int, int, int]
    """``(O, C / groups, kH, kW)``."""
    groups: int
    """Convolution groups."""
    block_filters: int
    """Filters of a full block."""
    tile_filters: int
    tile_channels: int
    kept_weights: int
    """Weights that the mask keeps."""
    block_offsets: Tensor
    """``[blocks + 1]``: a block's first column."""
    block_order: Tensor
    """``[blocks]``: blocks in descending order of work."""
    columns: Tensor
    """``[columns, 4]``: tap row, tap column, first channel in the whole input, and how many
    channels there are (`simt`), the mask of strips that kept the column (`tensor_core`) or how many
    tiles the column has (`compressed`)."""
    masks: Tensor
    """``[columns, words]``: bit i of the words (of 32 bits, least first) is set where the block's
    i-th run of `tile_filters` has a tile. `compressed`: a word for each strip; its bit 16 h + r is
    set where the strip's filter r has a tile of the column's half h."""
    tile_offsets: Tensor
    """``[columns + 1]``: the column's first tile."""
    values: Tensor
    """The tiles. `simt`: ``[tiles, tile_channels]``, float32. `compressed`: the same in the dtype
    of `tensor_core`, in the order of the bits of `masks`. `tensor_core`: ``[tiles, 32, n]``, what
    each of 32 lanes holds of the matrix operand A of ``mma.m16n8k16`` or ``mma.m16n8k8``; or,
    if made so, ``[tiles, 16, tile_channels]``."""
    filter_order: Tensor | None
    """``[O]``: the block's i-th filter is filter ``filter_order[i]`` of the weight; None: i."""

    @functools.cached_property
    def blocks(self) -> int:
        """Blocks of all convolution groups together."""
        return len(self.block_offsets) - 1

    @functools.cached_property
    def columns_per_block(self) -> int:
        """On average, rounded down."""
        return len(self.columns) // self.blocks

    @property
    def blocks_per_group(self) -> int:
        """Blocks of one convolution group."""
        return self.blocks // self.groups

    @property
    def fill_in(self) -> float:
        """Stored weights over kept ones, 1 at best; 1 where nothing is kept."""
        return self.values.numel() / self.kept_weights if self.kept_weights else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def to(self, device: torch.device | str) -> Plan:
        """The same plan with its arrays on `device`."""
        moved: dict[str, Any] = {k: tensor.to(device) for k, tensor in self._arrays().items()}
        return dataclasses.replace(self, **moved)

    def tensors(self) -> list[Tensor]:
        """All arrays."""
        return list(self._arrays().values())

    def _arrays(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def tensor_core_channels(dtype: torch.dtype) -> int:
    """Channels of a tile for the tensor cores: 32 bytes of activations."""
    return 32 // dtype.itemsize


def fits_tensor_cores(weight_shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether the channels of a pixel divide into aligned tiles; else only `simt` will do."""
    return weight_shape[1] % tensor_core_channels(dtype) == 0


def simt_channels(group_channels: int) -> int:
    """Channels of a tile that no pruned weight falls into, for groups of so many channels."""
    return next(channels for channels in SIMT_CHANNELS if group_channels % channels == 0)


def tensor_core_plan(
    weight: Tensor,
    mask: Tensor,
    groups: int,
    dtype: torch.dtype,
    *,
    fragments: bool = True,
    strips: int = STRIPS,
    filter_order: Tensor | None = None,
    taps_together: bool = False,
) -> Plan:
    """The layout for tensor cores: a tile is kept whole where any of its weights is kept.

    Args:
        weight: ``[O, C / groups, kH, kW]``, float32.
        mask: bool, of the weight's shape; False marks a pruned weight.
        groups: convolution groups.
        dtype: of the activations and tiles; float32 is rounded to TF32 (ties away from zero).
        fragments: whether tiles are in the order of the lanes that hold them.
        strips: strips of a block.
        filter_order: ``[O]``, whole numbers: a permutation of the filters within each
            convolution group; strips are made of filters that follow each other in it.
        taps_together: the taps of a channel tile follow each other, which read mostly the same
            pixels; else the channel tiles of a tap do.

    Raises:
        ValueError: if the channels do not divide into tiles, or `filter_order` is no permutation
            within convolution groups.
    """
    parts = _Parts(
        weight,
        mask,
        groups,
        STRIP,
        strips,
        _checked_step(weight, dtype),
        filter_order=filter_order,
        taps_together=taps_together,
    )
    tiles = _rounded(parts.tiles, dtype)
    columns = torch.cat([parts.columns, parts.masks[:, :1]], 1)
    values = as_fragments(tiles) if fragments else tiles
    return parts.plan("tensor_core", columns, values.contiguous())


def compressed_plan(
    weight: Tensor,
    mask: Tensor,
    groups: int,
    dtype: torch.dtype,
    *,
    filter_order: Tensor | None = None,
) -> Plan:
    """The layout for tensor cores that stores kept weights only, in runs of 16 bytes of a filter.

    A run is kept whole where any of its weights is kept. The taps of a channel tile follow each
    other.

    Args:
        weight: ``[O, C / groups, kH, kW]``, float32.
        mask: bool, of the weight's shape; False marks a pruned weight.
        groups: convolution groups.
        dtype: of the activations and tiles, see `tensor_core_plan`.
        filter_order: see `tensor_core_plan`.

    Raises:
        ValueError: see `tensor_core_plan`.
    """
    parts = _Parts(
        weight,
        mask,
        groups,
        STRIP,
        STRIPS,
        _checked_step(weight, dtype),
        filter_order=filter_order,
        taps_together=True,
    )
    halves = parts.tiles.unflatten(2, (2, -1)).transpose(1, 2)  # tile, half, filter, channel
    kept = parts.tile_masks.unflatten(2, (2, -1)).transpose(1, 2).any(-1).flatten(1)
    pieces = halves.flatten(1, 2)[kept]
    _check_count(len(pieces))
    strip_has_tile = (parts.masks[:, :1] >> torch.arange(STRIPS, device=kept.device) & 1).bool()
    counts = parts.masks.new_zeros(strip_has_tile.shape)
    counts[strip_has_tile] = kept.sum(1)
    masks = torch.zeros_like(counts)
    masks[strip_has_tile] = (kept.to(torch.int64) << torch.arange(32, device=kept.device)).sum(1)
    pieces_of_column = counts.sum(1)
    columns = torch.cat([parts.columns, pieces_of_column[:, None]], 1)
    plan = parts.plan("compressed", columns, _rounded(pieces, dtype).contiguous())
    return dataclasses.replace(
        plan,
        tile_filters=1,
        tile_channels=pieces.shape[1],
        masks=masks.to(torch.int32),
        tile_offsets=_offsets(pieces_of_column).to(torch.int32),
    )


def simt_plan(
    weight: Tensor,
    mask: Tensor,
    groups: int,
    *,
    channels: int = SIMT_CHANNELS[0],
    block_filters: int = SIMT_FILTERS,
    step: int = 1,
) -> Plan:
    """The layout for ordinary arithmetic: any group shape, any number of channels.

    Args:
        weight: ``[O, C / groups, kH, kW]``, float32.
        mask: bool, of the weight's shape; False marks a pruned weight.
        groups: convolution groups.
        channels: of a tile, one of `SIMT_CHANNELS`; see `simt_channels`.
        block_filters: filters of a block.
        step: columns come in steps of so many, side by side at one tap, from a multiple of so many
            on; where only some of a step are kept, all are listed, the others without channels.
    """
    parts = _Parts(weight, mask, groups, 1, block_filters, channels, step=step)
    valid = (weight.shape[1] - parts.first_channel).clamp(0, channels)
    valid = valid * (parts.masks != 0).any(1)
    columns = torch.cat([parts.columns, valid[:, None]], 1)
    return parts.plan("simt", columns, parts.tiles.flatten(1).contiguous())


def as_fragments(tiles: Tensor) -> Tensor:
    """``[tiles, 16, k]`` as ``[tiles, 32, k / 2]``: what each lane of a warp gives ``mma.sync``.

    Lane ``4 g + t`` holds the words (a word is one float32 or two neighbouring halves) of rows g
    and g + 8 at word columns t and t + 4: ``(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)``.
    """
    word = tiles.shape[2] // 8
    parts = tiles.reshape(-1, 2, 8, 2, 4, word)  # tile, row half, g, column half, t, in word
    return parts.permute(0, 2, 4, 3, 1, 5).reshape(-1, 32, 4 * word)


def round_to_tf32(values: Tensor) -> Tensor:
    """float32 with 10 bits of mantissa, nearest, ties away from zero (``cvt.rna.tf32``)."""
    bits = values.contiguous().view(torch.int32)
    rounded = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values)


class _Parts:
    """What all layouts have in common: which tiles there are, in order, and their weights."""

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        groups: int,
        tile_filters: int,
        runs: int,
        tile_channels: int,
        *,
        filter_order: Tensor | None = None,
        taps_together: bool = False,
        step: int = 1,
    ) -> None:
        self.shape = tuple(weight.shape)
        self.groups, self.runs = groups, runs
        self.tile_filters, self.tile_channels, self.step = tile_filters, tile_channels, step
        self.kept_weights = int(mask.sum())
        self.filter_order = None
        if filter_order is not None:
            order = _checked_order(filter_order, weight.shape[0], groups)
            weight, mask = weight[order], mask[order]
            self.filter_order = order.to(torch.int32)
        kept = self._as_tiles(torch.where(mask, weight, torch.zeros_like(weight)))
        which = self._as_tiles(mask)
        if taps_together:
            kept, which = kept.transpose(1, 2), which.transpose(1, 2)
        # [block, tap, channel tile, run of filters]; or channel tiles before taps
        has_tile = which.any(-1).any(-1)
        has_column = has_tile.any(-1)
        if step > 1:
            of_step = has_column.unflatten(-1, (-1, step)).any(-1)
            has_column = of_step.repeat_interleave(step, -1)
        self.tiles = kept[has_tile]
        self.tile_masks = which[has_tile]
        _check_count(len(self.tiles))

        block, *place = has_column.nonzero().unbind(1)
        tap, channel_tile = reversed(place) if taps_together else place
        group = block // (has_column.shape[0] // groups)
        width = self.shape[3]
        self.first_channel = channel_tile * tile_channels  # in the convolution group
        first = group * self.shape[1] + self.first_channel
        self.columns = torch.stack([tap // width, tap % width, first], 1)
        bits = has_tile[has_column].to(torch.int64)
        words = F.pad(bits, (0, -runs % 32)).reshape(len(bits), -(-runs // 32), 32)
        self.masks = (words << torch.arange(32, device=bits.device)).sum(2)
        self.tiles_of_column = bits.sum(1)
        self.columns_of_block = has_column.flatten(1).sum(1)
        self.tiles_of_block = has_tile.flatten(1).sum(1)

    def _as_tiles(self, weight: Tensor) -> Tensor:
        """``[blocks, taps, channel tiles, runs, tile filters, tile channels]``, zero-filled."""
        filters, channels = weight.shape[0] // self.groups, weight.shape[1]
        parts = weight.reshape(self.groups, filters, channels, -1)
        missing_filters = -filters % (self.runs * self.tile_filters)
        missing_channels = -channels % (self.tile_channels * self.step)
        parts = F.pad(parts, (0, 0, 0, missing_channels, 0, missing_filters))
        taps = parts.shape[3]
        parts = parts.reshape(
            -1, self.runs, self.tile_filters, parts.shape[2] // self.tile_channels,
            self.tile_channels, taps,
        )  # fmt: skip
        return parts.permute(0, 5, 3, 1, 2, 4)

    def plan(self, layout: str, columns: Tensor, values: Tensor) -> Plan:
        # A column costs about as much to bring in as a tile of it costs to use.
        work = self.columns_of_block + self.tiles_of_block
        return Plan(
            layout=layout,
            weight_shape=self.shape,  # type: ignore[arg-type]
            groups=self.groups,
            block_filters=self.runs * self.tile_filters,
            tile_filters=self.tile_filters,
            tile_channels=self.tile_channels,
            kept_weights=self.kept_weights,
            block_offsets=_offsets(self.columns_of_block).to(torch.int32),
            block_order=work.argsort(descending=True, stable=True).to(torch.int32),
            columns=columns.to(torch.int32).contiguous(),
            masks=self.masks.to(torch.int32),
            tile_offsets=_offsets(self.tiles_of_column).to(torch.int32),
            values=values,
            filter_order=self.filter_order,
        )


def _checked_step(weight: Tensor, dtype: torch.dtype) -> int:
    """Channels of a tile for tensor cores, if the weight's divide into such."""
    step = tensor_core_channels(dtype)
    if not fits_tensor_cores(tuple(weight.shape), dtype):
        raise ValueError(
            f"weight: {weight.shape[1]} channels do not divide into tiles of {step}, which tensor "
            f"cores need for {str(dtype).removeprefix('torch.')}"
        )
    return step


def _rounded(tiles: Tensor, dtype: torch.dtype) -> Tensor:
    """As the tensor cores take weights."""
    return tiles.to(dtype) if dtype != torch.float32 else round_to_tf32(tiles)


def _offsets(counts: Tensor) -> Tensor:
    """Where each of consecutive runs begins, and where the last one ends."""
    return F.pad(counts.cumsum(0), (1, 0))


def _check_count(tiles: int) -> None:
    if tiles > _INT32_MAX:
        raise ValueError(f"weight: has {tiles} tiles, expected at most {_INT32_MAX}")


def _checked_order(filter_order: Tensor, filters: int, groups: int) -> Tensor:
    order = filter_order.to(torch.int64)
    every = torch.arange(filters, device=order.device)
    per_group = filters // groups
    if order.shape != every.shape or not (
        torch.equal(order.sort().values, every)
        and torch.equal(order // per_group, every // per_group)
    ):
        raise ValueError(
            f"filter_order: is no permutation of {math.prod(every.shape)} filters that keeps them "
            "in their convolution groups"
        )
    return order
