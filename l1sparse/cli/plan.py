# SPDX-License-Identifier: MIT
"""``l1sparse plan``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from l1sparse.cli.arguments import Commands, add_command, count, fraction
from l1sparse.cli.records import read_sensitivity, write_json
from l1sparse.files import write_atomically
from l1sparse.report.table import table

if TYPE_CHECKING:
    from l1sparse.pruning.propose import Proposal

_GOALS = ("density", "accuracy", "latency")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "plan",
        "print an example of a plan, or propose one from measured sensitivity",
        "A plan says which layers are pruned, how, and to which target; l1sparse prune reads it.\n"
        "--example prints one with every key explained. --for proposes one from sensitivity.json:\n"
        "  density D    keep at most the share D of all conv weights, at the least drop\n"
        "  accuracy D   prune as much as a drop of accuracy by D allows\n"
        "  latency D    the fastest network on this processor within the drop D; each layer is\n"
        "               timed in every group shape that was measured\n"
        "The drop is the sum of what layers lose alone, without retraining; D is 0 to 1.",
        "l1sparse plan --for latency 0.02 --model l1sparse.train:DigitsNet "
        "--sensitivity runs/sensitivity/sensitivity.json --input 1 28 28 --output plan.yaml",
        _run,
        extra="train",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--example", action="store_true", help="print an example")
    what.add_argument(
        "--for", nargs=2, dest="goal", metavar=("GOAL", "VALUE"), help="propose a plan, see above"
    )
    parser.add_argument("--model", metavar="NAME", help="as for `l1sparse sensitivity`")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="likewise")
    parser.add_argument(
        "--classes", type=count, metavar="N", help="outputs of a model that is told how many"
    )
    parser.add_argument(
        "--sensitivity",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="one or more sensitivity.json",
    )
    parser.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="plan whose other settings are taken over (default: those of --example)",
    )
    parser.add_argument(
        "--input",
        type=count,
        nargs="+",
        metavar="N",
        help="shape of one image, such as 3 224 224; needed for latency",
    )
    parser.add_argument(
        "--threads", type=count, help="to measure with (default: as many as torch takes)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write it (default: it is printed)"
    )


def _run(options: argparse.Namespace) -> int:
    from l1sparse.pruning.plan_file import example_plan, plan_text

    if options.example:
        text = example_plan()
    else:
        proposal = _proposal(options)
        text = plan_text(proposal.plan)
        if options.output is not None:
            write_json(options.output.with_suffix(".json"), proposal.to_dict())
            _print(proposal)
    if options.output is None:
        print(text, end="")
    else:
        write_atomically(options.output, text.encode())
        print(f"written: {options.output}")
    return 0


def _proposal(options: argparse.Namespace) -> Proposal:
    import torch

    from l1sparse.convert import layer_times
    from l1sparse.pruning.plan_file import read_plan
    from l1sparse.pruning.plan_schema import PlanFile, RunSection
    from l1sparse.pruning.propose import propose
    from l1sparse.train.models import load_model

    goal, text = options.goal
    if goal not in _GOALS:
        raise ValueError(f"for: expected one of {', '.join(_GOALS)}; got {goal!r}")
    try:
        value = fraction(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"for: {goal}: {error}") from error
    if options.model is None or not options.sensitivity:
        raise ValueError("for: needs --model and --sensitivity")
    model = load_model(options.model, options.classes, options.weights)
    records = [record for path in options.sensitivity for record in read_sensitivity(path)]
    if options.template is not None:
        template = read_plan(options.template)
    else:
        template = PlanFile(run=RunSection(allowed_drop=0.01, total_rounds=30))
    times = []
    if goal == "latency":
        if options.input is None:
            raise ValueError("for: latency needs --input, the shape of one image: 3 224 224, say")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        groups = sorted({str(record.group) for record in records if record.reason is None})
        sparsities = sorted({point.sparsity for record in records for point in record.curve})
        example = torch.randn(1, *options.input).contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        times = layer_times(model, example, groups, sparsities)
    return propose(goal, value, model, records, template, times)


def _print(proposal: Proposal) -> None:
    rows = [
        [
            layer.name,
            layer.group or "kept",
            f"{layer.sparsity:.0%}",
            f"{layer.drop:+.2%}",
            *(() if layer.ms is None else (f"{layer.dense_ms:.3f}", f"{layer.ms:.3f}")),
        ]
        for layer in proposal.layers
    ]
    timed = any(len(row) == 6 for row in rows)
    head = ["layer", "group", "pruned", "drop alone", *(("dense ms", "ms") if timed else ())]
    width = len(head)
    print(table(head, [row + [""] * (width - len(row)) for row in rows]))
    time = "" if proposal.ms is None else f", {proposal.dense_ms:.2f} ms to {proposal.ms:.2f} ms"
    print(
        f"\nexpected: {proposal.density:.1%} of conv weights kept{time}; sum of drops before "
        f"retraining {proposal.drop:.2%}"
    )
