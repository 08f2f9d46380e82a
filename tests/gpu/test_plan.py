# SPDX-License-Identifier: MIT
"""Plans hold the kept weights, all of them, each once, where a kernel will look for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import GroupShape, pack, packed_info, unpack
from l1sparse.gpu.kept import kept_groups
from l1sparse.gpu.plan import (
    Plan,
    as_fragments,
    compressed_plan,
    round_to_tf32,
    simt_channels,
    simt_plan,
    tensor_core_plan,
)
from l1sparse.group_mask import expand_group_mask
from l1sparse.ops import STRATEGIES

Shape = tuple[int, int, int, int]


def tile_matrix(plan: Plan, tile: int) -> np.ndarray:
    """A tile as ``[tile_filters, tile_channels]``, element by element as the PTX manual says."""
    stored = plan.values[tile].float().numpy()
    if plan.values.dim() == 2 or stored.shape[0] == 16:
        return stored.reshape(plan.tile_filters, plan.tile_channels)
    matrix = np.full((16, plan.tile_channels), np.nan)
    word = plan.tile_channels // 8
    for lane in range(32):
        group, thread = divmod(lane, 4)
        for i in range(4 * word):
            row = group + (8 if (i // word) % 2 else 0)
            column = thread * word + i % word + (4 * word if i >= 2 * word else 0)
            matrix[row, column] = stored[lane, i]
    return matrix


def rebuilt(plan: Plan) -> tuple[Tensor, Tensor]:
    """The dense weight and how often the plan holds each place, by plain loops."""
    filters, channels = plan.weight_shape[:2]
    weight = torch.zeros(plan.weight_shape)
    times = torch.zeros(plan.weight_shape, dtype=torch.int32)
    group_filters = filters // plan.groups
    for block in range(plan.blocks):
        group, within = divmod(block, plan.blocks_per_group)
        begin, end = plan.block_offsets[block : block + 2].tolist()
        for column in range(begin, end):
            y, x, channel, last = plan.columns[column].tolist()
            tile, end_tile = plan.tile_offsets[column : column + 2].tolist()
            words = plan.masks[column].tolist()
            mask = sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(words))
            first = channel - group * channels
            assert first >= 0
            assert first % plan.tile_channels == 0
            count = max(0, min(plan.tile_channels, channels - first))
            # Only steps have columns for which nothing is kept.
            assert (count and mask) or plan.layout == "simt"
            assert last == (mask if plan.layout == "tensor_core" else count * bool(mask))
            for run in range(64):
                if not mask >> run & 1:
                    continue
                matrix = tile_matrix(plan, tile)
                tile += 1
                low = within * plan.block_filters + run * plan.tile_filters
                rows = min(plan.tile_filters, group_filters - low)
                assert not matrix[max(rows, 0) :].any()
                assert not matrix[:, count:].any()
                for row in range(max(rows, 0)):
                    place = group * group_filters + low + row
                    if plan.filter_order is not None:
                        place = int(plan.filter_order[place])
                    target = (place, slice(first, first + count), y, x)
                    weight[target] = torch.from_numpy(matrix[row, :count]).float()
                    times[target] += 1
            assert tile == end_tile
    assert int(plan.block_offsets[-1]) == len(plan.columns)
    assert int(plan.tile_offsets[-1]) == len(plan.values)
    assert sorted(plan.block_order.tolist()) == list(range(plan.blocks))
    return weight, times


def masked_weight(shape: Shape, group: Any, density: float) -> tuple[Tensor, Tensor]:
    grid = GroupShape.of(group).grid(shape)
    mask = expand_group_mask(torch.rand(grid) < density, shape, group)
    return torch.randn(shape), mask


def check(plan: Plan, weight: Tensor, mask: Tensor) -> None:
    result, times = rebuilt(plan)
    kept = torch.where(mask, weight, torch.zeros_like(weight))
    if plan.layout == "tensor_core":
        kept = kept.to(plan.values.dtype).float()
        kept = round_to_tf32(kept) if plan.values.dtype == torch.float32 else kept
    assert torch.equal(result, kept)
    assert times.max() <= 1
    assert (times[mask] == 1).all()
    assert plan.kept_weights == mask.sum()
    for tensor in (plan.block_offsets, plan.block_order, plan.columns, plan.tile_offsets):
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()


@settings(max_examples=40)
@given(
    filters=st.integers(1, 75),
    channels=st.integers(1, 21),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    group=st.sampled_from(["1x8", "1x4", "4x4", "1x16", "16x16", "3x5"]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    block_filters=st.sampled_from([8, 32, 64]),
    tile_channels=st.sampled_from([8, 4, 1]),
    step_channels=st.sampled_from([1, 16]),
)
def test_simt_holds_every_kept_weight_once(
    filters: int, channels: int, kernel: Any, groups: int, group: str, density: float,
    block_filters: int, tile_channels: int, step_channels: int,
) -> None:  # fmt: skip
    weight, mask = masked_weight((filters * groups, channels, *kernel), group, density)
    step = max(1, step_channels // tile_channels)
    plan = simt_plan(
        weight, mask, groups, channels=tile_channels, block_filters=block_filters, step=step
    )
    check(plan, weight, mask)
    steps = plan.columns.reshape(-1, step, 4)
    assert (plan.block_offsets % step == 0).all()
    assert (steps[:, :, :2] == steps[:, :1, :2]).all()
    within = steps[:, 0, 2] % channels
    assert (within % (step * tile_channels) == 0).all()
    places = torch.arange(step) * tile_channels
    assert torch.equal(steps[:, :, 2], steps[:, :1, 2] + places)
    assert (plan.masks.reshape(-1, step * plan.masks.shape[1]) != 0).any(1).all()
    if GroupShape.of(group).channels % tile_channels == 0 and channels % tile_channels == 0:
        assert plan.fill_in == 1


@settings(max_examples=40)
@given(
    filters=st.integers(1, 150),
    channels=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    groups=st.integers(1, 3),
    group=st.sampled_from(["16x16", "16x8", "1x8", "4x4"]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    fragments=st.booleans(),
    strips=st.sampled_from([1, 4, 8]),
    permuted=st.booleans(),
    taps_together=st.booleans(),
)
def test_tensor_core_holds_every_kept_weight_once(
    filters: int, channels: int, kernel: Any, groups: int, group: str, density: float,
    dtype: torch.dtype, fragments: bool, strips: int, permuted: bool, taps_together: bool,
) -> None:  # fmt: skip
    weight, mask = masked_weight((filters * groups, 16 * channels, *kernel), group, density)
    order = None
    if permuted:
        order = torch.cat([g * filters + torch.randperm(filters) for g in range(groups)])
    plan = tensor_core_plan(
        weight, mask, groups, dtype, fragments=fragments, strips=strips, filter_order=order,
        taps_together=taps_together,
    )  # fmt: skip
    check(plan, weight, mask)


@settings(max_examples=40)
@given(
    filters=st.integers(1, 150),
    channels=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    groups=st.integers(1, 3),
    group=st.sampled_from(["16x16", "1x16", "1x8", "4x4", "1x1"]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    permuted=st.booleans(),
)
def test_compressed_holds_every_kept_weight_once(
    filters: int, channels: int, kernel: Any, groups: int, group: str, density: float,
    dtype: torch.dtype, permuted: bool,
) -> None:  # fmt: skip
    weight, mask = masked_weight((filters * groups, 16 * channels, *kernel), group, density)
    order = None
    if permuted:
        order = torch.cat([g * filters + torch.randperm(filters) for g in range(groups)])
    plan = compressed_plan(weight, mask, groups, dtype, filter_order=order)
    whole = tensor_core_plan(
        weight, mask, groups, dtype, fragments=False, filter_order=order, taps_together=True
    )
    # The same tiles where pieces are expanded, and no piece that nothing is kept of.
    half = 16 // dtype.itemsize
    assert plan.values.dtype == dtype
    assert plan.values.shape == (int(plan.tile_offsets[-1]), half)
    expanded = torch.zeros(whole.values.shape, dtype=dtype)
    piece = tile = 0
    for column, masks in enumerate(plan.masks.tolist()):
        assert plan.tile_offsets[column] == piece
        for word in filter(None, masks):
            for bit in range(32):
                if word >> bit & 1:
                    place = slice(bit // 16 * half, (bit // 16 + 1) * half)
                    expanded[tile, bit % 16, place] = plan.values[piece]
                    piece += 1
            tile += 1
        assert plan.columns[column, 3] == piece - plan.tile_offsets[column]
        strips = sum(bool(word) << strip for strip, word in enumerate(masks))
        assert strips == whole.columns[column, 3]
    assert (tile, piece) == (len(expanded), len(plan.values))
    assert torch.equal(expanded, whole.values)
    assert torch.equal(plan.columns[:, :3], whole.columns[:, :3])
    assert torch.equal(plan.block_offsets, whole.block_offsets)
    kept = mask.unflatten(1, (-1, half)).any(2).sum()
    assert len(plan.values) == kept
    assert (plan.layout, plan.block_filters) == ("compressed", 64)
    assert (plan.tile_filters, plan.tile_channels) == (1, half)
    for tensor in plan.tensors():
        assert tensor.is_contiguous()


@pytest.mark.parametrize(
    ("group", "dtype"),
    [("16x16", torch.float16), ("16x16", torch.bfloat16), ("16x8", torch.float32)],
)
def test_groups_of_the_tiles_shape_have_no_fill_in(group: str, dtype: torch.dtype) -> None:
    weight, mask = masked_weight((64, 64, 3, 3), group, 0.25)
    assert tensor_core_plan(weight, mask, 1, dtype).fill_in == 1


def test_fill_in_is_stored_over_kept_weights() -> None:
    mask = torch.zeros(16, 16, 1, 1, dtype=torch.bool)
    mask[3, :8] = True
    weight = torch.randn(mask.shape)
    assert tensor_core_plan(weight, mask, 1, torch.float16).fill_in == 32
    assert tensor_core_plan(weight, mask, 1, torch.float32).fill_in == 16
    assert simt_plan(weight, mask, 1).fill_in == 1
    assert simt_plan(weight, torch.zeros_like(mask), 1).fill_in == 1


def test_blocks_are_ordered_by_descending_work() -> None:
    mask = torch.zeros(96, 8, 1, 1, dtype=torch.bool)
    mask[0], mask[32:64], mask[64:70] = True, True, True
    plan = simt_plan(torch.ones(mask.shape), mask, 1, block_filters=32)
    assert plan.block_order.tolist() == [1, 2, 0]


@pytest.mark.parametrize("taps_together", [False, True])
def test_columns_go_through_channels_or_taps_first(taps_together: bool) -> None:
    weight, mask = masked_weight((16, 32, 1, 2), "16x16", 1.0)
    plan = tensor_core_plan(weight, mask, 1, torch.float16, taps_together=taps_together)
    check(plan, weight, mask)
    places = [[0, 0, 0], [0, 0, 16], [0, 1, 0], [0, 1, 16]]
    if taps_together:
        places = [[0, 0, 0], [0, 1, 0], [0, 0, 16], [0, 1, 16]]
    assert plan.columns[:, :3].tolist() == places


def test_tf32_is_rounded_to_nearest_with_ties_away_from_zero() -> None:
    ulp = 2.0**-10
    values = torch.tensor([1 + ulp / 2, -1 - ulp / 2, 1 + ulp * 0.49, 1 + ulp * 0.51, 0.0, -0.0])
    expected = torch.tensor([1 + ulp, -1 - ulp, 1.0, 1 + ulp, 0.0, -0.0])
    assert torch.equal(round_to_tf32(values).view(torch.int32), expected.view(torch.int32))
    special = torch.tensor([torch.inf, -torch.inf, torch.nan])
    assert torch.equal(round_to_tf32(special).nan_to_num(7), special.nan_to_num(7))
    all_ones = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    assert round_to_tf32(all_ones).isnan().all()


def test_fragments_are_a_permutation_of_the_tile() -> None:
    for channels in (8, 16):
        tiles = torch.arange(2.0 * 16 * channels).reshape(2, 16, channels)
        fragments = as_fragments(tiles)
        assert fragments.shape == (2, 32, channels // 2)
        assert torch.equal(fragments[1].flatten().sort().values, tiles[1].flatten())


@pytest.mark.parametrize("channels", [8, 24, 17])
def test_channels_that_do_not_divide_into_tiles_are_an_error(channels: int) -> None:
    weight = torch.ones(16, channels, 1, 1)
    with pytest.raises(ValueError, match=rf"^weight: {channels} channels .* tiles of 16.*float16"):
        tensor_core_plan(weight, weight > 0, 1, torch.float16)


@pytest.mark.parametrize(
    ("group", "tile"), [(8, 8), (16, 8), (4, 4), (12, 4), (1, 1), (5, 1), (6, 1)]
)
def test_tiles_of_simt_are_as_wide_as_groups_allow(group: int, tile: int) -> None:
    assert simt_channels(group) == tile


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 0, 2, 3], [0, 2, 1, 3], [1, 0, 3, 4]])
def test_a_filter_order_that_is_none_is_an_error(order: list[int]) -> None:
    weight = torch.ones(4, 16, 1, 1)
    with pytest.raises(ValueError, match=r"^filter_order: is no permutation of 4 filters"):
        tensor_core_plan(weight, weight > 0, 2, torch.float16, filter_order=torch.tensor(order))


def test_a_moved_plan_has_its_arrays_there_and_keeps_its_numbers() -> None:
    weight, mask = masked_weight((20, 16, 2, 1), "1x8", 0.5)
    order = torch.arange(20).flip(0)
    plan = tensor_core_plan(weight, mask, 1, torch.float16, filter_order=order)
    moved = plan.to("meta")
    for name, value in vars(plan).items():
        if isinstance(value, Tensor):
            assert getattr(moved, name).is_meta
            assert getattr(moved, name).shape == value.shape
        else:
            assert getattr(moved, name) == value
    assert plan.nbytes > plan.values.numel() * 2


@settings(max_examples=60)
@given(
    filters=st.integers(1, 40),
    channels=st.integers(1, 70),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    group=st.sampled_from(["1x8", "4x4", "16x16", "3x5"]),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    strategy=st.sampled_from(STRATEGIES[1:]),
)
def test_the_mask_is_read_from_the_packed_bytes(
    filters: int, channels: int, kernel: Any, group: str, density: float, strategy: str
) -> None:
    shape = (filters, channels, *kernel)
    mask = torch.rand(GroupShape.of(group).grid(shape)) < density
    packed = pack(torch.randn(shape), mask, group, strategy)
    assert torch.equal(kept_groups(packed, packed_info(packed)), mask)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_the_mask_is_read_across_blocks_of_a_large_weight(strategy: str) -> None:
    mask = torch.rand(600, 64, 3, 3) < 0.3
    packed = pack(torch.randn(600, 512, 3, 3), mask, "1x8", strategy)
    assert torch.equal(kept_groups(packed, packed_info(packed)), mask)
    assert (unpack(packed) != 0).any()


def test_a_kept_group_of_zeros_is_kept() -> None:
    packed = pack(torch.zeros(4, 8, 1, 1), torch.ones(4, 1, 1, 1, dtype=torch.bool))
    assert kept_groups(packed, packed_info(packed)).all()
