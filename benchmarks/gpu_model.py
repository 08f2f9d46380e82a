# SPDX-License-Identifier: MIT
"""The least time that layers can take on a GPU, dense and ours, from counts: nothing is measured.

Run it as ``python benchmarks/gpu_model.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from arguments import (
    SPARSITIES,
    OneLineParser,
    add_masks,
    input_file,
    output_file,
    run_benchmark,
)
from l1sparse import GroupShape
from l1sparse.cli.arguments import count
from l1sparse.gpu.cells import Kept, KeptAtRandom, KeptByMask
from l1sparse.gpu.chips import CHIPS, Chip
from l1sparse.gpu.choose import Choice, choose_layout
from l1sparse.gpu.model import BYTES, Convolution, Floor, Work, dense_work, floor
from l1sparse.group_mask import nonzero_groups
from l1sparse.report.table import table
from masks import Case, Setting, file_cases, fits
from output import progress, write_json
from suites import SUITES, Layer

CACHES = ("flushed", "warm")
LIMITS = ("math", "dram", "l2", "shared")
GROUPS = [GroupShape(16, 16), GroupShape(1, 8)]

DESCRIPTION = """\
Counts what layers have to do on a GPU, and divides by what public documents say that chips can do
at best. The longest of the times is a floor: no kernel is faster, every kernel is slower, and a
ratio of two floors is no speedup. Nothing is measured, and no GPU is needed.

  floor    the longer of arithmetic and DRAM traffic
  on chip  the longest of these and of what our kernels read from the L2 cache (where its bandwidth
           is published) and move through shared memory; dense is not charged with either

With the L2 cache flushed all bytes pass DRAM once; warm, only what exceeds its size.
Random masks are counted as they are on average; launches are counted, not timed.
"""
EXAMPLES = """\
  python benchmarks/gpu_model.py --totals
  python benchmarks/gpu_model.py --chip A100,H100 --group 16x16 --sparsity 0.75 --cache warm
  python benchmarks/gpu_model.py --suite vgg16 --dtype float32 --group 16x8 --json floors.json
  python benchmarks/gpu_model.py --suite resnet50 --mask pruned.safetensors --batch 1
