# SPDX-License-Identifier: MIT
"""A run of pruning that can be saved after every round and go on elsewhere, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from l1sparse.pruning import ranks
from l1sparse.pruning.callables import (
    DivergedError,
    Evaluate,
    Evaluation,
    Progress,
    Recalibrate,
    Stop,
    Train,
    TrainingState,
    measure,
    silent,
    train_round,
)
from l1sparse.pruning.fits import check_plan_fits
from l1sparse.pruning.layers import conv_layers, conv_weight_count, pruned_share
from l1sparse.pruning.mask import attach, companion_masks
from l1sparse.pruning.method import Method
from l1sparse.pruning.result import (
    PruneResult,
    PruneStep,
    RoundRecord,
    layer_records,
    versions,
)
from l1sparse.pruning.resume import check_same_plan, check_same_ranks
from l1sparse.pruning.schedule import PrunePlan
from l1sparse.pruning.scheduled import Scheduled
from l1sparse.pruning.snapshot import Snapshot
from l1sparse.pruning.statistics import gathered, record_activations
from l1sparse.pruning.turn import LayerTurn


class PruneRun:
    """Prunes a model in place under a `PrunePlan`; `prune` in small steps.

    `run` goes on until the plan ends it. After every step and every round of training it calls
    `on_checkpoint`, when all is consistent: the model, the training state and `state_dict` then
    belong together. To resume, make the same model, training state and plan in a new process,
    `load_state_dict`, and `run`. Random states are not part of it: `train` and `evaluate` own
    them, so whoever saves a run saves and restores those too.

    Args:
        model: any module with `nn.Conv2d` layers, trained to the target.
        evaluate: accuracy of the model, a fraction of 1, or an `Evaluation`. With several
            processes every rank calls it, and rank 0's result counts.
        train: one round of training, in place; its gradients are masked by the companion masks.
        plan: the policy.
        training_state: what `train` changes besides the model and should be rolled back and
            saved with it: optimizers, schedulers. Optimizers also get the state of pruned
            weights zeroed.
        recalibrate: called after each pruning, before the first accuracy is measured.
        stop: asked before each step; True ends the pruning.
        on_progress: called after each round of training and each step.
        on_checkpoint: see above.

    Attributes:
        plan: as given.
        rounds: rounds of training so far; `train` may ask, to set its learning rate.
        steps: the steps so far.
        history: the rounds so far.
        turns: the layers to prune, in the order of the plan; empty before the run starts.

    Raises:
        ValueError: if a layer to prune cannot be pruned, or `target_sparsity` is more than the
            layers to prune hold.
    """

    def __init__(
        self,
        model: nn.Module,
        evaluate: Evaluate,
        train: Train,
        plan: PrunePlan,
        training_state: Sequence[TrainingState] = (),
        recalibrate: Recalibrate | None = None,
        stop: Stop | None = None,
        on_progress: Progress = silent,
        on_checkpoint: Callable[[PruneRun], object] | None = None,
    ) -> None:
        self._model, self._evaluate, self._train, self.plan = model, evaluate, train, plan
        self._recalibrate, self._stop, self._on_progress = recalibrate, stop, on_progress
        self._on_checkpoint = on_checkpoint
        self._training_state = tuple(training_state)
        self.optimizers = [
            part for part in training_state if isinstance(part, torch.optim.Optimizer)
        ]
        self.rounds = 0
        self.steps: list[PruneStep] = []
        self.history: list[RoundRecord] = []
        self.turns: list[LayerTurn] = []
        self.stopped = False
        self._strategy: Method | Scheduled | None = None
        self._current = self._kept = Evaluation(0.0)
        self._activations: dict[str, Any] = {}
        self._ended: str | None = None
        self._diverged = self._is_changed = False
        self._good = Snapshot(model, training_state)
        check_plan_fits(plan, model)

    def run(self) -> PruneResult:
        """Prune until the plan ends it, or go on after `load_state_dict`.

        Whatever ends it, an exception too, the model is left in the last good state: the last
        that was accepted under the method, the last whose loss was finite under the others.

        Raises:
            ValueError: if the model starts below the target or `evaluate` returns anything but a
                fraction.
            RuntimeError: if the masks of several processes differ.
        """
        if self._strategy is None:
            self._start()
            self._checkpoint()
        assert self._strategy is not None
        try:
            while self._ended is None:
                try:
                    self._ended = self._strategy.advance()
                except DivergedError as error:
                    self._ended, self._diverged = f"stopped: {error}", True
                    self.roll_back()
                    self.tell(self._ended)
                self._checkpoint()
        except BaseException:
            self.roll_back()
            raise
        return self._result(self._strategy, self._ended)

    def state_dict(self) -> dict[str, Any]:
        """All of the run: tensors, and values that JSON can hold. Nothing in it is shared.

        The model and the training state are in it, as they are and as they were last good.

        Raises:
            RuntimeError: before the run has started.
        """
        if self._strategy is None:
            raise RuntimeError("run: nothing to save yet, the run has not started")
        return {
            "plan": self.plan.to_dict(),
            "ranks": ranks.count(),
            "strategy": self._strategy.state_dict(),
            "rounds": self.rounds,
            "steps": [asdict(step) for step in self.steps],
            "history": [asdict(record) for record in self.history],
            "activations": self._activations,
            "kept": asdict(self._kept),
            "current": asdict(self._current),
            "ended": None if self.stopped else self._ended,
            "diverged": self._diverged,
            "good": self._good.state_dict(),
            # None where the model is in its last good state: the same need not be saved twice.
            "now": Snapshot(self._model, self._training_state).state_dict()
            if self._is_changed
            else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the run that `state_dict` was taken of; the model and training state too.

        Raises:
            ValueError: if the plan, the model, the training state or the number of processes is
                another.
        """
        check_same_ranks(ranks.count(), state["ranks"])
        check_same_plan(self.plan.to_dict(), state["plan"])
        self._open_layers()
        assert self._strategy is not None
        for part in ("good", "now"):
            if state[part] is not None:
                loaded = Snapshot(self._model, self._training_state)
                loaded.load_state_dict(state[part])
                loaded.restore()
                self._good = loaded if part == "good" else self._good
        self._is_changed = state["now"] is not None
        self._strategy.load_state_dict(state["strategy"])
        self.rounds = state["rounds"]
        self.steps = [PruneStep(**step) for step in state["steps"]]
        self.history = [RoundRecord(**record) for record in state["history"]]
        self._activations = state["activations"]
        self._kept, self._current = Evaluation(**state["kept"]), Evaluation(**state["current"])
        self._ended, self._diverged = state["ended"], state["diverged"]

    # What the strategies use.

    def train(self, phase: str, layer: str | None) -> Evaluation:
        """One round of training and its record.

        Raises:
            DivergedError: if a loss or the accuracy is no finite number.
        """
        self._is_changed = True
        self.rounds += 1
        train_loss = None
        try:
            train_loss = train_round(self._train, self._model)
            self._current = measure(self._evaluate, self._model)
        except DivergedError:
            self._note(phase, layer, None, train_loss)
            raise
        self._note(phase, layer, self._current, train_loss)
        return self._current

    def measure_pruned(self, layer: str | None) -> Evaluation:
        """Measure the network right after `layer` (None: all of them) was pruned.

        Raises:
            DivergedError: if the loss or the accuracy is no finite number.
            RuntimeError: if the masks of several processes differ.
        """
        self._is_changed = True
        pruned = {turn.name: turn.companion.mask for turn in self.turns}
        ranks.check_same_masks(pruned if layer is None else {layer: pruned[layer]})
        if self._recalibrate is not None:
            self._recalibrate(self._model)
        self._current = measure(self._evaluate, self._model)
        return self._current

    def keep(self) -> None:
        """The state of now is the last good one."""
        self._good = Snapshot(self._model, self._training_state)
        self._kept, self._is_changed = self._current, False

    def roll_back(self) -> None:
        """Return to the last good state."""
        self._good.restore()
        self._current, self._is_changed = self._kept, False

    def rounds_left(self) -> int | None:
        """Rounds of training that the plan still allows; None: no limit."""
        total = self.plan.total_rounds
        return None if total is None else max(0, total - self.rounds)

    def weights_to_prune(self) -> int | None:
        """How many weights of the layers to prune go in all; None without a target sparsity."""
        if self.plan.target_sparsity is None:
            return None
        own = {id(turn.companion) for turn in self.turns}
        others = [mask for mask in companion_masks(self._model) if id(mask) not in own]
        total = conv_weight_count(self._model)
        return round(self.plan.target_sparsity * total) - sum(m.pruned_weights() for m in others)

    def room(self) -> int | None:
        """How many weights may still be pruned; None without a target sparsity."""
        wanted = self.weights_to_prune()
        return None if wanted is None else wanted - sum(t.pruned_weights() for t in self.turns)

    def asked_to_stop(self) -> str | None:
        """Ask the caller whether to go on; the reason for the record if not."""
        if self._stop is None or not ranks.of_rank_0(bool(self._stop(self._model))):
            return None
        self.stopped = True
        return "stopped by the caller"

    def tell(self, message: str) -> None:
        """Pass a line of progress on."""
        self._on_progress(message)

    # How it starts and ends.

    def _start(self) -> None:
        with record_activations(self._model, conv_layers(self._model)) as activations:
            base = measure(self._evaluate, self._model)
        if base.accuracy < self.plan.target_accuracy:
            raise ValueError(
                f"target_accuracy: the model starts at {base.accuracy:.4f}, below the "
                f"target of {self.plan.target_accuracy}; train it further or lower the target"
            )
        self._activations = gathered(activations)
        self._open_layers()
        self._current = base
        self._note("baseline", None, base, None)
        self.keep()

    def _open_layers(self) -> None:
        for record in self.plan.split.prune:
            conv = self._model.get_submodule(record.name)
            assert isinstance(conv, nn.Conv2d)
            companion = attach(conv, record.group)
            layer = self.plan.of(record.name)
            self.turns.append(LayerTurn(record.name, conv, companion, layer, self.plan.step))
        self._strategy = Method(self) if self.plan.strategy == "method" else Scheduled(self)

    def _note(
        self, phase: str, layer: str | None, evaluation: Evaluation | None, loss: float | None
    ) -> None:
        self.history.append(
            RoundRecord(
                round=self.rounds,
                phase=phase,
                layer=layer,
                accuracy=None if evaluation is None else evaluation.accuracy,
                loss=None if evaluation is None else evaluation.loss,
                train_loss=loss,
                pruned_share=pruned_share(self._model),
            )
        )

    def _checkpoint(self) -> None:
        # A run that the caller stopped goes on from the checkpoint before: the model may have
        # been rolled back since.
        if self._on_checkpoint is not None and not self.stopped:
            self._on_checkpoint(self)

    def _result(self, strategy: Method | Scheduled, ended: str) -> PruneResult:
        return PruneResult(
            target_accuracy=self.plan.target_accuracy,
            base_accuracy=self.history[0].accuracy or 0.0,
            accuracy=self._kept.accuracy,
            pruned_share=pruned_share(self._model),
            ended=ended,
            passes=strategy.passes,
            rounds=self.rounds,
            layers=layer_records(
                self._model,
                self.plan.split,
                thresholds={turn.name: turn.threshold for turn in self.turns},
                closed=strategy.closed(ended),
            ),
            steps=tuple(self.steps),
            history=tuple(self.history),
            activations=self._activations,
            diverged=self._diverged,
            base_loss=self.history[0].loss,
            loss=self._kept.loss,
            plan=self.plan.to_dict(),
            ranks=ranks.count(),
            versions=versions(),
        )
