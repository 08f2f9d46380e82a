# SPDX-License-Identifier: MIT
"""What the CUDA kernels do, counted while their PTX runs, and held to a budget.

The ideal is computed here from the mask: every thread block reads each pixel that a column needs,
each tile and each entry of its lists once, in whole sectors of 32 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gpu_case import Case, Tensors, tensors_of
from test_cuda_kernels import BFLOAT, FLOAT, HALF, Runner, runner

from l1sparse import GroupShape

__all__ = ["runner"]

MOST_SECTORS = 1.1  # of the ideal
MOST_CONFLICTS = 0.05  # of the accesses to shared memory


@dataclass(frozen=True)
class Budget:
    """A case, how it is run, and what its instructions may be: 3 % more than today.

    Counted in PTX, for each `mma`; in SIMT kernels for each filter's 8 channels at 128 pixels,
    which are 32 multiply-adds of a warp. Thread blocks have few columns here, so that beginning
    and end count for more than in a layer of a network.
    """

    case: Case
    how: dict[str, Any]
    instructions: float
    sectors: float = MOST_SECTORS


# Like layers of ResNet-50 with fewer channels and pixels; 75 % and 0 % pruned.
LAYER = Case(128, 64, (3, 3), (8, 16), "16x16", "tensor_core", HALF, padding=(1, 1), density=0.25)
POINT = LAYER.but(kernel=(1, 1), padding=(0, 0), channels=256)

TENSOR_CORE = {
    "3x3": Budget(LAYER, {"pixels": 128}, 27.3),
    "3x3, 8 strips": Budget(LAYER, {"strips": 8}, 21.8),
    "3x3, 64 pixels": Budget(LAYER, {}, 43.5),
    "3x3, dense": Budget(LAYER.but(density=1.0, channels=32), {"pixels": 128}, 12.7),
    "3x3, bfloat16": Budget(LAYER.but(dtype=BFLOAT), {"pixels": 128}, 27.3),
    "3x3, tf32": Budget(LAYER.but(dtype=FLOAT, group="16x8"), {"pixels": 128}, 24.8),
    "3x3, stride 2": Budget(LAYER.but(stride=(2, 2), size=(16, 32)), {"pixels": 128}, 27.3),
    "1x1": Budget(POINT, {"pixels": 128}, 35.6),
    "1x1, residual": Budget(POINT.but(residual=True), {"pixels": 128}, 39.6),
    "1x1, 8 strips": Budget(POINT, {"strips": 8}, 27.8),
    "1x1, split": Budget(POINT, {"pixels": 128, "splits": 2}, 44.4),
    "1x1, 90 % pruned": Budget(POINT.but(density=0.1), {"pixels": 128}, 79.2),
}

NARROW = LAYER.but(layout="simt", group="1x8", channels=32)
# Columns of four channels come one by one, 8 or 16 bytes of a sector: 1.5 and 1.24 times the ideal.
SIMT = {
    "1x8": Budget(NARROW, {}, 96.1),
    "1x8, float": Budget(NARROW.but(dtype=FLOAT), {}, 98.3),
    "4x4": Budget(NARROW.but(group="4x4"), {}, 114.3, 1.55),
    "4x4, float": Budget(NARROW.but(group="4x4", dtype=FLOAT), {}, 109.9, 1.3),
    "1x8, 1x1": Budget(POINT.but(layout="simt", group="1x8"), {}, 97.4),
    "1x8, dense": Budget(NARROW.but(channels=16, density=1.0), {}, 56.1),
}


@pytest.mark.parametrize("name", TENSOR_CORE)
def test_tensor_core(name: str, runner: Runner) -> None:
    budget = TENSOR_CORE[name]
    counts = counted(runner, budget)
    call = runner.last
    tile = 128 if budget.how.get("strips") == 8 else budget.how.get("pixels", 64)
    columns = call.lists["columns"].reshape(-1, 4)
    kept = int(np.bitwise_count(columns[:, 3]).sum())
    assert kept == call.lists["tile_offsets"][-1]
    pixels = padded_pixels(budget.case, tile)
    assert counts.mma == kept * pixels // 8
    assert counts.total <= budget.instructions * counts.mma, counts.total / counts.mma
    assert_lean(counts, ideal_sectors(runner, tile, 512))


@pytest.mark.parametrize("name", SIMT)
def test_simt(name: str, runner: Runner) -> None:
    budget = SIMT[name]
    counts = counted(runner, budget)
    call = runner.last
    chunk = call.given["chunk"]
    entries = int(call.lists["tile_offsets"][-1])
    pixels = padded_pixels(budget.case, 128)
    # A lane has four pixels: a multiply-add for each of them and of the chunk's channels.
    assert counts.instructions["fma.rn.f32"] == entries * chunk * 4 * pixels // 128
    per_entry = counts.total / (entries * chunk / 8 * pixels / 128)
    assert per_entry <= budget.instructions, per_entry
    assert_lean(counts, ideal_sectors(runner, 128, 4 * chunk), budget.sectors)


def counted(runner: Runner, budget: Budget) -> Any:
    """The counts of the convolution itself, whose result is right too."""
    tensors: Tensors = tensors_of(budget.case)
    tensors.check(runner.conv2d(tensors, **budget.how), tf32_activations=True)
    return runner.last.reports[0].counts


def assert_lean(counts: Any, ideal: float, most: float = MOST_SECTORS) -> None:
    assert counts.global_load_sectors <= most * ideal, counts.global_load_sectors / ideal
    stores = counts.global_store_bytes / 32
    assert counts.global_store_sectors <= MOST_SECTORS * stores
    assert counts.bank_conflicts <= MOST_CONFLICTS * counts.shared_wavefronts


def padded_pixels(case: Case, tile: int) -> int:
    """Output pixels, the missing ones of the last tile included."""
    return -(-output_pixels(case) // tile) * tile


def output_pixels(case: Case) -> int:
    sizes = [
        (s + 2 * p - d * (k - 1) - 1) // stride + 1
        for s, p, d, k, stride in zip(
            case.size, case.padding, case.dilation, case.kernel, case.stride, strict=True
        )
    ]
    return case.batch * sizes[0] * sizes[1]


def ideal_sectors(runner: Runner, tile: int, tile_bytes: int) -> float:
    """Sectors that all thread blocks have to read, each for itself."""
    call = runner.last
    given = call.given
    inside = taps_inside(given, tile)  # [pixel tiles, taps]
    columns = call.lists["columns"].reshape(-1, 4)
    entries = int(call.lists["tile_offsets"][-1])
    size = 4 if given["dtype"] == "float32" else 2
    chunk = given.get("chunk", 32 // size)
    activations = 0.0
    for y, x, _, _ in columns:
        activations += inside[:, y, x].sum() * chunk * size / 32
    tiles = len(inside)
    lists = len(columns) * (16 + 4 + (8 if "filter_masks" in given else 0)) / 32
    total = activations + tiles * (entries * tile_bytes / 32 + lists)
    if given["splits"] == 1:
        pixels = given["output_shape"][0] * given["output_shape"][2] * given["output_shape"][3]
        if given["residual"]:
            total += pixels * given["output_shape"][1] * size / 32
        if given["bias"]:
            total += tiles * given["output_shape"][1] * 4 / 32
    return total


def taps_inside(given: dict[str, Any], tile: int) -> np.ndarray:
    """How many pixels of each tile read inside the image, by tap row and column."""
    batch, _, in_h, in_w = given["input_shape"]
    _, _, out_h, out_w = given["output_shape"]
    pixel = np.arange(batch * out_h * out_w)
    y = pixel // out_w % out_h * given["stride"][0] - given["padding"][0]
    x = pixel % out_w * given["stride"][1] - given["padding"][1]
    taps = 8
    counts = np.zeros((-(-len(pixel) // tile), taps, taps), int)
    for i in range(taps):
        for j in range(taps):
            iy, ix = y + i * given["dilation"][0], x + j * given["dilation"][1]
            good = (iy >= 0) & (iy < in_h) & (ix >= 0) & (ix < in_w)
            np.add.at(counts[:, i, j], pixel // tile, good)
    return counts


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT, HALF])
@pytest.mark.parametrize(
    ("shape", "group", "conflicts"),
    [
        ((8, 512, 1, 1), "1x8", 0.0),
        ((8, 512, 1, 1), "1x16", 0.0),
        ((16, 512, 1, 1), "4x4", 0.0),
        ((32, 256, 1, 1), "16x16", 0.0),
        ((4, 128, 3, 3), "1x8", 0.0),
        ((4, 128, 3, 3), "4x4", 0.0),
    ],
)
def test_group_l1_norm(
    shape: tuple[int, ...], group: str, conflicts: float, dtype: torch.dtype, runner: Runner
) -> None:
    weight = torch.randn(shape).to(dtype)
    runner.module.BACKEND.group_l1_norm(weight, GroupShape.of(group))
    counts = runner.last.reports[0].counts
    # Every weight once.
    assert counts.global_load_bytes == weight.numel() * weight.element_size()
    assert counts.global_load_sectors <= MOST_SECTORS * counts.global_load_bytes / 32
    assert counts.global_store_sectors <= MOST_SECTORS * max(counts.global_store_bytes / 32, 8)
    assert counts.bank_conflicts <= (MOST_CONFLICTS + conflicts) * counts.shared_wavefronts
