# SPDX-License-Identifier: MIT
"""What the commands that measure or train have in common: network, data, trainer, checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import copy
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from l1sparse.train import (
    Data,
    Interruption,
    Keeper,
    Recipe,
    StoppedError,
    Trainer,
    check_classes,
    fingerprint,
    load_data,
    load_model,
)
from l1sparse.train.progress import say


@dataclass
class Session:
    """A network with what trains it.

    Attributes:
        data: to train and measure with.
        trainer: of the network.
        keeper: of its checkpoints.
    """

    data: Data
    trainer: Trainer
    keeper: Keeper

    def say(self, message: str) -> None:
        """A line of progress, from rank 0."""
        if self.trainer.rank == 0:
            say(message)


@contextlib.contextmanager
def session(
    options: argparse.Namespace,
    recipe: Recipe,
    identity: Mapping[str, Any],
    rounds: int | None = None,
    trains: bool = True,
) -> Iterator[Session]:
    """Open the network and data that `options` name.

    Within it, Ctrl-C ends the run at the next step with a checkpoint.

    Args:
        options: of `add_network_and_data` and `add_run_folder`.
        recipe: of training.
        identity: what else a resumed run has to have in common with the one that was begun.
        rounds: how many rounds will be trained; None: unknown.
        trains: False where the batch size is only that of measuring, and may exceed the data.
    """
    data = load_data(options.data, options.image_size, options.augment)
    if not trains:
        most = len(data.train)  # type: ignore[arg-type]
        recipe = replace(recipe, batch_size=min(recipe.batch_size, most))
    torch.manual_seed(recipe.seed)
    model = load_model(options.model, data.classes, options.weights)
    data = replace(data, classes=check_classes(model, data))
    before = fingerprint(model)  # the trainer may move it and change its memory format
    trainer = Trainer(
        model,
        data,
        recipe,
        rounds=rounds,
        teacher=copy.deepcopy(model) if recipe.distillation else None,
        skip_broken=options.skip_broken,
        cpu=options.cpu,
    )
    begun_with = {
        "model": f"{options.model}, {before}",
        "data": f"{len(data.train)} and {len(data.held_out)} images",  # type: ignore[arg-type]
        "ranks": trainer.ranks,
        "training": asdict(recipe),
        **identity,
    }
    with Interruption() as interruption:
        keeper = Keeper(
            options.output, trainer, begun_with, interruption, options.checkpoint_minutes
        )
        yield Session(data, trainer, keeper)
    trainer.close()


def stopped(error: StoppedError, rank: int, ranks: int = 1) -> int:
    """Tell how a run of `ranks` processes that was interrupted goes on. Returns the exit status."""
    if rank:
        return 130
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    # What had started the processes (torchrun, a batch system) is not known here.
    start = "go on with" if ranks == 1 else f"go on with {ranks} processes as before, each"
    say(f"{error}\n{start}: {shlex.join(['l1sparse', *arguments, '--resume'])}")
    return 130
