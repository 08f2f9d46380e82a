# SPDX-License-Identifier: MIT
"""``l1sparse train``."""

from __future__ import annotations

import argparse
import json

from l1sparse.cli.arguments import (
    Commands,
    add_command,
    add_network_and_data,
    add_run_folder,
    count,
    fraction,
    setting,
)


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "train",
        "train a dense network, if you have none that is trained",
        "Trains a network, so that there is one to prune. Writes model.safetensors and\n"
        "training.json to the output folder; a run that was interrupted goes on by --resume.",
        "l1sparse train --model l1sparse.train:DigitsNet --data /usr/share/datasets/fashion-mnist "
        "--rounds 10 --learning-rate 0.2 --scheduler OneCycleLR --output runs/dense",
        _run,
        extra="train",
    )
    add_network_and_data(parser)
    add_run_folder(parser)
    parser.add_argument("--rounds", type=count, default=10, help="epochs (default: 10)")
    parser.add_argument("--optimizer", default="SGD", help="a class of torch.optim (default: SGD)")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="(default: 0.1)")
    parser.add_argument(
        "--optimizer-options",
        nargs="*",
        type=setting,
        metavar="NAME=VALUE",
        help="its other arguments (default for SGD: momentum=0.9 weight_decay=5e-4)",
    )
    parser.add_argument(
        "--scheduler",
        default="CosineAnnealingLR",
        help="a class of torch.optim.lr_scheduler, or none (default: CosineAnnealingLR)",
    )
    parser.add_argument(
        "--scheduler-options", nargs="*", type=setting, default=[], metavar="NAME=VALUE"
    )
    parser.add_argument(
        "--scheduler-every",
        choices=["step", "round"],
        default="step",
        help="when it steps (default: after each step of the optimizer)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=64, help="over all processes (default: 64)"
    )
    parser.add_argument("--accumulate", type=count, default=1, help="pieces a step (default: 1)")
    parser.add_argument("--label-smoothing", type=fraction, default=0.0, help="(default: 0)")
    parser.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load images (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")


def _run(options: argparse.Namespace) -> int:
    from l1sparse.cli.session import session, stopped
    from l1sparse.train import Recipe, StoppedError, save_weights, train_dense

    given = options.optimizer_options
    usual = {"momentum": 0.9, "weight_decay": 5e-4} if options.optimizer == "SGD" else {}
    recipe = Recipe(
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        optimizer_options=usual if given is None else dict(given),
        scheduler=None if options.scheduler == "none" else options.scheduler,
        scheduler_options=dict(options.scheduler_options),
        scheduler_every=options.scheduler_every,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        label_smoothing=options.label_smoothing,
        mixed_precision=options.mixed_precision,
        channels_last=options.channels_last,
        workers=options.workers,
        seed=options.seed,
    )
    with session(options, recipe, {"rounds": options.rounds}, options.rounds) as opened:
        try:
            history = train_dense(opened.trainer, opened.keeper, options.rounds, options.resume)
        except StoppedError as error:
            return stopped(error, opened.trainer.rank, opened.trainer.ranks)
        if opened.trainer.rank == 0:
            model = opened.trainer.released_model()
            save_weights(model, options.output / "model.safetensors")
            (options.output / "training.json").write_text(json.dumps(history, indent=1) + "\n")
            print(
                f"accuracy {history[-1]['accuracy']:.4f} after {options.rounds} rounds; written: "
                f"{options.output / 'model.safetensors'}"
            )
    return 0
