# SPDX-License-Identifier: MIT
"""What the CUDA kernels do on some layers, counted while their PTX runs; and what they should.

``python tests/gpu/kernel_counts.py``, or ``make gpu-counts``, prints the table of docs/gpu.md; the
budgets are held by ``test_kernel_counts.py``.

The ideal is computed here from the lists a kernel gets: every thread block reads each pixel that a
kept column needs, each tile and each entry of its lists once, in whole sectors of 32 bytes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":  # else pytest has seen to it
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

# ruff: noqa: E402
import numpy as np
import torch
from gpu_case import Case, tensors_of
from kernel_runner import Runner
from ptx import Counts

from l1sparse import GroupShape

HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32


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


# Like layers of ResNet-50 with fewer channels and pixels; 75 % and 0 % pruned.
LAYER = Case(128, 64, (3, 3), (8, 16), "16x16", "tensor_core", HALF, padding=(1, 1), density=0.25)
POINT = LAYER.but(kernel=(1, 1), padding=(0, 0), channels=256)

TENSOR_CORE = {
    "3x3": Budget(LAYER, {"pixels": 128}, 23.8),
    "3x3, 8 strips": Budget(LAYER, {"strips": 8}, 19.0),
    "3x3, 64 pixels": Budget(LAYER, {}, 40.4),
    "3x3, dense": Budget(LAYER.but(density=1.0, channels=32), {"pixels": 128}, 10.8),
    "3x3, bfloat16": Budget(LAYER.but(dtype=BFLOAT), {"pixels": 128}, 23.8),
    "3x3, tf32": Budget(LAYER.but(dtype=FLOAT, group="16x8"), {"pixels": 128}, 23.4),
    "3x3, stride 2": Budget(LAYER.but(stride=(2, 2), size=(16, 32)), {"pixels": 128}, 23.8),
    "1x1": Budget(POINT, {"pixels": 128}, 28.2),
    "1x1, residual": Budget(POINT.but(residual=True), {"pixels": 128}, 31.7),
    "1x1, 8 strips": Budget(POINT, {"strips": 8}, 21.7),
    "1x1, split": Budget(POINT, {"pixels": 128, "splits": 2}, 37.5),
    "1x1, 90 % pruned": Budget(POINT.but(density=0.1), {"pixels": 128}, 57.0),
}

PIECES = LAYER.but(layout="compressed", group="1x8", size=(8, 8), channels=32)
DEEP = PIECES.but(kernel=(1, 1), padding=(0, 0), channels=512, size=(7, 7))
COMPRESSED = {
    "3x3": Budget(PIECES, {}, 29.9),
    "3x3, bfloat16": Budget(PIECES.but(dtype=BFLOAT), {}, 29.9),
    "3x3, tf32": Budget(PIECES.but(dtype=FLOAT), {}, 29.0),
    "3x3, 1x16": Budget(PIECES.but(group="1x16"), {}, 30.0),
    "3x3, 90 % pruned": Budget(PIECES.but(density=0.1), {}, 30.1),
    "1x1, 7x7": Budget(DEEP, {}, 28.0),
    "1x1, 7x7, 90 % pruned": Budget(DEEP.but(density=0.1), {}, 28.4),
    "1x1, 7x7, split": Budget(DEEP.but(channels=1024), {"splits": 2}, 27.7),
}

NARROW = LAYER.but(layout="simt", group="1x8", channels=32)
FEW = NARROW.but(filters=16, channels=64, density=0.1)
SIMT = {
    "1x8": Budget(NARROW, {}, 94.5),
    "1x8, float": Budget(NARROW.but(dtype=FLOAT), {}, 96.7),
    "4x4": Budget(NARROW.but(group="4x4"), {}, 112.7),
    "4x4, bfloat16": Budget(NARROW.but(group="4x4", dtype=BFLOAT), {}, 112.7),
    "4x4, float": Budget(NARROW.but(group="4x4", dtype=FLOAT), {}, 108.3),
    "4x4, 90 % pruned": Budget(NARROW.but(group="4x4", density=0.1), {}, 195.0),
    "4x4, float, 90 % pruned": Budget(NARROW.but(group="4x4", density=0.1, dtype=FLOAT), {}, 183.9),
    "1x8, 1x1": Budget(POINT.but(layout="simt", group="1x8"), {}, 95.6),
    "1x8, dense": Budget(NARROW.but(channels=16, density=1.0), {}, 55.3),
    # Steps of which only some columns are kept.
    "1x8, few filters": Budget(FEW, {}, 381.3),
    "1x8, few filters, float": Budget(FEW.but(dtype=FLOAT), {}, 395.0),
    "4x4, few filters, float": Budget(FEW.but(dtype=FLOAT, group="4x4"), {}, 384.5),
}

CONVOLUTIONS = {"tensor_core": TENSOR_CORE, "compressed": COMPRESSED, "simt": SIMT}

NORMS = {
    "1x1, 1x8": ((8, 512, 1, 1), "1x8"),
    "1x1, 1x16": ((8, 512, 1, 1), "1x16"),
    "1x1, 4x4": ((16, 512, 1, 1), "4x4"),
    "1x1, 16x16": ((32, 256, 1, 1), "16x16"),
    "3x3, 1x8": ((4, 128, 3, 3), "1x8"),
    "3x3, 4x4": ((4, 128, 3, 3), "4x4"),
}


@dataclass(frozen=True)
class Measured:
    """A launch's counts, and what they should be."""

    counts: Counts
    executed: int
    """Instructions that compute: `mma`, `fma` of SIMT kernels."""
    needed: int
    """As many for each kept tile and each tile of pixels."""
    ideal_sectors: float
    units: float
    """What instructions are counted for; see `Budget`. In norms 32 weights."""

    @property
    def instructions(self) -> float:
        """Of a unit."""
        return self.counts.total / self.units

    @property
    def sectors(self) -> float:
        """Read from global memory, as a part of the ideal."""
        return self.counts.global_load_sectors / self.ideal_sectors

    @property
    def conflicts(self) -> float:
        """Bank conflicts, as a part of all accesses to shared memory."""
        return self.counts.bank_conflicts / max(self.counts.shared_wavefronts, 1)


