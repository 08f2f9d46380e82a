# SPDX-License-Identifier: MIT
"""How a network is trained: settings, and what is built from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

# A scheduler's length, under the name that it has there.
_LENGTHS = ("total_steps", "total_iters", "T_max")


@dataclass(frozen=True)
class Recipe:
    """Settings of training.

    Attributes:
        optimizer: a class of ``torch.optim``.
        learning_rate: its ``lr``.
        optimizer_options: its other arguments, such as ``{"momentum": 0.9}``.
        scheduler: a class of ``torch.optim.lr_scheduler``; None: the learning rate is constant.
        scheduler_options: its arguments; its length is filled in where it is left out.
        scheduler_every: whether the scheduler steps after each step or after each round.
        batch_size: images a step of the optimizer, over all processes and accumulated ones.
        accumulate: pieces that a process takes its share of a batch in, one after the other.
        steps_per_round: steps of the optimizer in a round of training; None: an epoch.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        distillation: share of the loss that compares with the dense network, 0 to 1.
        temperature: that softens both in that comparison.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``.
        channels_last: whether weights and images have the channels of a pixel side by side.
        workers: processes that prepare batches, for each rank; 0: the rank itself does.
        seed: of order and random changes of images.
    """

    optimizer: str = "SGD"
    learning_rate: float = 0.01
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    scheduler_every: Literal["step", "round"] = "step"
    batch_size: int = 64
    accumulate: int = 1
    steps_per_round: int | None = None
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    channels_last: bool = False
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "steps_per_round"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        for name in ("label_smoothing", "distillation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of `recipe`.

    Raises:
        ValueError: if ``torch.optim`` has no such optimizer, or it does not take these options.
    """
    kind = _class_of(torch.optim, recipe.optimizer, torch.optim.Optimizer, "optimizer")
    options = {"lr": recipe.learning_rate, **recipe.optimizer_options}
    return _made("optimizer", kind, parameters, options)  # type: ignore[no-any-return]


def make_scheduler(
    recipe: Recipe, optimizer: torch.optim.Optimizer, length: int | None
) -> lr_scheduler.LRScheduler | None:
    """The scheduler of `recipe`, or None if it has none.

    Args:
        recipe: the settings.
        optimizer: whose learning rate is scheduled.
        length: how often the scheduler will step; None: nobody knows.

    Raises:
        ValueError: if torch has no such scheduler, it does not take these options, or needs a
            length that is not known.
    """
    if recipe.scheduler is None:
        return None
    kind = _class_of(lr_scheduler, recipe.scheduler, lr_scheduler.LRScheduler, "scheduler")
    if kind is lr_scheduler.ReduceLROnPlateau and recipe.scheduler_every == "step":
        raise ValueError(
            "scheduler_every: ReduceLROnPlateau looks at the loss of a round, expected 'round', "
            "got 'step'"
        )
    options = dict(recipe.scheduler_options)
    takes = inspect.signature(kind).parameters
    if "max_lr" in takes:
        options.setdefault("max_lr", recipe.learning_rate)
    for name in (name for name in _LENGTHS if name in takes and name not in options):
        if length is not None:
            options[name] = length
    if "steps_per_epoch" in options or "epochs" in options:
        options.pop("total_steps", None)
    return _made("scheduler", kind, optimizer, options)  # type: ignore[no-any-return]


def loss_of(
    recipe: Recipe, outputs: Tensor, labels: Tensor, teacher_outputs: Tensor | None
) -> Tensor:
    """Cross entropy, mixed with Hinton's distillation loss where there is a teacher.

    Args:
        recipe: smoothing, share and temperature.
        outputs: logits ``[N, classes]``.
        labels: ``[N]`` int64.
        teacher_outputs: logits of the dense network, or None.
    """
    loss = F.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
    if teacher_outputs is None:
        return loss
    # The factor temperature squared keeps gradients as large at any temperature (Hinton 2015).
    likeness = recipe.temperature**2 * F.kl_div(
        F.log_softmax(outputs / recipe.temperature, 1),
        F.log_softmax(teacher_outputs / recipe.temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - recipe.distillation) * loss + recipe.distillation * likeness


def _class_of(module: Any, name: str, base: type, argument: str) -> type:
    names = sorted(
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
        if not key.startswith("_")
    )
    if name not in names:
        raise ValueError(f"{argument}: expected one of {', '.join(names)}; got {name!r}")
    return getattr(module, name)  # type: ignore[no-any-return]


def _made(argument: str, kind: type, first: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind(first, **options)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(f"{argument}: {kind.__name__}({given}): {error}") from error
