# SPDX-License-Identifier: MIT
"""``l1sparse sensitivity``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l1sparse.cli.arguments import (
    Commands,
    add_command,
    add_network_and_data,
    add_run_folder,
    count,
    fraction,
)
from l1sparse.cli.records import print_sensitivity, write_sensitivity


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "sensitivity",
        "measure what pruning each layer alone costs",
        "Prunes each conv layer alone to several sparsities, without retraining, and measures\n"
        "accuracy and loss. Writes sensitivity.json, .csv and .svg to the output folder. A layer\n"
        "that cannot be pruned is listed with the reason. A run that was interrupted goes on by\n"
        "--resume, layer by layer; several processes (torchrun) share the images.",
        "l1sparse sensitivity --model l1sparse.train:DigitsNet --weights "
        "runs/dense/model.safetensors --data /usr/share/datasets/fashion-mnist "
        "--output runs/sensitivity",
        _run,
        extra="train",
    )
    add_network_and_data(parser)
    add_run_folder(parser)
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="plan.yaml whose group shapes, sparsities and side are used, instead of those below",
    )
    parser.add_argument(
        "--group",
        nargs="+",
        default=["1x8"],
        metavar="SHAPE",
        help="group shapes to measure, one after the other (default: 1x8)",
    )
    parser.add_argument(
        "--sparsities",
        type=fraction,
        nargs="+",
        default=[0.25, 0.5, 0.75, 0.9],
        metavar="S",
        help="shares of a layer's weights to prune (default: 0.25 0.5 0.75 0.9)",
    )
    parser.add_argument(
        "--at", type=fraction, default=0.5, help="the one to order layers by (default: 0.5)"
    )
    parser.add_argument("--side", choices=["below", "above"], default="below")
    parser.add_argument(
        "--no-recalibrate",
        dest="recalibrate",
        action="store_false",
        help="do not re-estimate batch-norm statistics before each measurement",
    )
    parser.add_argument("--batch-size", type=count, default=64, help="(default: 64)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load images (default: 0)"
    )


def _run(options: argparse.Namespace) -> int:
    from l1sparse.cli.session import session, stopped
    from l1sparse.pruning.plan_file import read_plan
    from l1sparse.pruning.plan_layers import sensitivity_groups
    from l1sparse.train import KeptPruning, Recipe, StoppedError

    groups: Sequence[str | Mapping[str, Any]] = options.group
    sparsities: Sequence[float] = options.sparsities
    at, side, recalibrate = options.at, options.side, options.recalibrate
    plan = None
    if options.plan is not None:
        plan = read_plan(options.plan)
        sparsities, at = plan.sensitivity.sparsities, plan.sensitivity.at
        side, recalibrate = plan.run.side, plan.sensitivity.recalibrate
    recipe = Recipe(batch_size=options.batch_size, workers=options.workers)
    settings = {
        "group": None if plan else options.group,
        "sparsities": list(sparsities),
        "at": at,
        "side": side,
        "recalibrate": recalibrate,
    }
    if plan is not None:
        settings["plan"] = plan.model_dump()
    with session(options, recipe, {"settings": settings}, trains=False) as opened:
        try:
            saved = opened.keeper.begin(options.resume)
            if plan is not None:
                groups = [sensitivity_groups(plan, opened.trainer.model)]
            run = KeptPruning(opened.trainer, opened.keeper, saved, opened.say)
            records = [
                record
                for group in groups
                for record in run.sensitivity(
                    None, group, sparsities, at, prune=side, recalibrate=recalibrate
                )
            ]
        except StoppedError as error:
            return stopped(error, opened.trainer.rank, opened.trainer.ranks)
        if opened.trainer.rank == 0:
            write_sensitivity(options.output, records, {"model": options.model, **settings})
            print_sensitivity(records)
            print(f"\nwritten: {options.output / 'sensitivity.json'}")
    return 0
