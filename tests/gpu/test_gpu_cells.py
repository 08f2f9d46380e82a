# SPDX-License-Identifier: MIT
"""Counting cells of a mask, exactly and on average."""

from __future__ import annotations

import pytest
import torch

from l1sparse import GroupShape
from l1sparse.gpu.cells import KeptAtRandom, KeptByMask


def counted(mask: torch.Tensor, groups: int, filters: int, channels: int, taps: bool) -> int:
    """Cells one by one."""
    out, depth = mask.shape[:2]
    total = 0
    for group in range(groups):
        own = mask[group * (out // groups) : (group + 1) * (out // groups)]
        for i in range(0, out // groups, filters):
            for j in range(0, depth, channels):
                cell = own[i : i + filters, j : j + channels].any(1).any(0)
                total += int(cell.sum()) if taps else int(cell.any())
    return total


@pytest.mark.parametrize("taps", [True, False])
@pytest.mark.parametrize(
    ("shape", "groups", "filters", "channels"),
    [
        ((32, 32, 3, 3), 1, 16, 16),
        ((40, 20, 1, 2), 2, 16, 16),  # smaller cells at both ends
        ((30, 7, 2, 1), 3, 4, 8),
        ((8, 8, 1, 1), 1, 1, 1),
    ],
)
def test_cells_of_a_mask_are_counted_one_by_one(
    shape: tuple[int, ...], groups: int, filters: int, channels: int, taps: bool
) -> None:
    mask = torch.rand(shape) < 0.03
    expected = counted(mask, groups, filters, channels, taps)
    assert expected > 0
    assert KeptByMask(mask, groups).cells(filters, channels, taps) == expected
    assert KeptByMask(mask, groups).weights() == mask.sum()


def test_pooled_cells_say_which() -> None:
    mask = torch.zeros(4, 4, 1, 2, dtype=torch.bool)
    mask[3, 2, 0, 1] = True
    pooled = KeptByMask(mask, groups=2).pooled(2, 2)
    assert pooled.shape == (2, 1, 2, 2)
    assert pooled.nonzero().tolist() == [[1, 0, 1, 1]]


@pytest.mark.parametrize("taps", [True, False])
@pytest.mark.parametrize(
    ("shape", "group", "groups", "filters", "channels"),
    [
        ((32, 32, 3, 3), (16, 16), 1, 16, 16),
        ((32, 32, 3, 3), (16, 16), 1, 64, 16),
        ((48, 24, 1, 1), (1, 8), 1, 16, 16),
        ((24, 24, 1, 2), (5, 7), 2, 8, 16),  # groups of channels that cells cut through
    ],
)
def test_expected_cells_are_the_average_of_random_masks(
    shape: tuple[int, int, int, int],
    group: tuple[int, int],
    groups: int,
    filters: int,
    channels: int,
    taps: bool,
) -> None:
    shapes = GroupShape(*group)
    expected = KeptAtRandom(shape, shapes, 0.2, groups).cells(filters, channels, taps)
    grid = shapes.grid(shape)
    runs = [
        KeptByMask.of(torch.rand(grid) < 0.2, shape, shapes, groups).cells(filters, channels, taps)
        for _ in range(300)
    ]
    values = torch.tensor(runs)
    error = values.std().item() / 300**0.5
    assert values.mean().item() == pytest.approx(expected, abs=4 * error + 1e-9)


def test_density_one_is_dense() -> None:
    dense = KeptAtRandom((40, 20, 3, 3), GroupShape(1, 8), 1.0)
    assert dense.cells(16, 16) == 3 * 2 * 9
    assert dense.cells(16, 16, taps=False) == 3 * 2
    assert dense.weights() == 40 * 20 * 9


def test_masks_of_wrong_form_are_refused() -> None:
    mask = torch.ones(2, 2, 1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="groups: got 3, expected a divisor of 4"):
        KeptByMask.of(mask, (4, 16, 1, 1), (2, 8), groups=3)
    with pytest.raises(TypeError, match=r"expected a torch\.bool tensor"):
        KeptByMask.of(mask.float(), (4, 16, 1, 1), (2, 8))
