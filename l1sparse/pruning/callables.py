# SPDX-License-Identifier: MIT
"""What the caller supplies: measuring, training and progress arrive as callables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from l1sparse.pruning import ranks


@dataclass(frozen=True)
class Evaluation:
    """What a pass over held-out data gave.

    Attributes:
        accuracy: a fraction of 1.
        loss: mean loss; None where it was not computed.
    """

    accuracy: float
    loss: float | None = None


Evaluate = Callable[[nn.Module], float | Evaluation]
"""Accuracy of the model on held-out data, a fraction of 1; or an `Evaluation`, with the loss."""

Train = Callable[[nn.Module], object]
"""One round of training (say an epoch) of the model, in place. If it returns a float, that is the
round's mean loss; anything else is ignored."""

Recalibrate = Callable[[nn.Module], object]
"""Re-estimates batch-norm statistics in place, by forward passes over calibration data."""

Stop = Callable[[nn.Module], bool]
"""Asked between steps: True ends the pruning."""

Progress = Callable[[str], object]
"""Told, in one line, what has just been done."""


class TrainingState(Protocol):
    """Anything that training changes besides the model: an optimizer, a scheduler, a scaler."""

    def state_dict(self) -> dict[str, Any]:
        """All of the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go back to a state that `state_dict` gave."""
        ...


class DivergedError(ValueError):
    """Training or evaluation came to a loss or accuracy that is no finite number."""


def measure(evaluate: Evaluate, model: nn.Module, alone: bool = False) -> Evaluation:
    """Call `evaluate` and check what it returns.

    Args:
        evaluate: as the caller supplied it.
        model: to evaluate.
        alone: whether this rank measures something of its own; else all ranks measure the same
            and rank 0's result is every rank's.

    Raises:
        ValueError: if the accuracy is not a fraction from 0 to 1, a percentage say.
        DivergedError: if the accuracy is NaN, or the loss NaN or infinite.
    """
    given = evaluate(model)
    evaluation = given if isinstance(given, Evaluation) else Evaluation(float(given))
    if not alone:
        # Ranks must decide alike, also where their own sums differ in the last bit.
        evaluation = ranks.of_rank_0(evaluation)
    loss, accuracy = evaluation.loss, evaluation.accuracy
    if loss is not None and not math.isfinite(loss):
        raise DivergedError(f"evaluate: expected a finite loss, it returned {loss!r}")
    if not 0.0 <= accuracy <= 1.0:
        error = DivergedError if math.isnan(accuracy) else ValueError
        raise error(f"evaluate: expected a fraction from 0 to 1, it returned {accuracy!r}")
    return evaluation


def train_round(train: Train, model: nn.Module) -> float | None:
    """Call `train`; the mean loss that it returned, if it did, as the mean over all ranks.

    Raises:
        DivergedError: if a rank's loss is NaN or infinite.
    """
    returned = train(model)
    losses = ranks.of_all(returned if isinstance(returned, float) else None)
    known = [loss for loss in losses if loss is not None]
    if not known:
        return None
    loss = sum(known) / len(known)
    if not math.isfinite(loss):
        raise DivergedError(f"train: expected a finite loss, it returned {loss!r}")
    return loss


def silent(message: str) -> None:
    """The `Progress` that says nothing."""
