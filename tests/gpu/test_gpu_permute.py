# SPDX-License-Identifier: MIT
"""Filters brought together: better where masks have a structure, never worse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l1sparse.gpu.cells import KeptByMask
from l1sparse.gpu.permute import FilterOrder, filter_order


def tiles(mask: Tensor, order: FilterOrder, channels: int, groups: int = 1) -> int:
    """Tiles of a mask in that order, counted."""
    return int(KeptByMask(mask[order.order], groups).cells(16, channels))


def check_order(mask: Tensor, order: FilterOrder, channels: int, groups: int = 1) -> None:
    """What holds for every order."""
    per_group = len(mask) // groups
    assert torch.equal(order.order.sort().values, torch.arange(len(mask)))
    assert torch.equal(order.order // per_group, torch.arange(len(mask)) // per_group)
    assert order.tiles_before == KeptByMask(mask, groups).cells(16, channels)
    assert order.tiles_after == tiles(mask, order, channels, groups)
    assert order.tiles_after <= order.tiles_before
    kept = int(mask.sum())
    assert order.fill_in_after == (order.tiles_after * 16 * channels / kept if kept else 1.0)
    again = filter_order(KeptByMask(mask, groups), channels)
    assert torch.equal(again.order, order.order)


def test_shuffled_strips_are_found_again() -> None:
    # Six kinds of filters, 16 of each, that share nothing: the best order has one kind a strip.
    kinds = torch.zeros(6, 96, 1, 1, dtype=torch.bool)
    for kind in range(6):
        kinds[kind, 16 * kind : 16 * kind + 16] = True
    mask = kinds[torch.arange(96) % 6]
    order = filter_order(KeptByMask(mask), 16)
    check_order(mask, order, 16)
    assert (order.tiles_before, order.tiles_after) == (36, 6)
    assert (order.fill_in_before, order.fill_in_after) == (6.0, 1.0)
    assert not order.is_identity


def test_noisy_kinds_save_a_third_of_the_tiles() -> None:
    kinds = torch.rand(8, 16, 3, 3) < 0.2
    grid = kinds[torch.randint(8, (256,))] ^ (torch.rand(256, 16, 3, 3) < 0.005)
    mask = grid.repeat_interleave(16, 1)
    order = filter_order(KeptByMask(mask), 16)
    check_order(mask, order, 16)
    assert order.tiles_after < order.tiles_before * 2 / 3


@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.25, 1.0])
@pytest.mark.parametrize(
    ("shape", "groups", "channels"),
    [
        ((64, 32, 3, 3), 1, 16),
        ((70, 24, 1, 1), 1, 8),  # a last strip of six filters
        ((60, 16, 1, 2), 3, 16),  # 20 filters a convolution group
        ((10, 16, 1, 1), 1, 16),
    ],
)
def test_random_masks_are_never_worse(
    shape: tuple[int, ...], groups: int, channels: int, density: float
) -> None:
    mask = torch.rand(shape) < density
    order = filter_order(KeptByMask(mask, groups), channels)
    check_order(mask, order, channels, groups)


def test_an_order_that_can_not_be_improved_is_kept() -> None:
    mask = (torch.rand(4, 8, 1, 1) < 0.5).repeat_interleave(16, 0).repeat_interleave(16, 1)
    mask = mask[:, :64]
    kept = KeptByMask(mask)
    ours = filter_order(kept, 16, strips=1)
    assert ours.is_identity
    assert ours.tiles_before == ours.tiles_after


def test_an_order_of_its_own_that_is_better_is_kept() -> None:
    # Filters of a strip have some of the strip's columns each; one with few columns fits anywhere,
    # and bringing together by overlap takes it away from where it belongs.
    strips = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    for seed in range(100):
        random = torch.Generator().manual_seed(seed)
        own = strips.repeat_interleave(16, 0) & (torch.rand(48, 6, generator=random) < 0.4)
        mask = own.repeat_interleave(16, 1)[:, :, None, None]
        check_order(mask, filter_order(KeptByMask(mask), 16), 16)


def test_strips_alike_go_to_one_block() -> None:
    # Eight strips of two kinds in turn: as strips they are perfect, blocks of four need both kinds.
    kinds = torch.zeros(2, 32, 1, 1, dtype=torch.bool)
    kinds[0, :16] = kinds[1, 16:] = True
    mask = kinds[torch.arange(8) % 2].repeat_interleave(16, 0)
    order = filter_order(KeptByMask(mask), 16, strips=4)
    check_order(mask, order, 16)
    assert order.tiles_after == order.tiles_before
    assert KeptByMask(mask).cells(64, 16) == 4
    assert KeptByMask(mask[order.order]).cells(64, 16) == 2
