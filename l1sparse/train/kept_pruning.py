# SPDX-License-Identifier: MIT
"""Sensitivity and pruning, so that they can be interrupted after any layer and any step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from l1sparse.format import GroupShape
from l1sparse.pruning import (
    LayerSensitivity,
    PrunePlan,
    PruneResult,
    PruneRun,
    Side,
    companion_mask,
    layer_candidates,
    measure_sensitivity,
)
from l1sparse.pruning.snapshot import Snapshot
from l1sparse.train.keeper import Keeper
from l1sparse.train.on_pattern import training_on_pattern
from l1sparse.train.pattern_times import measure_densest
from l1sparse.train.progress import Countdown
from l1sparse.train.trainer import Trainer

Progress = Callable[[str], object]


class KeptPruning:
    """A run of two parts: the sensitivity of layers, and pruning.

    A checkpoint is written after each layer, each step and each round, and by time within rounds.
    One that was taken within a round holds two states: of pruning before that round, which is run
    again up to it, and of the network in the middle of it, which then takes over.

    Args:
        trainer: trains and measures the network to prune.
        keeper: writes the checkpoints.
        saved: what `Keeper.begin` gave.
        say: told, in one line, what has just been done.
    """

    def __init__(
        self, trainer: Trainer, keeper: Keeper, saved: Mapping[str, Any] | None, say: Progress
    ) -> None:
        self._trainer, self._keeper, self._say = trainer, keeper, say
        saved = saved or {}
        self._sensitivities = [LayerSensitivity.from_dict(d) for d in saved.get("sensitivity", ())]
        self._saved_run: dict[str, Any] | None = saved.get("run")
        self._round: dict[str, Any] | None = saved.get("round")
        self._densest: dict[str, float] | None = saved.get("densest")
        self._between: dict[str, Any] = {}
        self._run: PruneRun | None = None
        self._countdown, self._rounds_told = Countdown(0), 0

    def sensitivity(
        self,
        layers: Sequence[str] | None,
        group: str | Mapping[str, Any],
        sparsities: Sequence[float],
        at: float,
        *,
        prune: Side = "below",
        recalibrate: bool = False,
    ) -> list[LayerSensitivity]:
        """`measure_sensitivity`, without the layers that were measured before an interruption.

        It may be called several times, with different group shapes.
        """

        names = layer_candidates(self._trainer.model) if layers is None else layers
        done = [r for r in self._sensitivities if r.group == _group_of(r.name, group)]
        countdown = Countdown(len(names), len(done))

        def keep(record: LayerSensitivity) -> None:
            self._sensitivities.append(record)
            done.append(record)
            self._keeper.save(self._state())
            if record.reason is not None:
                countdown.skip()
            else:
                left = countdown.left(len(done))
                self._say(f"{len(done)} of {len(names)} layers, {left} left")
            self._keeper.stop_if_asked()

        return measure_sensitivity(
            self._trainer.model,
            self._trainer.evaluate,
            layers,
            group,
            sparsities,
            at,
            prune=prune,
            recalibrate=self._trainer.recalibrate if recalibrate else None,
            on_progress=self._say,
            done=list(done),
            on_layer=keep,
        )

    def prune(
        self, plan: PrunePlan, recalibrate: bool = True, on_pattern: bool = False
    ) -> PruneResult:
        """Prune under `plan`, from the beginning or from where it was interrupted.

        Args:
            plan: the policy.
            recalibrate: whether batch-norm statistics are estimated anew after each pruning.
            on_pattern: retrain pruned layers on their kept groups alone wherever that is faster by
                measurement on this CPU, see `training_on_pattern`. Measured once, before pruning
                starts; checkpoints hold the result. Not done on a GPU, in mixed precision or with
                several processes.

        Raises:
            StoppedError: if the run was interrupted.
            ValueError: if the plan or the number of processes is another than before.
        """
        run = PruneRun(
            self._trainer.model,
            self._trainer.evaluate,
            self._train,
            plan,
            self._trainer.training_state,
            recalibrate=self._trainer.recalibrate if recalibrate else None,
            on_progress=self._say,
            on_checkpoint=self._keep_between,
        )
        self._run = run
        if self._saved_run is not None:
            run.load_state_dict(self._saved_run["pruning"])
            self._trainer.load_state_dict(self._saved_run["trainer"])
            self._between = self._saved_run
        if on_pattern and self._densest is None:
            self._densest = self._measured_densest(plan)
        self._rounds_told = run.rounds
        self._countdown = Countdown(plan.total_rounds or 0, run.rounds)
        self._keeper.state_within_round = self._state_within_round
        return run.run()

    @property
    def densest(self) -> dict[str, float]:
        """The density up to which each layer was retrained on its kept groups alone."""
        return {name: most for name, most in (self._densest or {}).items() if most}

    def _keep_between(self, run: PruneRun) -> None:
        self._between = {"pruning": run.state_dict(), "trainer": self._trainer.state_dict()}
        self._keeper.save(self._state())
        total = run.plan.total_rounds
        if total is not None and run.rounds > self._rounds_told:
            self._rounds_told = run.rounds
            left = self._countdown.left(run.rounds)
            self._say(f"{run.rounds} of at most {total} rounds, {left} left")
        self._keeper.stop_if_asked()

    def _train(self, model: nn.Module) -> float:
        middle, self._round = self._round, None
        if middle is not None and self._is_round_of(middle):
            snapshot = Snapshot(model, self._trainer.training_state)
            snapshot.load_state_dict(middle["network"])
            snapshot.restore()
            self._trainer.load_state_dict(middle["trainer"])
        # In every round, since masks change between them.
        with training_on_pattern(model, self._densest or {}):
            return self._trainer.train_round()

    def _measured_densest(self, plan: PrunePlan) -> dict[str, float]:
        batch = self._trainer.example_batch()
        if batch is None:
            self._say("retraining runs dense: not on the CPU alone in float32")
            return {}
        groups = {record.name: record.group for record in plan.split.prune}
        densest = measure_densest(self._trainer.model, batch, groups, self._say)
        faster = [f"{name} (up to {100 * most:g} % kept)" for name, most in densest.items() if most]
        self._say(f"retraining on kept groups alone was faster for: {', '.join(faster) or 'none'}")
        return densest

    def _state(self) -> dict[str, Any]:
        return {
            "sensitivity": [record.to_dict() for record in self._sensitivities],
            "run": self._between or None,
            "round": None,
            "densest": self._densest,
        }

    def _state_within_round(self) -> dict[str, Any]:
        assert self._run is not None
        return self._state() | {
            "round": {
                "number": self._run.rounds,
                "masks": _masks(self._trainer.model),
                "network": Snapshot(self._trainer.model, self._trainer.training_state).state_dict(),
                "trainer": self._trainer.state_dict(),
            }
        }

    def _is_round_of(self, middle: Mapping[str, Any]) -> bool:
        """Whether running again led to the round that `middle` is in the middle of.

        It may not, where a device computes something else each time: the network then reaches its
        target without a round, say. The round's training is then lost, nothing else.
        """
        assert self._run is not None
        here, there = _masks(self._trainer.model), middle["masks"]
        same = here.keys() == there.keys() and all(torch.equal(here[n], there[n]) for n in here)
        if not same or middle["number"] != self._run.rounds:
            self._say(
                "the interrupted round did not come about again; it starts from its beginning"
            )
            return False
        return True


def _group_of(name: str, group: str | Mapping[str, Any]) -> GroupShape:
    return GroupShape.of(group if isinstance(group, str) else group[name])


def _masks(model: nn.Module) -> dict[str, torch.Tensor]:
    masks = {
        name: companion_mask(part)
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d)
    }
    return {name: mask.mask.cpu().clone() for name, mask in masks.items() if mask is not None}
