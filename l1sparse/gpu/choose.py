# SPDX-License-Identifier: MIT
"""Which layout a weight gets on a chip, by the model of `l1sparse.gpu.model`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from l1sparse.gpu.cells import Kept, KeptByMask
from l1sparse.gpu.chips import Chip
from l1sparse.gpu.model import (
    CHUNKS,
    COMPRESSED_TILING,
    MMA_CHANNELS,
    SIMT_TILING,
    TENSOR_CORE_TILINGS,
    Convolution,
    Floor,
    Tiling,
    Work,
    compressed_work,
    floor,
    simt_work,
    tensor_core_work,
)
from l1sparse.gpu.permute import STRIP, filter_order

MOST_TILES_LEFT = 0.5
"""Of the tiles, for filters in another order to be worth it: each output is then written by itself,
which on an H200 took longer than the arithmetic that the order saved."""


@dataclass(frozen=True)
class Choice:
    """A layout, and what it costs."""

    layout: str
    """``"tensor_core"``, ``"compressed"`` or ``"simt"``."""
    tiling: Tiling
    channels: int
    """Of a column: the width of an ``mma``, or what a SIMT chunk has."""
    order: Tensor | None
    """int64, ``[O]``: filters permuted (see `FilterOrder.order`), or None: in their own order."""
    work: Work
    floor: Floor

    @property
    def fill_in(self) -> float:
        """Stored weights over kept ones."""
        return self.work.fill_in

    @property
    def cost(self) -> float:
        """Microseconds if no limit overlapped another: what choices are compared by."""
        return sum(self.floor.limits.values())


def choose_layout(
    conv: Convolution,
    kept: Kept,
    chip: Chip,
    *,
    tensor_cores: bool = True,
    permute: bool = True,
    warm: bool = False,
) -> Choice:
    """The layout and tiling with the least `Choice.cost`.

    It is the sum of the limits, and not the longest, because the longest is often the same for
    all: a layer that waits for DRAM does so in any layout, and then the rest of the work decides.

    Args:
        conv: what to compute.
        kept: of its weight.
        chip: see `chip_like`.
        tensor_cores: False rules them out, as where float32 must not be rounded to TF32.
        permute: False keeps filters in their own order, as they are without a mask.
        warm: see `floor`.
    """
    return min(
        considered(conv, kept, chip, tensor_cores=tensor_cores, permute=permute, warm=warm),
        key=lambda choice: choice.cost,
    )


def considered(
    conv: Convolution,
    kept: Kept,
    chip: Chip,
    *,
    tensor_cores: bool = True,
    permute: bool = True,
    warm: bool = False,
) -> list[Choice]:
    """Everything that `choose_layout` chooses from; at equal cost the first is taken."""

    def choice(work: Work, tiling: Tiling, channels: int, order: Tensor | None = None) -> Choice:
        limits = floor(work, chip, warm=warm)
        return Choice(work.layout, tiling, channels, order, work, limits)

    channels = MMA_CHANNELS[conv.dtype]
    found = []
    if tensor_cores and runs_on_tensor_cores(conv, chip):
        orders = {}  # by the filters of a block
        for filters in {tiling.filters for tiling in TENSOR_CORE_TILINGS}:
            orders[filters] = _orders(kept, channels, filters // STRIP, permute)
        for tiling in TENSOR_CORE_TILINGS:
            for order, ordered in orders[tiling.filters]:
                work = tensor_core_work(conv, ordered, tiling)
                found.append(choice(work, tiling, channels, order))
        for order, ordered in orders[COMPRESSED_TILING.filters]:
            work = compressed_work(conv, ordered)
            found.append(choice(work, COMPRESSED_TILING, channels, order))
    for chunk in CHUNKS:
        found.append(choice(simt_work(conv, kept, chunk), SIMT_TILING, chunk))
    return found


def _orders(
    kept: Kept, channels: int, strips: int, permute: bool
) -> list[tuple[Tensor | None, Kept]]:
    """The filters' own order, and a much better one if there is: each with what is kept in it."""
    orders: list[tuple[Tensor | None, Kept]] = [(None, kept)]
    if permute and isinstance(kept, KeptByMask):
        order = filter_order(kept, channels, strips)
        if order.tiles_after <= MOST_TILES_LEFT * order.tiles_before:
            orders.append((order.order, KeptByMask(kept.mask[order.order], kept.groups)))
    return orders


def runs_on_tensor_cores(conv: Convolution, chip: Chip) -> bool:
    """Whether the tensor-core kernel can run: the chip, and channels that keep loads aligned."""
    aligned = conv.weight_shape[1] % MMA_CHANNELS[conv.dtype] == 0
    return aligned and chip.runs_tensor_layout and conv.dtype in chip.tensor
