# SPDX-License-Identifier: MIT
"""How fast a whole pruned network is, beside the dense one in every runtime that is installed.

Run it as ``python benchmarks/model.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from arguments import GROUPS, SPARSITIES, Parser, add_masks, add_plot, run_benchmark
from l1sparse import GroupShape, accelerate, layer_choices
from l1sparse.cli.arguments import count
from l1sparse.convert.measure import Timing, alternate
from l1sparse.group_mask import expand_group_mask
from l1sparse.report.table import table
from machine import describe, headline, keep_freed_memory, threads
from memory import peak_memory, traced
from networks import NETWORKS, with_random_statistics
from output import write_json
from runtimes import dense_calls

TURN_SECONDS = 0.1
# Outputs are logits of random networks; runtimes sum in different orders.
LARGEST_ERROR = 1e-3

DESCRIPTION = """\
Times whole networks, pruned and accelerated, against the dense network in torch (eager, batch norm
folded, TorchScript, torch.compile with frozen weights), ONNX Runtime and OpenVINO, whichever are
installed. All convolutions but the first and depthwise ones are pruned by random masks. Runtimes
take turns; times are medians. Outputs are compared before the clock starts. Memory is what a
process of its own needs for the network and a call, dense in torch (eager) and accelerated.
"""
EXAMPLES = """\
  python benchmarks/model.py --network resnet18
  python benchmarks/model.py --network resnet50 --sparsity 0.75 --batch 8 --threads 2
  python benchmarks/model.py --network resnet50,vgg16 --group 1x16 --json models.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see `run_benchmark`."""
    parser = Parser("model.py", DESCRIPTION, EXAMPLES, suites=False)
    parser.add_argument(
        "--network",
        type=_networks,
        default=["resnet18"],
        metavar="NAMES",
        help=f"of {', '.join(NETWORKS)}, with commas between them (default: resnet18)",
    )
    add_masks(parser)
    parser.add_argument(
        "--batch", type=count, default=1, metavar="N", help="images (default: %(default)s)"
    )
    add_plot(parser, "the times as bars")
    return run_benchmark(parser, run, arguments)


def run(parser: Parser, options: argparse.Namespace) -> None:
    """Measure, print and write."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    keep_freed_memory()
    with threads(options.threads) as core, torch.inference_mode():
        for name in options.network:
            more, found = _measure(name, options)
            rows += more
            notes += found
    machine = describe({torch.ops.l1sparse._last_conv2d_isa()}, options.threads, core)
    if options.json:
        settings = {
            "networks": options.network,
            "batch": options.batch,
            "rounds": options.rounds,
            "seed": options.seed,
        }
        record = {"machine": machine, "settings": settings, "notes": notes, "rows": rows}
        write_json(options.json, record)
    if options.plot:
        from plot import plot_networks

        plot_networks(options.plot, rows, headline(machine))
    print(headline(machine))
    print(f"batch {options.batch}, random masks; medians of {options.rounds} turns each")
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    print()
    print(_table(rows))


def _measure(name: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    torch.manual_seed(options.seed)
    example = torch.randn(options.batch, 3, 224, 224)
    dense = _network(name)
    calls, notes = dense_calls(dense, example, options.threads)
    _compare(name, calls, dense(example))
    dense_mb = peak_memory(traced(dense), example, options.threads)
    rows = []
    for group in options.group or GROUPS:
        for sparsity in options.sparsity or SPARSITIES:
            pruned = _pruned(name, group, sparsity, options.seed)
            fast = accelerate(pruned, example, group)
            ours = partial(fast, example)
            title = f"l1sparse {group}, {100 * sparsity:g} % pruned"
            _compare(name, {title: ours}, pruned(example))
            times = alternate({**calls, "l1sparse": ours}, options.rounds, TURN_SECONDS)
            row = _row(name, group, sparsity, options.batch, times, fast)
            assert isinstance(fast, fx.GraphModule)
            ours_mb = peak_memory(fast, example, options.threads)
            rows.append({**row, "peak_mb": {"dense": dense_mb, "l1sparse": ours_mb}})
    return rows, notes


def _network(name: str) -> nn.Module:
    return with_random_statistics(NETWORKS[name]().eval())


def _pruned(name: str, group: GroupShape, sparsity: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = _network(name)
    # A filter of a depthwise convolution sees one channel: there are none to group.
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    for conv in convolutions[1:]:
        keep = torch.rand(group.grid(conv.weight.shape)) >= sparsity
        conv.weight.mul_(expand_group_mask(keep, conv.weight.shape, group))
    return network


def _compare(name: str, calls: dict[str, Any], expected: Tensor) -> None:
    """Check the outputs.

    Raises:
        RuntimeError: if one is off by more than rounding explains.
    """
    scale = expected.abs().max()
    for runtime, call in calls.items():
        error = float((call() - expected).abs().max() / scale)
        if not error <= LARGEST_ERROR:
            raise RuntimeError(f"{name}: {runtime} is off by {error:.2g} of the largest output")


def _row(
    name: str,
    group: GroupShape,
    sparsity: float,
    batch: int,
    times: dict[str, Timing],
    fast: nn.Module,
) -> dict[str, Any]:
    dense = {runtime: timing for runtime, timing in times.items() if runtime != "l1sparse"}
    best = min(dense, key=lambda runtime: dense[runtime].median)
    choices = layer_choices(fast)
    return {
        "network": name,
        "group": str(group),
        "sparsity": sparsity,
        "batch": batch,
        "best_dense": best,
        "dense_ms": dense[best].median,
        "ours_ms": times["l1sparse"].median,
        "speedup": dense[best].median / times["l1sparse"].median,
        "sparse_layers": sum(choice.choice == "sparse" for choice in choices),
        "layers": len(choices),
        "milliseconds": {
            runtime: {"median": t.median, "low": t.low, "high": t.high}
            for runtime, t in times.items()
        },
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    header = ["network", "group", "pruned", "best dense", "dense ms", "ours ms", "speedup"]
    return table(
        [*header, "sparse layers", "dense MB", "ours MB"],
        [
            [
                row["network"],
                row["group"],
                f"{100 * row['sparsity']:g} %",
                row["best_dense"],
                f"{row['dense_ms']:.1f}",
                f"{row['ours_ms']:.1f}",
                f"{row['speedup']:.2f}x",
                f"{row['sparse_layers']}/{row['layers']}",
                *(_megabytes(row["peak_mb"][which]) for which in ("dense", "l1sparse")),
            ]
            for row in rows
        ],
    )


def _megabytes(number: float | None) -> str:
    return "not measured" if number is None else f"{number:.0f}"


def _networks(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if not all(name in NETWORKS for name in names):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected some of {', '.join(NETWORKS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
