# SPDX-License-Identifier: MIT
"""How fast a training step of a layer is on its pattern, beside dense convolution's.

Run it as ``python benchmarks/training.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arguments import GROUPS, SPARSITIES, Parser, add_masks, run_benchmark
from candidates import LAYOUTS, WrongOutputError
from l1sparse import SparseConv2d
from l1sparse.cli.arguments import count
from l1sparse.convert.measure import Timing, alternate
from machine import describe, headline, keep_freed_memory, threads
from masks import Case, random_cases
from output import progress, write_json
from suites import SUITES

TURN_SECONDS = 0.005

DESCRIPTION = """\
Times forward and backward of one layer, gradients for input and weight: SparseConv2d after
train_sparse() against nn.Conv2d, each NCHW and channels_last, of which the faster one counts.
Candidates take turns; times are medians. The weight counts as changed before every step, so
gathering the kept weights, and the dense gradient that an optimizer sees, are part of the time.
Gradients are checked before they are timed. See latency.py for the suites.
"""
EXAMPLES = """\
  python benchmarks/training.py
  python benchmarks/training.py --suite resnet50 --kernel 3 --batch 8 --sparsity 0.75
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see `run_benchmark`."""
    parser = Parser("training.py", DESCRIPTION, EXAMPLES)
    add_masks(parser)
    parser.add_argument(
        "--batch", type=count, default=8, metavar="N", help="images (default: %(default)s)"
    )
    parser.add_argument(
        "--kernel", type=count, metavar="SIZE", help="only layers with a kernel of this size"
    )
    return run_benchmark(parser, run, arguments)


def run(parser: Parser, options: argparse.Namespace) -> None:
    """Measure, print and write."""
    if options.device != "cpu":
        parser.error("--device: training on the pattern is for --device cpu")
    layers = [x for x in SUITES[options.suite] if options.kernel in (None, x.kernel)]
    if not layers:
        parser.error(f"--kernel {options.kernel}: no layer of suite {options.suite} has it")
    cases, notes = random_cases(
        layers, options.group or GROUPS, options.sparsity or SPARSITIES, options.seed
    )
    if not cases:
        parser.error(f"--group: is larger than every layer of suite {options.suite}")
    keep_freed_memory()
    with threads(options.threads) as core:
        rows = [measure(case, options) for case in progress(cases, "layers")]
    machine = describe({torch.ops.l1sparse._last_conv2d_isa()}, options.threads, core)
    if options.json:
        write_json(options.json, {"machine": machine, "notes": notes, "rows": rows})
    print(headline(machine))
    print(f"forward + backward, float32, batch {options.batch}; milliseconds")
    for note in notes:
        print(f"note: {note}")
    print(f"\n{'layer':<28}{'setting':<28}{'dense':>10}{'sparse':>10}{'speedup':>10}")
    totals: dict[str, list[float]] = {}
    for row in rows:
        print(
            f"{row['layer']:<28}{row['setting']:<28}"
            f"{row['dense']:>10.2f}{row['sparse']:>10.2f}{row['dense'] / row['sparse']:>9.2f}x"
        )
        sums = totals.setdefault(row["setting"], [0.0, 0.0])
        sums[0] += row["count"] * row["dense"]
        sums[1] += row["count"] * row["sparse"]
    for setting, (dense, sparse) in totals.items():
        label = "total, each as often as it is"
        print(f"{label} {setting}: {dense:.2f} / {sparse:.2f} = {dense / sparse:.2f}x")


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Check and time a layer.

    Raises:
        WrongOutputError: if a gradient is not that of the dense convolution.
    """
    layer = case.layer
    dense = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        layer.stride,
        layer.padding,
        bias=False,
    )
    dense.weight = nn.Parameter(case.weight())
    sparse = SparseConv2d.from_dense(dense, case.group).train_sparse()
    shape = (options.batch, layer.in_channels, layer.size, layer.size)
    input = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
    steps: dict[str, Callable[[], tuple[Tensor, ...]]] = {}
    for name, format_ in LAYOUTS.items():
        for kind, module in (("dense", dense), ("sparse", sparse)):
            steps[f"{kind} {name}"] = _step(module, input.contiguous(memory_format=format_))
    _check(case, sparse, steps)
    times: dict[str, Timing] = alternate(steps, options.rounds, TURN_SECONDS)

    def best(kind: str) -> float:
        return min(t.median for name, t in times.items() if name.startswith(kind))

    return {
        "layer": str(layer),
        "setting": str(case.setting),
        "count": layer.count,
        "dense": best("dense"),
        "sparse": best("sparse"),
        "times": {name: vars(timing) for name, timing in times.items()},
    }


def _step(module: nn.Conv2d, input: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    leaf = input.detach().requires_grad_()
    with torch.no_grad():
        output = module(input)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    grad = grad.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(module(leaf), [leaf, module.weight], grad)

    return step


def _check(case: Case, sparse: SparseConv2d, steps: dict[str, Any]) -> None:
    kept = sparse.masked_weight() != 0
    expected_input, expected_weight = steps["dense NCHW"]()
    for name, step in steps.items():
        input, weight = step()
        pairs = {
            "input": (input, expected_input),
            "weight": (weight * kept, expected_weight * kept),
        }
        for which, (actual, expected) in pairs.items():
            error = (actual - expected).abs().max() / expected.abs().max()
            if not error < 1e-4:
                raise WrongOutputError(
                    f"{case}: {name}: the gradient for {which} is off by {error}"
                )


if __name__ == "__main__":
    sys.exit(main())
