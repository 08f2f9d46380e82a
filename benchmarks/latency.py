# SPDX-License-Identifier: MIT
"""How fast `sparse_conv2d` is, layer by layer, beside the best dense convolution that torch has.

Run it as ``python benchmarks/latency.py``; ``--help`` shows examples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import candidates
import gpu_candidates
import gpu_timing
from arguments import (
    GROUPS,
    SPARSITIES,
    Parser,
    add_masks,
    add_plot,
    input_file,
    run_benchmark,
)
from candidates import (
    LAYOUTS,
    Candidate,
    Reference,
    WrongOutputError,
    rotating,
)
from gpu_timing import CudaGpu, Gpu, cudnn_benchmark, gpu_headline
from l1sparse.cli.arguments import count
from l1sparse.convert.measure import Timing, alternate
from l1sparse.gpu.backend import resolve
from l1sparse.gpu.layout import LAYOUTS as LAYOUTS_ON_GPU
from l1sparse.group_mask import expand_group_mask, nonzero_groups
from l1sparse.ops import STRATEGIES, pack, packed_info
from machine import describe, headline, keep_freed_memory, last_level_cache_bytes, threads
from masks import Case, Setting, file_cases, random_cases
from output import progress, write_json
from results import Row, layer_table, total, total_table
from suites import SUITES, Layer

GPU_DTYPES = tuple(gpu_candidates.DTYPES)
TURN_SECONDS = 0.005  # of one candidate: several calls, so that none finds only the others' caches
GPU_TURN_MS = 2.0

DESCRIPTION = """\
Times sparse_conv2d against the fastest of torch's dense convolutions: eager and oneDNN with its
weight reordered beforehand, each NCHW and channels_last. Of ours the faster of NCHW and
channels_last counts, input and output in the same layout, conversions inside the operator
included. Candidates take turns; times are medians. Every output is checked before it is timed.

