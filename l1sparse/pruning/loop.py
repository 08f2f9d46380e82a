# SPDX-License-Identifier: MIT
"""The claims' loop: prune a layer, retrain, go on to the next, until the network converges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from l1sparse.pruning.callables import (
    Evaluate,
    Progress,
    Recalibrate,
    Stop,
    Train,
    TrainingState,
    measure_accuracy,
    silent,
)
from l1sparse.pruning.layers import pruned_share, unprunable_reason
from l1sparse.pruning.mask import attach
from l1sparse.pruning.result import PruneResult, PruneStep, layer_records
from l1sparse.pruning.schedule import PrunePlan
from l1sparse.pruning.sensitivity import LayerSensitivity
from l1sparse.pruning.snapshot import Snapshot
from l1sparse.pruning.turn import LayerTurn


def prune(
    model: nn.Module,
    evaluate: Evaluate,
    train: Train,
    plan: PrunePlan,
    *,
    training_state: Sequence[TrainingState] = (),
    recalibrate: Recalibrate | None = None,
    stop: Stop | None = None,
    on_progress: Progress = silent,
) -> PruneResult:
    """Prune `model` in place, layer by layer, never leaving it below the target accuracy.

    Claims 1, 2, 7 and 8: take the layers in the order of ``plan.split``, descending sensitivity.
    For each, group its kernels, compute norms and theta, prune groups, extend the companion mask,
    and retrain until the network is back at the target. Repeat until it converges: a whole pass
    in which no layer loses a group and none is left to retry.

    A step that misses the target within its rounds is rolled back: parameters, buffers, masks and
    training state become what they were after the last accepted step, bit for bit. The layer
    comes back with half the step ``plan.retries`` times, then it is closed. When the loop is cut
    short, by a budget or by an exception, the model is left in that same last good state.

    The companion masks stay attached, so that training can go on; `detach_all` removes them.

    Args:
        model: any module with `nn.Conv2d` layers, trained to the target.
        evaluate: accuracy of the model, a fraction of 1.
        train: one round of training, in place; its gradients are masked by the companion masks.
        plan: the policy.
        training_state: what `train` changes besides the model and should be rolled back with it:
            optimizers, schedulers. Optimizers also get the state of pruned weights zeroed.
        recalibrate: called after each pruning, before the first accuracy is measured.
        stop: asked before each step, when the model is at its target; True ends the loop.
        on_progress: called after each round of retraining and each step.

    Returns:
        The record of it all.

    Raises:
        ValueError: if `model` starts below the target, a layer to prune cannot be pruned or has a
            companion mask of another group shape, its weight is not finite, or `evaluate` returns
            anything but a fraction.
    """
    loop = _Loop(model, evaluate, train, plan, training_state, recalibrate, stop, on_progress)
    try:
        ended = loop.run()
    except BaseException:
        loop.roll_back()
        raise
    return loop.result(ended)


class _Loop:
    def __init__(
        self,
        model: nn.Module,
        evaluate: Evaluate,
        train: Train,
        plan: PrunePlan,
        training_state: Sequence[TrainingState],
        recalibrate: Recalibrate | None,
        stop: Stop | None,
        on_progress: Progress,
    ) -> None:
        self._model, self._evaluate, self._train, self._plan = model, evaluate, train, plan
        self._recalibrate, self._stop, self._on_progress = recalibrate, stop, on_progress
        self._training_state = training_state
        self._optimizers = [
            part for part in training_state if isinstance(part, torch.optim.Optimizer)
        ]
        for record in plan.split.prune:
            reason = unprunable_reason(model, record.name)
            if reason is not None:
                raise ValueError(f"plan: the layer {record.name!r} cannot be pruned: {reason}")
        self._base_accuracy = self._accuracy = measure_accuracy(evaluate, model)
        if self._base_accuracy < plan.target_accuracy:
            raise ValueError(
                f"target_accuracy: the model starts at {self._base_accuracy:.4f}, below the "
                f"target of {plan.target_accuracy}; train it further or lower the target"
            )
        self._turns = [self._open(record) for record in plan.split.prune]
        self._steps: list[PruneStep] = []
        self._passes = self._rounds = 0
        self._good = Snapshot(model, training_state)

    def _open(self, record: LayerSensitivity) -> LayerTurn:
        conv = self._model.get_submodule(record.name)
        assert isinstance(conv, nn.Conv2d)
        companion = attach(conv, record.group)
        return LayerTurn(record.name, conv, companion, self._plan.of(record.name), self._plan.step)

    def run(self) -> str:
        """Pass over the open layers until there is a reason to end, which is returned."""
        while True:
            if self._plan.passes is not None and self._passes >= self._plan.passes:
                return f"{self._plan.passes} passes made"
            self._passes += 1
            moved = False
            for turn in self._turns:
                if turn.closed is not None:
                    continue
                cut_short = self._cut_short()
                if cut_short is not None:
                    return cut_short
                moved = self._visit(turn) or moved
            if not moved:
                return "converged"

    def _cut_short(self) -> str | None:
        if self._rounds_left() == 0:
            return f"all {self._plan.total_rounds} rounds of retraining used"
        if self._stop is not None and self._stop(self._model):
            return "stopped by the caller"
        return None

    def _visit(self, turn: LayerTurn) -> bool:
        """One layer's turn; False if nothing came of it and nothing is left to retry."""
        pruned = turn.take(self._plan, self._optimizers)
        if not pruned:
            return False
        record = self._retrain(turn, pruned)
        self._steps.append(record)
        self._report(record)
        if record.accepted:
            self._accuracy = record.accuracy
            self._good = Snapshot(self._model, self._training_state)
            return True
        self.roll_back()
        if self._rounds_left() != 0 or record.rounds == self._plan.rounds:
            turn.missed(record, self._plan.retries)
        return turn.closed is None

    def _retrain(self, turn: LayerTurn, pruned_weights: int) -> PruneStep:
        """Train round by round until the network is at the target or the rounds are used up."""
        if self._recalibrate is not None:
            self._recalibrate(self._model)
        accuracy = accuracy_pruned = measure_accuracy(self._evaluate, self._model)
        target, rounds = self._plan.target_accuracy, 0
        while accuracy < target and rounds < self._plan.rounds and self._rounds_left() != 0:
            self._train(self._model)
            rounds += 1
            self._rounds += 1
            accuracy = measure_accuracy(self._evaluate, self._model)
            self._on_progress(f"{turn.name}: round {rounds}, accuracy {accuracy:.4f}")
        return PruneStep(
            pass_number=self._passes,
            layer=turn.name,
            threshold=turn.threshold,
            pruned_weights=pruned_weights,
            density=turn.companion.density(),
            accuracy_pruned=accuracy_pruned,
            accuracy=accuracy,
            rounds=rounds,
            accepted=accuracy >= target,
        )

    def roll_back(self) -> None:
        """Return to the last good state."""
        self._good.restore()

    def _rounds_left(self) -> int | None:
        total = self._plan.total_rounds
        return None if total is None else max(0, total - self._rounds)

    def _report(self, record: PruneStep) -> None:
        outcome = "kept" if record.accepted else "rolled back"
        self._on_progress(
            f"pass {record.pass_number}, {record.layer}: density {record.density:.3f}, accuracy "
            f"{record.accuracy:.4f}, {outcome}"
        )

    def result(self, ended: str) -> PruneResult:
        """The record of the run, with one entry for every conv layer of the network."""
        return PruneResult(
            target_accuracy=self._plan.target_accuracy,
            base_accuracy=self._base_accuracy,
            accuracy=self._accuracy,
            pruned_share=pruned_share(self._model),
            ended=ended,
            passes=self._passes,
            rounds=self._rounds,
            layers=layer_records(
                self._model,
                self._plan.split,
                thresholds={turn.name: turn.threshold for turn in self._turns},
                closed={turn.name: turn.state(ended) for turn in self._turns},
            ),
            steps=tuple(self._steps),
        )
