# SPDX-License-Identifier: MIT
"""How fast `group_l1_norm` is, weight by weight, beside the fastest plain torch expression.

Run it as ``python benchmarks/group_l1.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gpu_timing
from arguments import Parser, groups, run_benchmark
from gpu_timing import CudaGpu, Gpu, gpu_headline
from l1sparse import GroupShape, ops, reference
from l1sparse.build import build_info
from l1sparse.convert.measure import Timing, alternate
from l1sparse.report.table import table
from machine import describe, headline, keep_freed_memory, threads
from output import progress, write_json
from suites import SUITES, Layer

GROUPS = [GroupShape(1, 8), GroupShape(1, 16), GroupShape(4, 4)]
OURS = "ours"
TURN_SECONDS = 0.002
GPU_TURN_MS = 1.0

DESCRIPTION = """\
Times group_l1_norm on the float32 weights of a suite's layers against the fastest of three plain
torch expressions: abs().sum(), abs().mean() and vector_norm(ord=1) over the weight seen as groups.
Candidates take turns; times are medians. Every result is checked before it is timed. Weights that
groups do not divide are left out: the plain expressions would have to pad them. With --device cuda
calls are captured in CUDA graphs, and times are taken between CUDA events.
"""
EXAMPLES = """\
  python benchmarks/group_l1.py
  python benchmarks/group_l1.py --suite resnet50 --group 1x8,16x16 --json group_l1.json
