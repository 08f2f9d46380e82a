# SPDX-License-Identifier: MIT
"""What the claims' loop is compared with: one-shot, gradual and global pruning, on a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from l1sparse.pruning.result import PruneStep
from l1sparse.pruning.targets import (
    cubic_rise,
    even_shares,
    select_each,
    select_over_all,
)

if TYPE_CHECKING:
    from l1sparse.pruning.run import PruneRun


class Scheduled:
    """Prune all layers at once, in one rise or several; one round after each; then the rest."""

    def __init__(self, run: PruneRun) -> None:
        self._run, self._plan = run, run.plan
        self._turns = {turn.name: turn for turn in run.turns}
        self._rises = cubic_rise(self._plan.rises())
        self.passes = 0

    def advance(self) -> str | None:
        """Do what comes next, at most one round of training; returns why the run ended, if so."""
        reason = self._run.asked_to_stop()
        if reason is not None:
            return reason
        pruned = None
        if self.passes < len(self._rises):
            pruned = self._prune(self._rises[self.passes])
            self.passes += 1
            accuracy_pruned = self._run.measure_pruned(None).accuracy
        if self._run.rounds_left() == 0:
            if pruned is None:
                return f"all {self._plan.total_rounds} rounds of retraining used"
            accuracy, rounds = accuracy_pruned, 0
        else:
            accuracy = self._run.train("fine-tune" if pruned is None else "retrain", None).accuracy
            rounds = 1
            self._run.tell(
                f"{self._plan.strategy}: round {self._run.rounds}, accuracy {accuracy:.4f}"
            )
        self._run.keep()
        if pruned is not None:
            self._run.steps.append(
                PruneStep(
                    pass_number=self.passes,
                    layer=None,
                    threshold=None,
                    pruned_weights=pruned,
                    density=1.0 - self._pruned() / max(1, self._weights()),
                    accuracy_pruned=accuracy_pruned,
                    accuracy=accuracy,
                    rounds=rounds,
                    accepted=True,
                )
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, JSON-able."""
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.passes = state["passes"]

    def closed(self, ended: str) -> dict[str, str]:
        """Why each layer to prune was pruned no further."""
        if self.passes == len(self._rises):
            return dict.fromkeys(self._turns, f"at the end of the {self._plan.strategy} schedule")
        return dict.fromkeys(self._turns, f"open when the run ended: {ended}")

    def _prune(self, rise: float) -> int:
        """Prune to this share of the final sparsity. Returns how many weights went."""
        before = self._pruned()
        for name, mask in self._masks(rise).items():
            self._turns[name].prune_to(mask, self._run.optimizers)
        pruned = self._pruned() - before
        self._run.tell(
            f"{self._plan.strategy}: step {self.passes + 1} of {len(self._rises)}, {pruned} "
            f"weights pruned"
        )
        return pruned

    def _masks(self, rise: float) -> dict[str, Tensor]:
        layers = {name: turn.prunable() for name, turn in self._turns.items()}
        weights = {name: layer.weights for name, layer in layers.items()}
        most = {name: layer.max_sparsity for name, layer in layers.items()}
        target = self._run.weights_to_prune()
        if target is None:
            shares = {name: rise * (self._plan.of(name).sparsity or 0.0) for name in layers}
        else:
            shares = even_shares(rise * target, weights, most)
        if self._plan.strategy == "global":
            wanted = sum(shares[name] * weights[name] for name in layers)
            return select_over_all(layers, wanted, self._plan.prune)
        return select_each(layers, shares, self._plan.prune)

    def _pruned(self) -> int:
        return sum(turn.pruned_weights() for turn in self._turns.values())

    def _weights(self) -> int:
        return sum(turn.conv.weight.numel() for turn in self._turns.values())
