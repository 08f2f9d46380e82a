# SPDX-License-Identifier: MIT
"""How fast `sparse_conv2d` is, layer by layer, beside the best dense convolution that torch has.

Run it as ``python benchmarks/latency.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import candidates
from arguments import Parser, count, fractions, groups, input_file, output_file, run_benchmark
from candidates import (
    LAYOUTS,
    Call,
    Candidate,
    Reference,
    WrongOutputError,
    rotating,
)
from l1sparse import GroupShape
from l1sparse.convert.measure import alternate
from l1sparse.group_mask import expand_group_mask, nonzero_groups
from l1sparse.ops import STRATEGIES, pack, packed_info
from machine import describe, headline, keep_freed_memory, last_level_cache_bytes, threads
from masks import Case, Setting, file_cases, random_cases
from output import progress, write_json
from results import Row, layer_table, total, total_table
from suites import SUITES, Layer

GROUPS = [GroupShape(1, 8)]
SPARSITIES = [0.5, 0.75, 0.9]
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
TURN_SECONDS = 0.005  # of one candidate: several calls, so that none finds only the others' caches

DESCRIPTION = """\
Times sparse_conv2d against the fastest of torch's dense convolutions: eager and oneDNN with its
weight reordered beforehand, each NCHW and channels_last. Of ours the faster of NCHW and
channels_last counts, input and output in the same layout, conversions inside the operator
included. Candidates take turns; times are medians. Every output is checked before it is timed.

suites, for images of 224x224, all without the network's first convolution, which has too few
channels to be pruned:
  demo       four layers of ResNet-50, once each
  resnet50   the other 52 convolutions of ResNet-50
  vgg16      the other 12 convolutions of VGG-16
  mobile     EfficientNet-Lite0's dense convolutions: the 1x1 ones (its only dense 3x3 is the first)