"""


@dataclass(frozen=True)
class Row:
    """A weight's times."""

    layer: Layer
    group: str
    times: dict[str, Timing]

    @property
    def best_plain(self) -> str:
        """The fastest plain expression."""
        plain = [name for name in self.times if name != OURS]
        return min(plain, key=lambda name: self.times[name].median)

    @property
    def plain_ms(self) -> float:
        """Its time."""
        return self.times[self.best_plain].median

    @property
    def ours_ms(self) -> float:
        """Our time."""
        return self.times[OURS].median

    @property
    def gigabytes_per_second(self) -> float:
        """Weights read, by us."""
        out, channels, height, width = self.layer.weight_shape
        return 4 * out * channels * height * width / self.ours_ms / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "weight": list(self.layer.weight_shape),
            "count": self.layer.count,
            "group": self.group,
            "best_plain": self.best_plain,
            "plain_ms": self.plain_ms,
            "ours_ms": self.ours_ms,
            "speedup": self.plain_ms / self.ours_ms,
            "gigabytes_per_second": self.gigabytes_per_second,
            "times": {name: asdict(timing) for name, timing in self.times.items()},
        }

    def cells(self) -> list[str]:
        """The row of the table."""
        plain, ours = self.times[self.best_plain], self.times[OURS]
        return [
            "x".join(map(str, self.layer.weight_shape)),
            str(self.layer.count),
            self.best_plain,
            f"{plain.median:.4f}",
            f"{plain.low:.4f}-{plain.high:.4f}",
            f"{ours.median:.4f}",
            f"{ours.low:.4f}-{ours.high:.4f}",
            f"{self.plain_ms / self.ours_ms:.2f}x",
            f"{self.gigabytes_per_second:.1f}",
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see `run_benchmark`."""
    parser = Parser("group_l1.py", DESCRIPTION, EXAMPLES)
    parser.set_defaults(suite="resnet50")
    parser.add_argument(
        "--group",
        type=groups,
        default=GROUPS,
        metavar="SHAPES",
        help="filters x channels, with commas between them (default: 1x8,1x16,4x4)",
    )
    return run_benchmark(parser, run, arguments)


def run(parser: Parser, options: argparse.Namespace) -> None:
    """Measure, print and write."""
    layers = weights_of(SUITES[options.suite])
    cases = [(layer, group) for group in options.group for layer in layers if fits(layer, group)]
    if not cases:
        parser.error(f"--group: divides no weight of suite {options.suite}")
    notes = [
        f"{'x'.join(map(str, layer.weight_shape))}: not divided by {group} groups"
        for group in options.group
        for layer in layers
        if not fits(layer, group)
    ]
    if options.device == "cpu":
        keep_freed_memory()
        with threads(options.threads) as core, torch.inference_mode():
            rows = [
                measure(layer, group, options.rounds, options.seed)
                for layer, group in progress(cases, "weights")
            ]
        machine = describe({build_info()["chosen"]}, options.threads, core)
        title = headline(machine)
    else:
        gpu = CudaGpu()
        with gpu.guard(), torch.inference_mode():
            rows = [
                measure(layer, group, options.rounds, options.seed, gpu)
                for layer, group in progress(cases, "weights")
            ]
            machine = gpu.describe()
        title = gpu_headline(machine)
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row.group, []).append(row)
    totals = [total(group, some) for group, some in by_group.items()]

    if options.json:
        record = {
            "machine": machine,
            "settings": {
                "suite": options.suite,
                "dtype": "float32",
                "device": options.device,
                "cache": "warm",
                "rounds": options.rounds,
                "seed": options.seed,
            },
            "notes": notes,
            "rows": [row.to_dict() for row in rows],
            "totals": totals,
        }
        write_json(options.json, record)

    print(title)
    print(f"suite {options.suite}, float32, warm caches; medians of {options.rounds} turns each")
    for note in notes:
        print(f"note: {note}")
    header = ["weight", "count", "best plain", "ms", "10-90 %", "ours ms", "10-90 %", "speedup"]
    for group, some in by_group.items():
        print(f"\ngroup {group}\n\n{table([*header, 'GB/s'], [row.cells() for row in some])}")
    lines = [
        [x["group"], f"{x['plain_ms']:.3f}", f"{x['ours_ms']:.3f}", f"{x['speedup']:.2f}x"]
        for x in totals
    ]
    print("\ntotals, each weight as often as the network has it\n")
    print(table(["group", "plain ms", "ours ms", "speedup"], lines))


def weights_of(layers: Sequence[Layer]) -> list[Layer]:
    """One layer a weight shape, with the counts of all that have it."""
    counts: dict[tuple[int, ...], int] = {}
    for layer in layers:
        counts[layer.weight_shape] = counts.get(layer.weight_shape, 0) + layer.count
    return [Layer(c, o, 1, k, count=n) for (o, c, k, _), n in counts.items()]


def fits(layer: Layer, group: GroupShape) -> bool:
    """Whether groups divide the layer's weight."""
    return layer.out_channels % group.filters == 0 and layer.in_channels % group.channels == 0


def plain_expressions(weight: Tensor, group: GroupShape) -> dict[str, Callable[[], Tensor]]:
    """The norm as one would write it in torch."""
    out, channels, height, width = weight.shape
    rows, columns = out // group.filters, channels // group.channels
    shape = (rows, group.filters, columns, group.channels, height, width)
    number = group.filters * group.channels
    return {
        "abs().sum()": lambda: weight.abs().view(shape).sum((1, 3)) / number,
        "abs().mean()": lambda: weight.abs().view(shape).mean((1, 3)),
        "vector_norm": lambda: torch.linalg.vector_norm(weight.view(shape), 1, (1, 3)) / number,
    }


def measure(layer: Layer, group: GroupShape, rounds: int, seed: int, gpu: Gpu | None = None) -> Row:
    """Check and time a weight.

    Args:
        layer: whose weight.
        group: channel-group shape.
        rounds: turns of each candidate.
        seed: of the weight's numbers.
        gpu: to run on; None: the CPU.

    Raises:
        RuntimeError: if a result is wrong.
    """
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(seed))
    if gpu is not None:
        weight = weight.to(gpu.device)
    calls = plain_expressions(weight, group)
    calls[OURS] = partial(ops.group_l1_norm, weight, group)
    expected = reference.group_l1_norm(weight.double(), group)
    for name, call in calls.items():
        result = call().double()
        if result.shape != expected.shape or not torch.allclose(result, expected, 1e-5, 0.0):
            raise RuntimeError(
                f"weight {'x'.join(map(str, layer.weight_shape))}, {group}: the result of {name} "
                "is wrong"
            )
    if gpu is None:
        return Row(layer, str(group), alternate(calls, rounds, TURN_SECONDS))
    replays = {
        name: gpu_timing.prepare(gpu, call, GPU_TURN_MS, flushed=False)
        for name, call in calls.items()
    }
    return Row(layer, str(group), gpu_timing.alternate(gpu, replays, rounds, flushed=False))


def total(group: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The sums of rows, each as often as the network has the weight."""
    plain = sum(row.layer.count * row.plain_ms for row in rows)
    ours = sum(row.layer.count * row.ours_ms for row in rows)
    return {"group": group, "plain_ms": plain, "ours_ms": ours, "speedup": plain / ours}


if __name__ == "__main__":
    sys.exit(main())