With --device cuda against cuDNN in its benchmark mode, NCHW and channels_last; calls are captured
in CUDA graphs, times are taken between CUDA events, and --cold flushes the L2 cache before a call.

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
  python benchmarks/latency.py --device cuda --group 16x16 --dtype float16 --batch 32 --cold
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see `run_benchmark`."""
    parser = Parser("latency.py", DESCRIPTION, EXAMPLES)
    add_masks(parser)
    parser.add_argument(
        "--mask",
        type=input_file,
        metavar="FILE",
        help="take group shapes, masks and weights from a network that l1sparse.save() wrote, "
        "matched to the suite's layers by the weights' shapes",
    )
    parser.add_argument(
        "--dtype",
        choices=GPU_DTYPES,
        default="float32",
        help="of input and weight; on the CPU dense may run in float32 all the same, on a GPU tf32 "
        "is float32 rounded where tensor cores take it (default: %(default)s)",
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
        "--backend",
        type=backend_name,
        default="auto",
        metavar="NAME",
        help="on a GPU: auto, cuda or triton, with /tensor_core, /compressed or /simt after it to "
        "force a layout (default: %(default)s)",
    )
    parser.add_argument(
        "--eager",
        action="store_true",
        help="on a GPU: call by call instead of CUDA graphs, with what the host needs for each",
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
        help="rotate over copies of input and weight that exceed the last-level cache; on a GPU "
        "flush the L2 cache",
    )
    add_plot(parser, "speedup over sparsity")
    return run_benchmark(parser, run, arguments)


def run(parser: Parser, options: argparse.Namespace) -> None:
    """Measure, print and write."""
    cases, notes = _cases(parser, options)
    settings = _settings(parser, options)
    rows = []

    def measure_all() -> None:
        for case in progress(cases, "layers"):
            row, more = measure(case, settings)
            rows.append(row)
            notes.extend(more)

    if settings.gpu is None:
        keep_freed_memory()
        with threads(options.threads) as core, torch.inference_mode():
            measure_all()
        machine = describe({row.isa for row in rows if row.isa}, options.threads, core)
        title = headline(machine)
    else:
        # Not in inference mode: a packed weight made there would be read again at every call.
        tf32 = options.dtype == "tf32"
        with settings.gpu.guard(), torch.no_grad(), cudnn_benchmark(tf32=tf32):
            measure_all()
            machine = settings.gpu.describe()
        title = gpu_headline(machine)
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

        plot_speedup(options.plot, rows, f"{title}\n{_settings_line(options)}")

    print(title)
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
    gpu: Gpu | None = None
    """To run on; None: the CPU."""
    precision: str = "float32"
    """Of `GPU_DTYPES`."""
    backend: str = "auto"
    flushed: bool = False
    graphs: bool = True


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
    if settings.gpu is not None:
        input, weight = input.to(settings.gpu.device), weight.to(settings.gpu.device)
    reference = Reference.of(layer, input, weight)
    notes = []

    dense_calls: dict[str, Any] = {}
    for candidate in _dense_candidates(layer, input, weight, settings):
        try:
            dense_calls[candidate.name] = _checked(case, candidate, reference, settings)
        except WrongOutputError:
            raise
        except (AttributeError, RuntimeError) as error:
            notes.append(f"dense {candidate.name} does not run here: {_first_line(error)}")
    if not dense_calls:
        raise RuntimeError(f"{case}: no dense convolution runs here: {notes[0]}")

    our_calls: dict[str, Any] = {}
    isa = strategy = ""
    try:
        packed = pack(weight, None, case.group, settings.strategy)
        for candidate in _our_candidates(layer, input, packed, settings):
            call = _checked(case, candidate, reference, settings, ours=True)
            isa, strategy = _what_ran(packed, settings)
            our_calls[candidate.name] = call
    except WrongOutputError:
        raise
    except RuntimeError as error:
        which = f"strategy {settings.strategy}"
        if settings.gpu is not None:
            which = f"backend {settings.backend}"
        text = f"{case}: {which} does not run: {_first_line(error)}"
        if "auto" in which:
            raise RuntimeError(text) from error
        notes.append(text)
        our_calls.clear()

    times = _times({**dense_calls, **our_calls}, settings)
    row = Row(
        layer=layer,
        name=case.name,
        setting=case.setting,
        batch=settings.batch,
        density=kept.float().mean().item(),
        dense={name: times[name] for name in dense_calls},
        ours={name: times[name] for name in our_calls},
        strategy=strategy if our_calls else "",
        isa=isa,
    )
    return row, notes


def _dense_candidates(
    layer: Layer, input: Tensor, weight: Tensor, settings: Settings
) -> list[Candidate]:
    if settings.gpu is not None:
        return gpu_candidates.dense_candidates(layer, input, weight)
    return [
        candidate
        for kind in dict.fromkeys((settings.dtype, torch.float32))
        for candidate in candidates.dense_candidates(layer, input, weight, kind)
    ]


def _our_candidates(
    layer: Layer, input: Tensor, packed: Tensor, settings: Settings
) -> list[Candidate]:
    if settings.gpu is not None:
        return gpu_candidates.our_candidates(
            layer, input, packed, settings.layouts, settings.backend
        )
    return candidates.our_candidates(layer, input, packed, settings.layouts)


def _what_ran(packed: Tensor, settings: Settings) -> tuple[str, str]:
    """Instruction set and strategy; on a GPU backend and layout."""
    if settings.gpu is None:
        return candidates.last_isa(), packed_info(packed).strategy
    return resolve(settings.backend)[0].name, gpu_candidates.layouts_of(packed)


def _checked(
    case: Case, candidate: Candidate, reference: Reference, settings: Settings, ours: bool = False
) -> Any:
    """What is to be timed, once its output was found to be right."""
    calls = candidate.calls(settings.cache_bytes)
    for call in calls:  # all of them: what is done at a buffer's first use is done then
        output = call()
    try:
        if settings.gpu is None:
            reference.check(output, dense=not ours)
        else:
            sums = gpu_candidates.OUR_SUMS if ours else gpu_candidates.DENSE_SUMS
            reference.check(output, dense=not ours, sums=sums[settings.precision])
        if ours and not output.is_contiguous(memory_format=LAYOUTS[candidate.name]):
            raise WrongOutputError("is in another layout than the input")
    except WrongOutputError as error:
        who = "ours" if ours else "dense"
        raise WrongOutputError(f"{case}: the output of {who} {candidate.name} {error}") from None
    if settings.gpu is None:
        return rotating(calls)
    return gpu_timing.prepare(
        settings.gpu,
        calls[0],
        GPU_TURN_MS,
        flushed=settings.flushed,
        graphs=settings.graphs,
    )


def _times(candidates: dict[str, Any], settings: Settings) -> dict[str, Timing]:
    if settings.gpu is None:
        return alternate(candidates, settings.rounds, TURN_SECONDS)
    return gpu_timing.alternate(settings.gpu, candidates, settings.rounds, flushed=settings.flushed)


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
    on_gpu = options.device == "cuda"
    if on_gpu and options.strategy != "auto":
        parser.error("--strategy: is for --device cpu")
    for option, given in (
        ("--backend", options.backend != "auto"),
        ("--eager", options.eager),
        ("--dtype tf32", options.dtype == "tf32"),
    ):
        if given and not on_gpu:
            parser.error(f"{option}: is for --device cuda")
    dtype = gpu_candidates.DTYPES[options.dtype]
    if dtype != torch.float32 and not on_gpu:
        _check_dtype(parser, options.dtype)
    return Settings(
        dtype=dtype,
        batch=options.batch,
        strategy=options.strategy,
        layouts=[x for x in LAYOUTS if options.layout in ("best", x.lower())],
        cache_bytes=last_level_cache_bytes() if options.cold and not on_gpu else 0,
        rounds=options.rounds,
        seed=options.seed,
        gpu=CudaGpu() if on_gpu else None,
        precision=options.dtype,
        backend=options.backend,
        flushed=options.cold,
        graphs=not options.eager,
    )


def _check_dtype(parser: Parser, name: str) -> None:
    """Exit where the operator does not take the dtype."""
    dtype = gpu_candidates.DTYPES[name]
    input, weight = torch.ones(1, 8, 4, 4, dtype=dtype), torch.ones(8, 8, 1, 1, dtype=dtype)
    try:
        with torch.inference_mode():
            candidates.sparse_conv2d(input, pack(weight), Layer(8, 8, 4, 1))()
    except RuntimeError as error:
        parser.error(f"--dtype {name}: {_first_line(error)}")


def backend_name(text: str) -> str:
    """A backend's name, see `l1sparse.sparse_conv2d`; whether it runs here is seen later."""
    name, slash, layout = text.partition("/")
    if name not in ("auto", "cuda", "triton") or (slash and layout not in LAYOUTS_ON_GPU):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected auto, cuda or triton, with "
            f"{', '.join(f'/{layout}' for layout in LAYOUTS_ON_GPU)} after it"
        )
    return text


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
        "device": options.device,
        "backend": options.backend if options.device == "cuda" else None,
        "graphs": not options.eager if options.device == "cuda" else None,
        "cache": "cold" if options.cold else "warm",
        "rounds": options.rounds,
        "seed": options.seed,
    }


def _settings_line(options: argparse.Namespace) -> str:
    record = _settings_record(options)
    masks = "random masks" if record["mask"] is None else f"masks of {record['mask']}"
    how = f"strategy {record['strategy']}"
    if options.device == "cuda":
        how = f"backend {record['backend']}, {'CUDA graphs' if record['graphs'] else 'eager'}"
    return (
        f"suite {record['suite']}, {masks}, {record['dtype']}, batch {record['batch']}, "
        f"{record['cache']} caches, {how}, layout {record['layout']}; "
        f"medians of {record['rounds']} turns each"
    )


if __name__ == "__main__":
    sys.exit(main())