"""
NOTE = "floors from counts and datasheets; no time was measured on a GPU"


@dataclass(frozen=True)
class Row:
    """A layer's floors on a chip."""

    chip: Chip
    layer: Layer
    name: str
    """Of the layer in the compressed file, or empty."""
    setting: Setting
    dense: Work
    choice: Choice

    @cached_property
    def floors(self) -> dict[str, dict[str, Floor]]:
        """By cache, then ``"dense"``, ``"floor"`` and ``"on_chip"``."""
        return {
            cache: {
                "dense": floor(self.dense, self.chip, warm=cache == "warm", on_chip=False),
                "floor": floor(self.choice.work, self.chip, warm=cache == "warm", on_chip=False),
                "on_chip": floor(self.choice.work, self.chip, warm=cache == "warm"),
            }
            for cache in CACHES
        }

    @property
    def density(self) -> float:
        """Kept weights over all."""
        return self.choice.work.kept_weights / self.dense.kept_weights

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        ours = self.choice
        return {
            "chip": self.chip.name,
            **asdict(self.layer),
            "name": self.name,
            **asdict(self.setting),
            "density": self.density,
            "layout": ours.layout,
            "tiling": asdict(ours.tiling),
            "channels": ours.channels,
            "permuted": ours.order is not None,
            "fill_in": ours.fill_in,
            "dense": asdict(self.dense),
            "ours": asdict(ours.work),
            "caches": {
                cache: {
                    name: {"us": f.microseconds, "binds": f.binds, "limits": dict(f.limits)}
                    for name, f in floors.items()
                }
                for cache, floors in self.floors.items()
            },
        }

    def cells(self, cache: str) -> list[str]:
        """The row of the table."""
        floors, ours = self.floors[cache], self.choice
        work = ours.work
        permuted = ", permuted" if ours.order is not None else ""
        return [
            f"{self.name}: {self.layer}" if self.name else str(self.layer),
            str(self.layer.count),
            f"{ours.layout} {ours.tiling.filters}x{ours.tiling.pixels}{permuted}",
            f"{ours.fill_in:.2f}",
            f"{self.dense.flops / 1e9:.2f}",
            f"{work.flops / 1e9:.2f}",
            f"{self.dense.footprint / 1e6:.1f}",
            f"{work.footprint / 1e6:.1f}",
            *_time(floors["dense"]),
            *_time(floors["floor"]),
            f"{floors['dense'].microseconds / floors['floor'].microseconds:.2f}",
            *_time(floors["on_chip"]),
            f"{floors['dense'].microseconds / floors['on_chip'].microseconds:.2f}",
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; see `run_benchmark`."""
    parser = OneLineParser("gpu_model.py", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--suite", choices=SUITES, default="resnet50", help="layers (default: %(default)s)"
    )
    parser.add_argument(
        "--chip",
        type=chips,
        default=list(CHIPS.values()),
        metavar="NAMES",
        help=f"with commas between them (default: {','.join(CHIPS)})",
    )
    add_masks(parser, "16x16,1x8")
    parser.add_argument(
        "--mask",
        type=input_file,
        metavar="FILE",
        help="take group shapes and masks from a network that l1sparse.save() wrote",
    )
    parser.add_argument(
        "--dtype", choices=BYTES, default="float16", help="of activations (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=count, default=32, metavar="N", help="images (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", choices=CACHES, default="flushed", help="of layer tables (default: %(default)s)"
    )
    parser.add_argument("--totals", action="store_true", help="print no layers")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write rows and totals there"
    )
    return run_benchmark(parser, run, arguments)


def run(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Count, print and write."""
    works, notes = _layers(parser, options)
    rows = [
        Row(chip, layer, name, setting, dense_work(conv, chip), choose_layout(conv, kept, chip))
        for layer, name, setting, conv, kept in progress(works, "layers")
        for chip in options.chip
    ]
    by_table: dict[tuple[str, Setting], list[Row]] = {}
    for row in rows:
        by_table.setdefault((row.chip.name, row.setting), []).append(row)
    totals = [total(some, cache) for some in by_table.values() for cache in CACHES]
    if options.json:
        record = {
            "note": NOTE,
            "settings": {
                "suite": options.suite,
                "mask": None if options.mask is None else options.mask.name,
                "dtype": options.dtype,
                "batch": options.batch,
            },
            "chips": {chip.name: {**asdict(chip), "l2": chip.l2} for chip in options.chip},
            "notes": notes,
            "rows": [row.to_dict() for row in rows],
            "totals": totals,
        }
        write_json(options.json, record)
    print(f"{NOTE}\nsuite {options.suite}, {options.dtype}, batch {options.batch}")
    for note in notes:
        print(f"note: {note}")
    if not options.totals:
        for (chip, setting), some in by_table.items():
            print(f"\n{chip}, {setting}, L2 {options.cache}\n")
            print(layer_table(some, options.cache))
    print(f"\ntotals, each layer as often as the network has it\n\n{total_table(totals)}")


def chips(text: str) -> list[Chip]:
    """``A100,H100`` as chips, each once."""
    by_name = {name.lower(): chip for name, chip in CHIPS.items()}
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected names out of {', '.join(CHIPS)} with commas between them"
        )
    return [by_name[name] for name in names]


def convolution(layer: Layer, batch: int, dtype: str) -> Convolution:
    """A suite's layer as the model takes it."""
    return Convolution(
        batch,
        layer.weight_shape,
        (layer.size, layer.size),
        (layer.stride, layer.stride),
        (layer.padding, layer.padding),
        dtype=dtype,
    )


