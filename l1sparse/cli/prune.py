# SPDX-License-Identifier: MIT
"""``l1sparse prune``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from l1sparse.cli.arguments import Commands, add_command, add_network_and_data, add_run_folder


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "prune",
        "prune a network under a plan, and make it fast",
        "Measures the sensitivity of each layer, prunes and retrains under plan.yaml, converts the"
        "\nresult. The output folder then has model.safetensors (the network with its pruned\n"
        "weights at 0), fast.safetensors (for l1sparse.load), result.json, report.html, and\n"
        "sensitivity.json. A run that was interrupted goes on by --resume.\n"
        "On several GPUs: torchrun --nproc-per-node 8 -m l1sparse prune ...",
        "l1sparse prune --model l1sparse.train:DigitsNet --weights runs/dense/model.safetensors "
        "--data /usr/share/datasets/fashion-mnist --plan plan.yaml --output runs/pruned",
        _run,
        extra="train",
    )
    add_network_and_data(parser)
    add_run_folder(parser)
    parser.add_argument(
        "--plan", type=Path, required=True, metavar="FILE", help="plan.yaml, see `l1sparse plan`"
    )
    parser.add_argument(
        "--sensitivity",
        type=Path,
        metavar="FILE",
        help="sensitivity.json of `l1sparse sensitivity` (default: it is measured first)",
    )
    parser.add_argument(
        "--no-train-sparse",
        dest="train_sparse",
        action="store_false",
        help="retrain dense with masks; else layers are retrained on their kept groups alone where "
        "that is measured to be faster, on the CPU in float32",
    )
    parser.add_argument(
        "--no-accelerate",
        dest="accelerate",
        action="store_false",
        help="do not convert the result and measure its layers on this machine's CPU",
    )


def _run(options: argparse.Namespace) -> int:
    from l1sparse.cli.outcome import write_outcome
    from l1sparse.cli.records import (
        print_gain,
        print_result,
        read_sensitivity,
        unprunable,
        write_sensitivity,
    )
    from l1sparse.cli.session import session, stopped
    from l1sparse.pruning.plan_file import plan_hash, read_plan, write_plan
    from l1sparse.pruning.plan_layers import make_prune_plan, sensitivity_groups
    from l1sparse.train import KeptPruning, Recipe, StoppedError, example_image

    plan = read_plan(options.plan)
    recipe = Recipe(**plan.training.model_dump())
    given = None if options.sensitivity is None else read_sensitivity(options.sensitivity)
    identity = {
        "plan": plan.model_dump(),
        "plan_hash": plan_hash(plan),
        "sensitivity": [record.to_dict() for record in given or ()],
        "train_sparse": options.train_sparse,
    }
    with session(options, recipe, identity, plan.run.total_rounds) as opened:
        model = opened.trainer.model
        dense = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        try:
            groups = sensitivity_groups(plan, model)
            run = KeptPruning(
                opened.trainer, opened.keeper, opened.keeper.begin(options.resume), opened.say
            )
            records = given or run.sensitivity(
                None,
                groups,
                plan.sensitivity.sparsities,
                plan.sensitivity.at,
                prune=plan.run.side,
                recalibrate=plan.sensitivity.recalibrate,
            )
            if opened.trainer.rank == 0:
                write_plan(plan, options.output / "plan.yaml")
                write_sensitivity(options.output, records, plan.sensitivity.model_dump())
            unable = unprunable(records)
            if len(unable) == len({record.name for record in records}):
                reasons = "; ".join(f"{name}: {reason}" for name, reason in unable.items())
                raise ValueError(f"model: no layer of it can be pruned: {reasons}")
            policy = make_prune_plan(plan, model, records)
            result = run.prune(
                policy, recalibrate=plan.run.recalibrate, on_pattern=options.train_sparse
            )
        except StoppedError as error:
            return stopped(error, opened.trainer.rank, opened.trainer.ranks)
        if opened.trainer.rank == 0:
            record = write_outcome(
                options.output,
                opened.trainer.released_model(),
                dense,
                example_image(opened.data)[None] if options.accelerate else None,
                result,
                records,
                {
                    "trainer": asdict(recipe),
                    "plan_hash": plan_hash(plan),
                    "trained_sparse_up_to": run.densest,
                },
            )
            print_result(result, records)
            print_gain(record)
            print(f"written: {options.output}")
    if result.diverged:
        raise RuntimeError(f"{result.ended}")
    return 0
