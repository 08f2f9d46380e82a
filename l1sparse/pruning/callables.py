# SPDX-License-Identifier: MIT
"""What the caller supplies: measuring, training and progress arrive as callables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

Evaluate = Callable[[nn.Module], float]
"""Accuracy of the model on held-out data, a fraction of 1."""

Train = Callable[[nn.Module], object]
"""One round of training (say an epoch) of the model, in place; the result is ignored."""

Recalibrate = Callable[[nn.Module], object]
"""Re-estimates batch-norm statistics in place, by forward passes over calibration data."""

Stop = Callable[[nn.Module], bool]
"""Asked between steps, when the model is at its target accuracy: True ends the loop."""

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


def measure_accuracy(evaluate: Evaluate, model: nn.Module) -> float:
    """Call `evaluate` and check what it returns.

    Raises:
        ValueError: if the result is not a fraction from 0 to 1 (a percentage, NaN).
    """
    accuracy = float(evaluate(model))
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"evaluate: expected a fraction from 0 to 1, it returned {accuracy!r}")
    return accuracy


def silent(message: str) -> None:
    """The `Progress` that says nothing."""
