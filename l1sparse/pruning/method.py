# SPDX-License-Identifier: MIT
"""The claims' loop: prune a layer, retrain, go on to the next, until the network converges."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from l1sparse.pruning.result import PruneStep
from l1sparse.pruning.targets import select_over_all
from l1sparse.pruning.turn import LayerTurn

if TYPE_CHECKING:
    from l1sparse.pruning.run import PruneRun


@dataclass
class _OpenStep:
    """A step that has been pruned and neither accepted nor rolled back yet."""

    turn: int
    pruned_weights: int
    accuracy_pruned: float
    accuracy: float
    rounds: int = 0


class Method:
    """Claims 1, 2, 7 and 8 as a state machine that can be saved between any two rounds.

    Layers take turns in the order of the split, pass after pass. Where a `target_sparsity` is
    given, what the loop leaves of the rounds goes into fine-tuning.
    """

    def __init__(self, run: PruneRun) -> None:
        self._run, self._plan, self._turns = run, run.plan, run.turns
        self.passes = 0
        self._next = 0
        self._moved = False
        self._open: _OpenStep | None = None
        self._pruning_ended: str | None = None

    def advance(self) -> str | None:
        """Do what comes next, at most one round of training; returns why the run ended, if so."""
        if self._pruning_ended is not None:
            return self._fine_tune(self._pruning_ended)
        if self._open is None:
            reason = self._open_next()
            if reason is not None:
                return self._end_pruning(reason)
        assert self._open is not None
        if not self._is_over(self._open):
            self._retrain(self._open)
        if self._is_over(self._open):
            self._close(self._open)
            self._open = None
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands, JSON-able."""
        return {
            "passes": self.passes,
            "next": self._next,
            "moved": self._moved,
            "open": None if self._open is None else asdict(self._open),
            "pruning_ended": self._pruning_ended,
            "turns": [turn.state_dict() for turn in self._turns],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.passes, self._next, self._moved = state["passes"], state["next"], state["moved"]
        self._open = None if state["open"] is None else _OpenStep(**state["open"])
        self._pruning_ended = state["pruning_ended"]
        for turn, saved in zip(self._turns, state["turns"], strict=True):
            turn.load_state_dict(saved)

    def closed(self, ended: str) -> dict[str, str]:
        """Why each layer to prune was pruned no further."""
        return {turn.name: turn.state(ended) for turn in self._turns}

    def _open_next(self) -> str | None:
        """Prune the next layer that has something to lose; or why no layer does."""
        while True:
            if self.passes == 0 or self._next == len(self._turns):
                if self.passes and not self._moved:
                    return "converged"
                if self._plan.passes is not None and self.passes >= self._plan.passes:
                    return f"{self._plan.passes} passes made"
                self.passes, self._next, self._moved = self.passes + 1, 0, False
                continue
            turn = self._turns[self._next]
            reason = None if turn.closed else self._cut_short()
            if reason is not None:
                return reason
            self._next += 1
            room = self._run.room()
            if turn.closed or (room is not None and room < _group_size(turn)):
                continue
            pruned = turn.take(self._plan, self._run.optimizers, room, self._chosen(turn))
            if pruned:
                evaluation = self._run.measure_pruned(turn.name)
                self._open = _OpenStep(
                    self._next - 1, pruned, evaluation.accuracy, evaluation.accuracy
                )
                return None

    def _chosen(self, turn: LayerTurn) -> Tensor | None:
        """What `turn` keeps under one threshold over all layers, if the plan has that."""
        if self._plan.threshold == "layer":
            return None
        wanted = self._run.weights_to_prune()
        assert wanted is not None
        layers = {other.name: other.prunable() for other in self._turns}
        return select_over_all(layers, wanted, self._plan.prune)[turn.name]

    def _cut_short(self) -> str | None:
        if self._run.rounds_left() == 0:
            return f"all {self._plan.total_rounds} rounds of retraining used"
        room = self._run.room()
        if room is not None and room < min(_group_size(turn) for turn in self._turns):
            return f"reached target_sparsity {self._plan.target_sparsity}"
        return self._run.asked_to_stop()

    def _is_over(self, step: _OpenStep) -> bool:
        at_target = step.accuracy >= self._plan.target_accuracy
        return (
            (at_target and step.rounds >= self._plan.min_rounds)
            or step.rounds >= self._plan.rounds
            or self._run.rounds_left() == 0
        )

    def _retrain(self, step: _OpenStep) -> None:
        name = self._turns[step.turn].name
        step.accuracy = self._run.train("retrain", name).accuracy
        step.rounds += 1
        self._run.tell(f"{name}: round {step.rounds}, accuracy {step.accuracy:.4f}")

    def _close(self, step: _OpenStep) -> None:
        """Accept the step, or roll it back."""
        turn = self._turns[step.turn]
        record = PruneStep(
            pass_number=self.passes,
            layer=turn.name,
            threshold=turn.threshold,
            pruned_weights=step.pruned_weights,
            density=turn.companion.density(),
            accuracy_pruned=step.accuracy_pruned,
            accuracy=step.accuracy,
            rounds=step.rounds,
            accepted=step.accuracy >= self._plan.target_accuracy,
        )
        self._run.steps.append(record)
        outcome = "kept" if record.accepted else "rolled back"
        self._run.tell(
            f"pass {record.pass_number}, {record.layer}: density {record.density:.3f}, accuracy "
            f"{record.accuracy:.4f}, {outcome}"
        )
        if record.accepted:
            self._run.keep()
            self._moved = True
            return
        self._run.roll_back()
        # A step that the end of all rounds cut short did not get its chance.
        if self._run.rounds_left() != 0 or record.rounds == self._plan.rounds:
            turn.missed(record, self._plan.retries)
        self._moved = self._moved or turn.closed is None

    def _end_pruning(self, reason: str) -> str | None:
        rounds_left = self._run.rounds_left()
        if self._plan.target_sparsity is None or not rounds_left or self._run.stopped:
            return reason
        self._pruning_ended = reason
        self._run.tell(f"{reason}; {rounds_left} rounds of fine-tuning")
        return None

    def _fine_tune(self, reason: str) -> str | None:
        """One more round; in the end, the last state that was at the target."""
        stopped = self._run.asked_to_stop()
        if stopped is not None or self._run.rounds_left() == 0:
            self._run.roll_back()
            return stopped or reason
        accuracy = self._run.train("fine-tune", None).accuracy
        self._run.tell(f"fine-tune: round {self._run.rounds}, accuracy {accuracy:.4f}")
        if accuracy >= self._plan.target_accuracy:
            self._run.keep()
        return None


def _group_size(turn: LayerTurn) -> int:
    return turn.companion.group.filters * turn.companion.group.channels