def measure_conv(runner: Runner, budget: Budget) -> Measured:
    """Run a case; its result is held against the reference too."""
    tensors = tensors_of(budget.case)
    tensors.check(runner.conv2d(tensors, **budget.how), tf32_activations=True)
    call = runner.last
    counts = call.reports[0].counts
    tiles = int(call.lists["tile_offsets"][-1])
    if budget.case.layout == "tensor_core":
        columns = call.lists["columns"].reshape(-1, 4)
        assert tiles == np.bitwise_count(columns[:, 3]).sum()
        pixels = 128 if budget.how.get("strips") == 8 else budget.how.get("pixels", 64)
        needed = tiles * (padded_pixels(budget.case, pixels) // 8)
        return Measured(counts, counts.mma, needed, ideal_sectors(call, pixels, 512), needed)
    if budget.case.layout == "compressed":
        listed = int((call.lists["piece_masks"] != 0).sum())
        assert tiles == np.bitwise_count(call.lists["piece_masks"].view(np.uint32)).sum()
        needed = listed * (padded_pixels(budget.case, 64) // 8)
        return Measured(counts, counts.mma, needed, ideal_sectors(call, 64, 16), needed)
    chunk = call.given["chunk"]
    # A lane has four pixels: a multiply-add for each of them and of the chunk's channels.
    needed = tiles * chunk * 4 * (padded_pixels(budget.case, 128) // 128)
    executed = counts.instructions["fma.rn.f32"]
    return Measured(counts, executed, needed, ideal_sectors(call, 128, 4 * chunk), needed / 32)


def measure_norm(
    runner: Runner, shape: tuple[int, ...], group: str, dtype: torch.dtype
) -> Measured:
    """Run a norm; nothing is multiplied there."""
    weight = torch.randn(shape).to(dtype)
    runner.module.BACKEND.group_l1_norm(weight, GroupShape.of(group))
    counts = runner.last.reports[0].counts
    ideal = weight.numel() * weight.element_size() / 32
    return Measured(counts, 0, 0, ideal, weight.numel() / 32)


def padded_pixels(case: Case, tile: int) -> int:
    """Output pixels, the missing ones of the last tile included."""
    sizes = [
        (s + 2 * p - d * (k - 1) - 1) // stride + 1
        for s, p, d, k, stride in zip(
            case.size, case.padding, case.dilation, case.kernel, case.stride, strict=True
        )
    ]
    return -(-case.batch * sizes[0] * sizes[1] // tile) * tile


def ideal_sectors(call: Any, tile: int, tile_bytes: int) -> float:
    """Sectors that all thread blocks have to read, each for itself."""
    given, lists = call.given, call.lists
    inside = taps_inside(given, tile)  # [pixel tiles, taps]
    columns = lists["columns"].reshape(-1, 4)
    block = np.searchsorted(lists["block_offsets"], np.arange(len(columns)), "right")
    size = 4 if given["dtype"] == "float32" else 2
    chunk = given.get("chunk", 32 // size)
    kept = columns[:, 3] != 0
    if "filter_masks" in lists:
        kept = lists["filter_masks"].reshape(-1, 2).any(1)
    # Of a pixel: two columns may lie in one sector.
    sectors = {
        (of, y, x, (channel + i) * size // 32)
        for of, (y, x, channel, _) in zip(block[kept], columns[kept], strict=True)
        for i in range(chunk)
    }
    activations = sum(inside[:, y, x].sum() for _, y, x, _ in sectors)
    entry = 16 + 4 + 8 * ("filter_masks" in given) + 16 * ("piece_masks" in given)
    tiles = int(lists["tile_offsets"][-1]) * tile_bytes
    total = activations + len(inside) * (tiles + len(columns) * entry) / 32
    batch, filters, out_h, out_w = given["output_shape"]
    if given["splits"] == 1:
        if given["residual"]:
            total += batch * out_h * out_w * filters * size / 32
        if given["bias"]:
            total += len(inside) * filters * 4 / 32
    return float(total)


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


# ---- the table ----------------------------------------------------------------------------------

HEAD = """\
| kernel | dtype | group | layer | executed | needed | sectors / ideal | conflicts | instructions |
|---|---|---|---|---:|---:|---:|---:|---:|"""


def table(runner: Runner) -> list[str]:
    """The lines of docs/gpu.md: a row for each case, and the instructions of all."""
    rows, total = HEAD.splitlines(), 0
    for kernel, budgets in CONVOLUTIONS.items():
        for name, budget in budgets.items():
            case, measured = budget.case, measure_conv(runner, budget)
            rows.append(row(kernel, case.dtype, case.group, layer(name, case), measured))
            total += measured.counts.total
    for name, (shape, group) in NORMS.items():
        measured = measure_norm(runner, shape, group, HALF)
        size = "x".join(map(str, shape))
        rows.append(row("group_l1_norm", HALF, group, f"{name.split(',')[0]}: {size}", measured))
        total += measured.counts.total
    return [*rows, "", f"All of these together execute {total:,} instructions of warps."]


def layer(name: str, case: Case) -> str:
    size = "x".join(map(str, case.size))
    kept = f"{1 - case.density:.0%} pruned".replace("%", " %")
    return f"{name}: {case.channels} to {case.filters} channels, {size}, {kept}"


def row(kernel: str, dtype: torch.dtype, group: str, what: str, measured: Measured) -> str:
    cells = [
        f"`{kernel}`",
        str(dtype).removeprefix("torch."),
        group,
        what,
        f"{measured.executed:,}" if measured.needed else "-",
        f"{measured.needed:,}" if measured.needed else "-",
        f"{measured.sectors:.2f}",
        f"{100 * measured.conflicts:.1f} %",
        f"{measured.instructions:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    import tempfile

    from cuda_kernels import Gpu
    from kernel_runner import running

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, running(Gpu.build(Path(folder))) as runner:
        print("\n".join(table(runner)))


if __name__ == "__main__":
    main()
