# SPDX-License-Identifier: MIT
"""Training of the dense network, so that it can be interrupted and go on."""

from __future__ import annotations

from typing import Any

from l1sparse.pruning.callables import Evaluation
from l1sparse.pruning.snapshot import Snapshot
from l1sparse.train.keeper import Keeper
from l1sparse.train.progress import Countdown, say
from l1sparse.train.trainer import Trainer


def train_dense(
    trainer: Trainer, keeper: Keeper, rounds: int, resume: bool = False
) -> list[dict[str, Any]]:
    """Train for `rounds`, with a checkpoint after each and, by time, within them.

    Returns:
        One record a round: its number, the loss of training, accuracy and loss on held-out images.

    Raises:
        DivergedError: if a loss is not finite; the model is that of the last checkpoint.
        StoppedError: if the run was interrupted.
    """
    history: list[dict[str, Any]] = []

    def state() -> dict[str, Any]:
        return {
            "history": list(history),
            "model": Snapshot(trainer.model, trainer.training_state).state_dict(),
            "trainer": trainer.state_dict(),
        }

    saved = keeper.begin(resume)
    if saved is not None:
        history += saved["history"]
        snapshot = Snapshot(trainer.model, trainer.training_state)
        snapshot.load_state_dict(saved["model"])
        snapshot.restore()
        trainer.load_state_dict(saved["trainer"])
    keeper.state_within_round = state
    countdown = Countdown(rounds, done=len(history))
    while len(history) < rounds:
        loss = trainer.train_round()
        found: Evaluation = trainer.evaluate(trainer.model)
        number = len(history) + 1
        history.append(
            {"round": number, "train_loss": loss, "accuracy": found.accuracy, "loss": found.loss}
        )
        if trainer.rank == 0:
            say(
                f"round {number} of {rounds}: loss {loss:.4f}, accuracy {found.accuracy:.4f}; "
                f"{countdown.left(number)} left"
            )
        keeper.save(state())
        keeper.stop_if_asked()
    return history