def total(rows: Sequence[Row], cache: str) -> dict[str, Any]:
    """The sums of one chip's rows of one setting, each layer as often as the network has it."""

    def microseconds(which: str) -> float:
        return sum(row.layer.count * row.floors[cache][which].microseconds for row in rows)

    dense, least, on_chip = (microseconds(which) for which in ("dense", "floor", "on_chip"))
    binds = {
        which: {
            limit: sum(
                row.layer.count * row.floors[cache][which].microseconds
                for row in rows
                if row.floors[cache][which].binds == limit
            )
            for limit in LIMITS
        }
        for which in ("dense", "floor", "on_chip")
    }
    return {
        "chip": rows[0].chip.name,
        **asdict(rows[0].setting),
        "cache": cache,
        "layers": sum(row.layer.count for row in rows),
        "launches": sum(row.layer.count * row.choice.work.launches for row in rows),
        "dense_us": dense,
        "floor_us": least,
        "ratio": dense / least,
        "on_chip_us": on_chip,
        "on_chip_ratio": dense / on_chip,
        "binds": binds,
    }


def layer_table(rows: Sequence[Row], cache: str) -> str:
    """A line a layer."""
    header = ["layer", "count", "ours", "fill-in", "dense GFLOP", "ours", "dense MB", "ours"]
    header += ["dense us", "binds", "floor us", "binds", "ratio", "on chip us", "binds", "ratio"]
    return table(header, [row.cells(cache) for row in rows])


def total_table(totals: Sequence[dict[str, Any]]) -> str:
    """A line a chip, setting and state of the cache."""
    header = ["chip", "group", "pruned", "L2", "dense us", "binds", "floor us", "binds", "ratio"]
    lines = [
        [
            x["chip"],
            x["group"],
            Setting(x["group"], x["sparsity"]).pruned.removesuffix(" pruned"),
            x["cache"],
            f"{x['dense_us']:.0f}",
            _shares(x["binds"]["dense"]),
            f"{x['floor_us']:.0f}",
            _shares(x["binds"]["floor"]),
            f"{x['ratio']:.2f}",
            f"{x['on_chip_us']:.0f}",
            _shares(x["binds"]["on_chip"]),
            f"{x['on_chip_ratio']:.2f}",
        ]
        for x in totals
    ]
    return table([*header, "on chip us", "binds", "ratio"], lines)


def _layers(
    parser: OneLineParser, options: argparse.Namespace
) -> tuple[list[tuple[Layer, str, Setting, Convolution, Kept]], list[str]]:
    layers: Sequence[Layer] = SUITES[options.suite]
    if options.mask is None:
        shapes = options.group or GROUPS
        works: list[tuple[Layer, str, Setting, Convolution, Kept]] = [
            (
                layer,
                "",
                Setting(str(shape), sparsity),
                convolution(layer, options.batch, options.dtype),
                KeptAtRandom(layer.weight_shape, shape, 1 - sparsity),
            )
            for shape in shapes
            for sparsity in options.sparsity or SPARSITIES
            for layer in layers
            if fits(layer, shape)
        ]
        if not works:
            parser.error(f"--group: is larger than every layer of suite {options.suite}")
        small = [(x, shape) for shape in shapes for x in layers if not fits(x, shape)]
        return works, [f"{layer}: smaller than a {shape} group" for layer, shape in small]
    if options.group or options.sparsity:
        parser.error("--mask: has group shapes and sparsity of its own, leave out the others")
    try:
        cases, notes = file_cases(layers, options.mask)
    except (OSError, ValueError) as error:
        parser.error(f"--mask: {error}")
    if not cases:
        parser.error(f"--mask: {str(options.mask)!r} has no pruned layer of suite {options.suite}")
    return [
        (x.layer, x.name, x.setting, convolution(x.layer, options.batch, options.dtype), _kept(x))
        for x in cases
    ], notes


def _kept(case: Case) -> Kept:
    weight = case.weight()
    return KeptByMask.of(nonzero_groups(weight, case.group), weight.shape, case.group)


def _time(floor: Floor) -> list[str]:
    return [f"{floor.microseconds:.1f}", floor.binds]


def _shares(microseconds: dict[str, float]) -> str:
    """``dram 90 %, math 10 %``: what binds, by share of the time."""
    whole = sum(microseconds.values())
    parts = sorted(microseconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * us / whole:.0f} %" for name, us in parts if us > 0)


if __name__ == "__main__":
    sys.exit(main())
