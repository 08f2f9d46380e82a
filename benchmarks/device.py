# SPDX-License-Identifier: MIT
"""Pruned networks on a device's runtime, beside the dense ones on XNNPACK in the same runtime.

Run it as ``python benchmarks/device.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import copy
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arguments import (
    OneLineParser,
    fractions,
    groups,
    input_file,
    output_file,
    run_benchmark,
)
from l1sparse import (
    GroupShape,
    SparseConv2d,
    accelerate,
    build_info,
    export_executorch,
    layer_choices,
)
from l1sparse.cli.arguments import count
from l1sparse.convert.executorch import lower, with_checksum
from l1sparse.convert.measure import summary
from l1sparse.group_mask import expand_group_mask
from l1sparse.report.table import table
from machine import describe, headline, threads
from networks import NETWORKS, with_random_statistics
from output import write_json

ROOT = Path(__file__).parents[1]
CLASSIFY = ROOT / "build" / "c-example" / "classify"
LITE0 = "efficientnet-lite0"
SIZE = 224  # of the images, in pixels
MEAN, DEVIATION = 127.5, 63.0  # of pixels
# Sums are made in different orders; relative to the largest score.
LARGEST_ERROR = 1e-3

# The system charges a process with the memory that its parent had when it started: a small one
# that stands between tells the program's own peak.
LAUNCHER = """\
import os, sys
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print("peak KiB:", usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""

DESCRIPTION = """\
Exports networks for ExecuTorch, dense through XNNPACK and pruned through export_executorch, and
runs both in examples/device's C++ program, one thread, in turns; times are medians. Also the size
of the programs and the peak resident memory of the processes. Convolutions with at least a
group's channels are pruned at random, and all of them run sparse; with --choice accelerate only
those that are faster so in torch. The scores of both are compared.
"""
EXAMPLES = """\
  make device-demo && make device-bench
  python benchmarks/device.py --network resnet50 --sparsity 0.75 --rounds 5 --json device.json
"""


@dataclass
class Program:
    """An exported network, and what was measured of it."""

    path: Path
    milliseconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    scores: Tensor = field(default_factory=lambda: torch.empty(0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see `run_benchmark`."""
    parser = OneLineParser("device.py", DESCRIPTION, EXAMPLES)
    names = [*NETWORKS, LITE0]
    parser.add_argument(
        "--network",
        choices=names,
        nargs="+",
        default=["resnet50", LITE0],
        help="networks (default: resnet50 and efficientnet-lite0)",
    )
    parser.add_argument("--group", type=groups, default=[GroupShape(1, 8)], metavar="SHAPES")
    parser.add_argument("--sparsity", type=fractions, default=[0.75], metavar="SHARES")
    parser.add_argument("--choice", choices=("all", "accelerate"), default="all")
    parser.add_argument(
        "--rounds", type=count, default=11, metavar="N", help="turns of each (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=count,
        default=10,
        metavar="N",
        help="timed in a turn, after one that is not",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all randomness")
    parser.add_argument(
        "--classify",
        type=input_file,
        metavar="FILE",
        help="the C++ program that make device-demo builds",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write rows there")
    return run_benchmark(parser, run, arguments)


def run(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Export, measure, print and write."""
    classify = options.classify or CLASSIFY
    if not classify.is_file():
        parser.error(f"--classify: there is no {classify}; run make device-demo first")
    rows = []
    # Processes that are started here stay on the same core.
    with threads(1) as core, tempfile.TemporaryDirectory() as folder:
        for name in options.network:
            for group in options.group:
                for sparsity in options.sparsity:
                    setting = (name, group, sparsity)
                    rows.append(_measure(classify, Path(folder), setting, options))
    machine = describe({build_info()["chosen"]}, 1, core)  # the C++ library picks the same
    if options.json:
        settings = {
            "rounds": options.rounds,
            "images": options.images,
            "seed": options.seed,
            "choice": options.choice,
        }
        write_json(options.json, {"machine": machine, "settings": settings, "rows": rows})
    print(headline(machine))
    print(f"one image of {SIZE}x{SIZE}; medians of {options.rounds} turns each\n")
    print(_table(rows))


def _measure(
    classify: Path,
    folder: Path,
    setting: tuple[str, GroupShape, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    name, group, sparsity = setting
    torch.manual_seed(options.seed)
    network = _pruned(name, group, sparsity)
    example = torch.randn(1, 3, SIZE, SIZE)
    programs = {kind: Program(folder / f"{kind}.pte") for kind in ("dense", "sparse")}
    with torch.no_grad():
        dense = with_checksum(lower(copy.deepcopy(network), example))
    programs["dense"].path.write_bytes(dense)
    fast = _sparse(network, group) if options.choice == "all" else _chosen(network, group, example)
    export_executorch(fast, example, programs["sparse"].path)
    image = folder / "image.ppm"
    pixels = np.random.default_rng(options.seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    image.write_bytes(f"P6 {SIZE} {SIZE} 255\n".encode() + pixels.tobytes())
    for turn in range(options.rounds + 1):  # the first one only brings files and code into memory
        for program in programs.values():
            _take_turn(classify, program, image, options.images)
            if turn == 0:
                program.milliseconds.clear()
    expected, found = programs["dense"].scores, programs["sparse"].scores
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= LARGEST_ERROR:
        raise RuntimeError(f"{name}: the pruned program is off by {error:.2g} of the largest score")
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    return {
        "network": name,
        "group": str(group),
        "sparsity": sparsity,
        "sparse_layers": sum(isinstance(m, SparseConv2d) for m in fast.modules()),
        "layers": len(convolutions),
        "largest_error": error,
        **{kind: _figures(program) for kind, program in programs.items()},
    }


def _pruned(name: str, group: GroupShape, sparsity: float) -> nn.Module:
    """The network, dense, whose convolutions have zeros where they are pruned."""
    network = _lite0() if name == LITE0 else with_random_statistics(NETWORKS[name]().eval())
    for conv in _prunable(network, group).values():
        keep = torch.rand(group.grid(conv.weight.shape)) >= sparsity
        with torch.no_grad():
            conv.weight.mul_(expand_group_mask(keep, conv.weight.shape, group))
    return network


def _lite0() -> nn.Module:
    sys.path.append(str(ROOT / "experiments"))
    from lite0 import load_lite0

    try:
        network = load_lite0()
    except ImportError as error:
        raise RuntimeError(str(error)) from None
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def _prunable(network: nn.Module, group: GroupShape) -> dict[str, nn.Conv2d]:
    """Convolutions with a group's channels: neither the stem nor depthwise ones."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels // module.groups >= group.channels
    }


def _sparse(network: nn.Module, group: GroupShape) -> nn.Module:
    sparse = copy.deepcopy(network)
    for name, conv in _prunable(sparse, group).items():
        sparse.set_submodule(name, SparseConv2d.from_dense(conv, group))
    return sparse


def _chosen(network: nn.Module, group: GroupShape, example: Tensor) -> nn.Module:
    with torch.inference_mode():
        fast = accelerate(network, example, group)
    if not any(choice.choice == "sparse" for choice in layer_choices(fast)):
        raise RuntimeError("accelerate: no convolution is faster sparse")
    return fast


def _take_turn(classify: Path, program: Program, image: Path, images: int) -> None:
    """Run the C++ program on the image again and again; keep times, peak memory and scores."""
    scores = image.with_suffix(".scores")
    options = ["--mean", str(MEAN), "--deviation", str(DEVIATION), "--scores", str(scores)]
    command = [str(classify), str(program.path), *options, "--one-thread"]
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", LAUNCHER, *command, *[str(image)] * (images + 1)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{classify.name}: {done.stderr.strip() or done.stdout.strip()}")
    times = [float(ms) for ms in re.findall(r"([0-9.]+) ms$", done.stdout, re.MULTILINE)]
    program.milliseconds += times[1:]
    peak = re.search(r"^peak KiB: (\d+)$", done.stdout, re.MULTILINE)
    assert peak is not None, done.stdout
    program.peak_bytes = max(program.peak_bytes, 1024 * int(peak[1]))
    program.scores = torch.from_numpy(np.fromfile(scores, np.float32))


def _figures(program: Program) -> dict[str, Any]:
    timing = summary(program.milliseconds)
    return {
        "milliseconds": {"median": timing.median, "low": timing.low, "high": timing.high},
        "program_bytes": program.path.stat().st_size,
        "peak_bytes": program.peak_bytes,
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    def both(row: dict[str, Any], number: str) -> list[str]:
        return [f"{row[kind][number] / 1e6:.1f}" for kind in ("dense", "sparse")]

    header = ["network", "group", "pruned", "dense ms", "ours ms", "speedup"]
    header += ["dense MB", "ours MB", "dense peak MB", "ours peak MB", "sparse layers"]
    lines = []
    for row in rows:
        dense, ours = (row[kind]["milliseconds"]["median"] for kind in ("dense", "sparse"))
        lines.append(
            [
                row["network"],
                row["group"],
                f"{100 * row['sparsity']:g} %",
                f"{dense:.1f}",
                f"{ours:.1f}",
                f"{dense / ours:.2f}x",
                *both(row, "program_bytes"),
                *both(row, "peak_bytes"),
                f"{row['sparse_layers']}/{row['layers']}",
            ]
        )
    return table(header, lines)


if __name__ == "__main__":
    sys.exit(main())