"""
EXAMPLES = """\
  python benchmarks/latency.py
  python benchmarks/latency.py --suite resnet50 --group 1x8,1x16,4x4 --json resnet50.json
  python benchmarks/latency.py --suite mobile --sparsity 0.5,0.6,0.7,0.8,0.9 --plot mobile.png
  python benchmarks/latency.py --suite resnet50 --mask pruned.safetensors --threads 2
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see `run_benchmark`."""
    parser = Parser("latency.py", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--group",
        type=groups,
        metavar="SHAPES",
        help="filters x channels, with commas between them (default: 1x8)",
    )
    parser.add_argument(
        "--sparsity",
        type=fractions,
        metavar="SHARES",
        help="of groups pruned at random, 0 to 1 (default: 0.5,0.75,0.9)",
    )
    parser.add_argument(
        "--mask",
        type=input_file,
        metavar="FILE",
        help="take group shapes, masks and weights from a network that l1sparse.save() wrote, "
        "matched to the suite's layers by the weights' shapes",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of input and weight; dense may run in float32 all the same (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=count, default=1, metavar="N", help="images (default: %(default)s)"
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="auto",
        help="force one; layers that it does not do show '-' (default: %(default)s)",
    )
    parser.add_argument(
        "--layout",
        choices=("best", *(layout.lower() for layout in LAYOUTS)),
        default="best",
        help="hold ours to one (default: %(default)s)",
    )
    parser.add_argument(
        "--cold",
        action="store_true",
        help="rotate over copies of input and weight that exceed the last-level cache",
    )
    parser.add_argument(
        "--plot", type=output_file, metavar="FILE", help="draw speedup over sparsity, a PNG"
    )
    return run_benchmark(parser, run, arguments)


def run(parser: Parser, options: argparse.Namespace) -> None:
    """Measure, print and write."""
    cases, notes = _cases(parser, options)
    settings = _settings(parser, options)
    rows = []
    keep_freed_memory()
    with threads(options.threads) as core, torch.inference_mode():
        for case in progress(cases, "layers"):
            row, more = measure(case, settings)
            rows.append(row)
            notes += more
    machine = describe({row.isa for row in rows if row.isa}, options.threads, core)
    notes = list(dict.fromkeys(notes))
    by_setting: dict[Setting, list[Row]] = {}
    for row in rows:
        by_setting.setdefault(row.setting, []).append(row)
    totals = [total(setting, group) for setting, group in by_setting.items()]

    if options.json:
        record = {
            "machine": machine,
            "settings": _settings_record(options),
            "notes": notes,
            "rows": [row.to_dict() for row in rows],
            "totals": totals,
        }
        write_json(options.json, record)
    if options.plot:
        from plot import plot_speedup

        plot_speedup(options.plot, rows, f"{headline(machine)}\n{_settings_line(options)}")

    print(headline(machine))
    print(_settings_line(options))
    for note in notes:
        print(f"note: {note}")
    for setting, group in by_setting.items():
        print(f"\n{setting}\n\n{layer_table(group)}")
    print(f"\ntotals, each layer as often as the network has it\n\n{total_table(totals)}")


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    dtype: torch.dtype
    batch: int
    strategy: str
    layouts: list[str]
    cache_bytes: int
    """Of the cache that inputs and weights have to exceed; 0: warm, one of each."""
    rounds: int
    seed: int


def measure(case: Case, settings: Settings) -> tuple[Row, list[str]]:
    """Check and time a layer.

    Returns:
        The row, and notes on candidates that do not run here.

    Raises:
        RuntimeError: if ours does not run although its strategy is its own choice, if no dense
            candidate runs, or if an output is wrong.
    """
    layer, dtype = case.layer, settings.dtype
    random = torch.Generator().manual_seed(settings.seed)
    shape = (settings.batch, layer.in_channels, layer.size, layer.size)
    input = torch.randn(shape, generator=random).to(dtype)
    weight = case.weight().to(dtype)
    kept = expand_group_mask(nonzero_groups(weight, case.group), weight.shape, case.group)
    reference = Reference.of(layer, input, weight)
    dense = [
        candidate
        for kind in dict.fromkeys((dtype, torch.float32))
        for candidate in candidates.dense_candidates(layer, input, weight, kind)
    ]
    notes = []

    dense_calls: dict[str, Call] = {}
    for candidate in dense:
        try:
            dense_calls[candidate.name] = _checked(case, candidate, reference, settings)
        except WrongOutputError:
            raise
        except (AttributeError, RuntimeError) as error:
            notes.append(f"dense {candidate.name} does not run here: {_first_line(error)}")
    if not dense_calls:
        raise RuntimeError(f"{case}: no dense convolution runs here: {notes[0]}")

    our_calls: dict[str, Call] = {}
    isa = ""
    try:
        packed = pack(weight, None, case.group, settings.strategy)
        for candidate in candidates.our_candidates(layer, input, packed, settings.layouts):
            call = _checked(case, candidate, reference, settings, ours=True)
            isa = candidates.last_isa()
            our_calls[candidate.name] = call
    except WrongOutputError:
        raise
    except RuntimeError as error:
        text = f"{case}: strategy {settings.strategy} does not run: {_first_line(error)}"
        if settings.strategy == "auto":
            raise RuntimeError(text) from error
        notes.append(text)
        our_calls.clear()

    times = alternate({**dense_calls, **our_calls}, settings.rounds, TURN_SECONDS)
    row = Row(
        layer=layer,
        name=case.name,
        setting=case.setting,
        batch=settings.batch,
        density=kept.float().mean().item(),
        dense={name: times[name] for name in dense_calls},
        ours={name: times[name] for name in our_calls},
        strategy=packed_info(packed).strategy if our_calls else "",
        isa=isa,
    )
    return row, notes


def _checked(
    case: Case, candidate: Candidate, reference: Reference, settings: Settings, ours: bool = False
) -> Call:
    """The call to time, once its output was found to be right."""
    calls = candidate.calls(settings.cache_bytes)
    for call in calls:  # all of them: what is done at a buffer's first use is done then
        output = call()
    try:
        reference.check(output, dense=not ours)
        if ours and not output.is_contiguous(memory_format=LAYOUTS[candidate.name]):
            raise WrongOutputError("is in another layout than the input")
    except WrongOutputError as error:
        who = "ours" if ours else "dense"
        raise WrongOutputError(f"{case}: the output of {who} {candidate.name} {error}") from None
    return rotating(calls)


def _cases(parser: Parser, options: argparse.Namespace) -> tuple[list[Case], list[str]]:
    layers: Sequence[Layer] = SUITES[options.suite]
    if options.mask is None:
        cases, notes = random_cases(
            layers, options.group or GROUPS, options.sparsity or SPARSITIES, options.seed
        )
        if not cases:
            parser.error(f"--group: is larger than every layer of suite {options.suite}")
        return cases, notes
    if options.group or options.sparsity:
        parser.error("--mask: has group shapes and sparsity of its own, leave out the others")
    try:
        cases, notes = file_cases(layers, options.mask)
    except (OSError, ValueError) as error:
        parser.error(f"--mask: {error}")
    if not cases:
        parser.error(f"--mask: {str(options.mask)!r} has no pruned layer of suite {options.suite}")
    return cases, notes


def _settings(parser: Parser, options: argparse.Namespace) -> Settings:
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot: needs matplotlib; pip install 'l1sparse[benchmark]'")
    dtype = DTYPES[options.dtype]
    if dtype != torch.float32:
        _check_dtype(parser, options.dtype)
    return Settings(
        dtype=dtype,
        batch=options.batch,
        strategy=options.strategy,
        layouts=[x for x in LAYOUTS if options.layout in ("best", x.lower())],
        cache_bytes=last_level_cache_bytes() if options.cold else 0,
        rounds=options.rounds,
        seed=options.seed,
    )


def _check_dtype(parser: Parser, name: str) -> None:
    """Exit where the operator does not take the dtype."""
    input = torch.ones(1, 8, 4, 4, dtype=DTYPES[name])
    weight = torch.ones(8, 8, 1, 1, dtype=DTYPES[name])
    try:
        with torch.inference_mode():
            candidates.sparse_conv2d(input, pack(weight), Layer(8, 8, 4, 1))
    except RuntimeError as error:
        parser.error(f"--dtype {name}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _settings_record(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "suite": options.suite,
        "mask": None if options.mask is None else Path(options.mask).name,
        "dtype": options.dtype,
        "batch": options.batch,
        "strategy": options.strategy,
        "layout": options.layout,
        "cache": "cold" if options.cold else "warm",
        "rounds": options.rounds,
        "seed": options.seed,
    }


def _settings_line(options: argparse.Namespace) -> str:
    record = _settings_record(options)
    masks = "random masks" if record["mask"] is None else f"masks of {record['mask']}"
    return (
        f"suite {record['suite']}, {masks}, {record['dtype']}, batch {record['batch']}, "
        f"{record['cache']} caches, strategy {record['strategy']}, layout {record['layout']}; "
        f"medians of {record['rounds']} turns each"
    )


if __name__ == "__main__":
    sys.exit(main())
