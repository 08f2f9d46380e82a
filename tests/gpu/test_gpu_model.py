# SPDX-License-Identifier: MIT
"""Floors from counts: by hand for small layers, and what ResNet-50's totals come to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from l1sparse import GroupShape
from l1sparse.gpu.cells import KeptAtRandom, KeptByMask
from l1sparse.gpu.chips import CHIPS, Chip, chip_like
from l1sparse.gpu.choose import MOST_TILES_LEFT, Choice, choose_layout, considered
from l1sparse.gpu.model import (
    COMPRESSED_TILING,
    SIMT_TILING,
    TENSOR_CORE_TILINGS,
    Convolution,
    Tiling,
    compressed_work,
    dense_work,
    floor,
    simt_work,
    tensor_core_work,
)
from l1sparse.gpu.permute import filter_order

A100 = CHIPS["A100"]
DENSE = GroupShape(1, 1)
TILING = TENSOR_CORE_TILINGS[1]  # 64 filters, 128 pixels


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_chips_rates_are_dense_ones_of_their_units(chip: Chip) -> None:
    """Multiply-adds a clock and multiprocessor, as the architectures have them (not sparse)."""
    per_clock = {"T4": 512, "A100": 1024, "H100": 2048, "RTX 4090": 256, "Orin": 1024}
    simt_per_clock = {"T4": 64, "A100": 64, "H100": 128, "RTX 4090": 128, "Orin": 128}
    c = chip
    assert c.tensor["float16"] == pytest.approx(2 * per_clock[c.name] * c.sms * c.clock, rel=0.01)
    assert c.simt == pytest.approx(2 * simt_per_clock[c.name] * c.sms * c.clock, rel=0.09)
    if c.capability >= (8, 0):
        assert c.tensor["bfloat16"] == c.tensor["float16"]
        assert c.tensor["float32"] == pytest.approx(c.tensor["float16"] / 2)
    assert c.runs_tensor_layout == (c.name != "T4")


@pytest.mark.parametrize(
    ("name", "capability", "like"),
    [
        ("NVIDIA A100-SXM4-80GB", (8, 0), "A100"),
        ("Tesla T4", (7, 5), "T4"),
        ("Tesla V100", (7, 0), "T4"),
        ("NVIDIA H100 80GB HBM3", (9, 0), "H100"),
        ("NVIDIA B200", (10, 0), "H100"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "RTX 4090"),
        ("NVIDIA A10", (8, 6), "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", (12, 0), "RTX 4090"),
        ("Orin", (8, 7), "Orin"),
        ("NVIDIA A30", (8, 0), "A100"),
    ],
)
def test_unknown_devices_are_taken_for_their_family(
    name: str, capability: tuple[int, int], like: str
) -> None:
    assert chip_like(name, capability).name == like


def test_convolution_knows_its_sizes() -> None:
    conv = Convolution(2, (8, 16, 3, 3), (9, 10), stride=(2, 3), padding=(1, 0), dilation=(2, 1))
    output = torch.nn.functional.conv2d(
        torch.ones(2, 16, 9, 10), torch.ones(8, 16, 3, 3), None, (2, 3), (1, 0), (2, 1)
    )
    assert conv.output_size == output.shape[2:]
    assert conv.pixels == output[:, 0].numel()
    assert conv.flops == 2 * output.numel() * 16 * 9


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "read"),
    [
        ((1, 1), (2, 2), (0, 0), (1, 1), 4 * 4),
        ((3, 3), (2, 2), (1, 1), (1, 1), 8 * 8),
        ((2, 1), (4, 1), (0, 0), (1, 1), 4 * 8),
        ((2, 2), (1, 1), (0, 0), (7, 7), 4),
    ],
)
def test_pixels_that_no_tap_meets_are_not_read(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    read: int,
) -> None:
    conv = Convolution(1, (1, 1, *kernel), (8, 8), stride, padding, dilation)
    assert conv.read_pixels == read


def test_tensor_core_work_by_hand() -> None:
    # 80 filters: blocks of 64 and 16; 32 channels: two tiles of 16; one image of 12 x 12 = 144
    # pixels: two tiles of 128.
    mask = torch.zeros(80, 32, 1, 1, dtype=torch.bool)
    mask[0, 0] = mask[17, 3] = mask[40, 5] = True  # three tiles of the first block, one column
    mask[64:, 16:] = True  # one whole tile of the second block
    conv = Convolution(1, (80, 32, 1, 1), (12, 12))
    work = tensor_core_work(conv, KeptByMask(mask), TILING)
    tiles, columns = 4, 2
    assert work.mma == tiles * 2 * 16
    assert work.flops == tiles * 2 * 16 * 4096
    assert work.weight_bytes == tiles * 512 + columns * 20
    assert work.input_bytes == 144 * 32 * 2
    assert work.output_bytes == 144 * 80 * 2
    assert work.l2_bytes == columns * 144 * 32 + 2 * work.weight_bytes
    # A column of 4 KiB in and out of shared memory; a tile of 512 bytes in, out for four warps.
    assert work.wavefronts == 2 * (columns * 2 * 4096 + tiles * 5 * 512) / 128
    assert work.fill_in == 4 * 256 / (3 + 256)
    assert work.launches == 1


def test_compressed_work_by_hand() -> None:
    # As above: two tiles of 64 pixels and one of 16, four warps each.
    mask = torch.zeros(80, 32, 1, 1, dtype=torch.bool)
    mask[0, 0] = mask[17, 3] = mask[40, 5] = True  # pieces of the first half of three tiles
    mask[64:, 16:] = True  # a whole tile: 32 pieces
    conv = Convolution(1, (80, 32, 1, 1), (12, 12))
    work = compressed_work(conv, KeptByMask(mask))
    tiles, columns, pieces = 4, 2, 3 + 32
    assert work.layout == "compressed"
    assert work.mma == tiles * 3 * 8
    assert work.weight_bytes == pieces * 16 + columns * (16 + 4 + 4 * 4)
    assert work.output_bytes == 144 * 80 * 2
    assert work.l2_bytes == columns * 144 * 32 + 3 * work.weight_bytes
    # A column of 2 KiB in and out of shared memory; pieces in; tiles and masks out for four warps.
    moved = columns * 2 * 2048 + pieces * 16 + 4 * (tiles * 512 + columns * 128)
    assert work.wavefronts == 3 * moved / 128
    assert work.fill_in == pieces * 8 / (3 + 256)
    halved = compressed_work(replace(conv, dtype="float32"), KeptByMask(mask))
    assert halved.weight_bytes == (3 + 64) * 16 + (1 + 2) * 36  # pieces of four channels


def test_warps_that_need_no_column_do_not_read_it() -> None:
    mask = torch.zeros(64, 16, 1, 1, dtype=torch.bool)
    mask[0, 0] = True
    conv = Convolution(1, (64, 16, 1, 1), (8, 16))
    one, two = (
        tensor_core_work(conv, KeptByMask(mask), Tiling(64, 128, filters, 64)).wavefronts
        for filters in (64, 32)
    )
    assert one == two
    mask[63, 0] = True
    both = tensor_core_work(conv, KeptByMask(mask), Tiling(64, 128, 32, 64)).wavefronts
    assert both == two + 4096 / 128 + 3 * 512 / 128


def test_taps_of_one_pixel_reach_a_multiprocessor_once() -> None:
    conv = Convolution(1, (128, 16, 3, 3), (16, 16), padding=(1, 1))
    dense = KeptAtRandom(conv.weight_shape, DENSE, 1.0)
    work = tensor_core_work(conv, dense, TILING)
    assert work.l2_bytes == 2 * 256 * 32 + 2 * work.weight_bytes  # two blocks of filters


def test_tf32_tiles_have_eight_channels() -> None:
    conv = Convolution(1, (16, 24, 1, 1), (8, 16), dtype="float32")
    work = tensor_core_work(conv, KeptAtRandom(conv.weight_shape, DENSE, 1.0), TILING)
    assert work.mma == 3 * 16
    assert work.flops == 2 * 16 * 24 * 128
    assert work.l2_bytes == 3 * (128 * 32 + 512 + 20)


def test_simt_work_by_hand() -> None:
    mask = torch.zeros(70, 12, 1, 1, dtype=torch.bool)
    mask[0, :8] = mask[15, :8] = mask[16, :8] = True  # one column, two of the first block's warps
    mask[69, 8:] = True  # a shorter tile of the second block
    conv = Convolution(1, (70, 12, 1, 1), (10, 13))  # 130 pixels: two tiles
    work = simt_work(conv, KeptByMask(mask), 8)
    tiles, columns, warp_columns = 4, 2, 3
    assert work.fma == tiles * 8 * 256
    assert work.weight_bytes == tiles * 32 + columns * 28
    assert work.l2_bytes == columns * 130 * 8 * 2 + 2 * work.weight_bytes
    assert work.wavefronts == 2 * ((columns + warp_columns) * 8 * 4 + tiles * (2 + 32 / 128))
    assert work.fill_in == 32 / 28
    assert work.input_bytes == 130 * 12 * 2
    assert simt_work(conv, KeptByMask(mask), 4).fill_in == 1.0
    assert simt_work(conv, KeptByMask(mask), 4).fma == 7 * 4 * 256


def test_dense_work_by_hand() -> None:
    conv = Convolution(2, (24, 20, 3, 3), (5, 5), padding=(1, 1))
    work = dense_work(conv, A100)
    assert work.layout == "dense tensor_core"
    assert work.mma == 2 * 2 * 9 * 7  # 24 filters, 20 channels, 9 taps, 50 pixels: filled up
    assert work.weight_bytes == 24 * 20 * 9 * 2
    assert work.footprint == 2 * 25 * (20 + 24) * 2 + work.weight_bytes
    on_t4 = dense_work(replace(conv, dtype="float32"), CHIPS["T4"])
    assert on_t4.layout == "dense simt"
    assert 2 * on_t4.fma == conv.flops


def test_floor_is_the_longest_limit() -> None:
    conv = Convolution(1, (64, 64, 1, 1), (16, 16))
    work = tensor_core_work(conv, KeptAtRandom(conv.weight_shape, DENSE, 1.0), TILING)
    found = floor(work, A100)
    expected = {
        "math": work.flops / 312e12,
        "dram": (256 * 128 * 2 + 16 * 512 + 4 * 20) / 2039e9,
        "l2": work.l2_bytes / (5120 * 1.41e9),
        "shared": work.wavefronts / (108 * 1.41e9),
    }
    assert found.limits == pytest.approx({k: v * 1e6 for k, v in expected.items()})
    assert found.microseconds == max(found.limits.values())
    assert found.binds == "dram"
    assert set(floor(work, A100, on_chip=False).limits) == {"math", "dram"}
    assert set(floor(work, CHIPS["RTX 4090"]).limits) == {"math", "dram", "shared"}


def test_warm_counts_only_what_exceeds_the_cache() -> None:
    conv = Convolution(32, (256, 64, 1, 1), (56, 56))
    work = tensor_core_work(conv, KeptAtRandom(conv.weight_shape, DENSE, 1.0), TILING)
    excess = work.footprint - 40 * 2**20
    assert excess > 0
    warm = floor(work, A100, warm=True).limits["dram"]
    assert warm == pytest.approx(excess / 2039e9 * 1e6)
    small = tensor_core_work(
        replace(conv, batch=1), KeptAtRandom(conv.weight_shape, DENSE, 1.0), TILING
    )
    assert floor(small, A100, warm=True).limits["dram"] == 0.0


def test_mma_sync_is_slower_on_hopper_for_us_only() -> None:
    h100 = CHIPS["H100"]
    conv = Convolution(1, (64, 64, 1, 1), (16, 16))
    ours = tensor_core_work(conv, KeptAtRandom(conv.weight_shape, DENSE, 1.0), TILING)
    dense = dense_work(conv, h100)
    assert ours.flops == dense.flops
    ratio = floor(ours, h100).limits["math"] / floor(dense, h100).limits["math"]
    assert ratio == pytest.approx(1 / 0.629)


def test_work_that_a_chip_can_not_do_is_refused() -> None:
    conv = Convolution(1, (16, 16, 1, 1), (4, 4), dtype="bfloat16")
    work = tensor_core_work(conv, KeptAtRandom(conv.weight_shape, DENSE, 1.0), TILING)
    with pytest.raises(ValueError, match="chip: T4 has no tensor cores for bfloat16"):
        floor(work, CHIPS["T4"])


def test_nothing_kept_costs_the_output_only() -> None:
    conv = Convolution(1, (32, 32, 3, 3), (8, 8), padding=(1, 1))
    none = KeptByMask(torch.zeros(32, 32, 3, 3, dtype=torch.bool))
    for work in (tensor_core_work(conv, none, TILING), simt_work(conv, none, 8)):
        assert work.footprint == work.output_bytes == 64 * 32 * 2
        assert work.fill_in == 1.0
        assert work.flops == 0


# ---- the chooser ------------------------------------------------------------------------------


def choice(
    mask: torch.Tensor, chip: str = "A100", dtype: str = "float16", batch: int = 8, **options: bool
) -> Choice:
    shape = (mask.shape[0], mask.shape[1], mask.shape[2], mask.shape[3])
    conv = Convolution(batch, shape, (14, 14), padding=(shape[2] // 2,) * 2, dtype=dtype)
    return choose_layout(conv, KeptByMask(mask), CHIPS[chip], **options)


def expanded(grid: torch.Tensor, filters: int, channels: int) -> torch.Tensor:
    return grid.repeat_interleave(filters, 0).repeat_interleave(channels, 1)


def test_groups_of_16x16_go_to_tensor_cores() -> None:
    mask = expanded(torch.rand(16, 16, 3, 3) < 0.25, 16, 16)
    for chip in ("A100", "H100", "RTX 4090", "Orin"):
        found = choice(mask, chip)
        assert found.layout == "tensor_core"
        assert found.fill_in == 1.0
    assert choice(mask, "T4").layout == "simt"
    assert choice(mask, tensor_cores=False).layout == "simt"


def test_channels_that_do_not_divide_go_to_simt() -> None:
    mask = torch.rand(64, 24, 1, 1) < 2
    assert choice(mask).layout == "simt"
    assert choice(mask, dtype="float32").layout == "tensor_core"


def test_fill_in_is_paid_only_where_it_pays() -> None:
    scattered = expanded(torch.rand(256, 32, 3, 3) < 0.02, 1, 8)
    found = choice(scattered, "RTX 4090")
    assert found.layout == "simt"
    assert (found.tiling, found.channels, found.order) == (SIMT_TILING, 8, None)
    assert choice(expanded(torch.rand(256, 32, 3, 3) < 0.6, 1, 8)).layout == "tensor_core"


@pytest.mark.parametrize("group", [8, 16])
def test_weights_are_compressed_where_reading_them_binds(group: int) -> None:
    mask = expanded(torch.rand(512, 512 // group, 1, 1) < 0.1, 1, group)
    for chip in ("A100", "H100", "Orin"):
        deep = Convolution(1, (512, 512, 1, 1), (7, 7))
        found = choose_layout(deep, KeptByMask(mask), CHIPS[chip])
        assert (found.layout, found.tiling) == ("compressed", COMPRESSED_TILING)
        assert found.fill_in == 1.0
        others = considered(deep, KeptByMask(mask), CHIPS[chip])
        cheapest = min(c.cost for c in others if c.layout != "compressed")
        assert found.cost < cheapest
        # Of many pixels each weight is used often, and whole tiles of 16x16 need no masks.
        many = choose_layout(replace(deep, batch=32), KeptByMask(mask), CHIPS[chip])
        assert many.layout == "tensor_core"
        tiles = KeptByMask(expanded(torch.rand(32, 32, 1, 1) < 0.1, 16, 16))
        assert choose_layout(deep, tiles, CHIPS[chip]).layout == "tensor_core"


def test_small_groups_take_short_columns() -> None:
    scattered = expanded(torch.rand(64, 64, 3, 3) < 0.05, 4, 4)
    found = choice(scattered, "T4")
    assert (found.layout, found.channels, found.fill_in) == ("simt", 4, 1.0)


def test_the_choice_has_the_permutations_fill_in() -> None:
    kinds = (torch.rand(8, 16, 1, 1) < 0.1).repeat_interleave(16, 1)
    mask = kinds[torch.arange(128) % 8]
    found = choice(mask)
    order = filter_order(KeptByMask(mask), 16, found.tiling.filters // 16)
    assert found.layout == "tensor_core"
    assert found.order is not None
    assert torch.equal(found.order, order.order)
    assert found.fill_in == order.fill_in_after < order.fill_in_before
    assert choice(mask, permute=False).order is None


def test_an_order_that_saves_few_tiles_is_not_taken() -> None:
    kinds = torch.rand(8, 256, 1, 1) < 0.12
    mask = kinds[torch.arange(128) % 8]
    order = filter_order(KeptByMask(mask), 16)
    assert MOST_TILES_LEFT * order.tiles_before < order.tiles_after < order.tiles_before
    assert choice(mask).order is None


def test_small_maps_are_not_filled_up_to_128_pixels() -> None:
    mask = expanded(torch.rand(32, 32, 1, 1) < 0.25, 16, 16)
    conv = Convolution(1, (512, 512, 1, 1), (7, 7))
    assert choose_layout(conv, KeptByMask(mask), A100).tiling.pixels == 64


def test_the_choice_is_the_cheapest_of_all_that_was_considered() -> None:
    mask = torch.rand(128, 64, 3, 3) < 0.02
    conv = Convolution(4, (128, 64, 3, 3), (14, 14), padding=(1, 1))
    kept = KeptByMask(mask)
    found = considered(conv, kept, A100)
    assert {c.layout for c in found} == {"tensor_core", "compressed", "simt"}
    assert len({(c.layout, c.tiling, c.channels, c.order is None) for c in found}) == len(found)
    best = choose_layout(conv, kept, A100)
    assert best.cost == min(c.cost for c in found) == sum(best.floor.limits.values())
