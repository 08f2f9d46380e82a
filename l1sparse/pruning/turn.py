# SPDX-License-Identifier: MIT
"""One layer's side of the loop: what it loses when its turn comes, and when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.mask import CompanionMask, extend
from l1sparse.pruning.result import PruneStep, finite_or_none
from l1sparse.pruning.schedule import LayerPlan, PrunePlan, next_step
from l1sparse.pruning.targets import PrunableLayer

_SAVED = ("step", "failures", "threshold", "settled", "closed")


@dataclass
class LayerTurn:
    """A layer to prune, and how far it has come.

    Attributes:
        step: share of the remaining weights that a step may prune; halves with every failure.
        failures: steps that missed the target.
        threshold: theta of the last turn; None before the first, or where it is not finite.
        settled: the last turn found no group on the pruned side of theta.
        closed: why the layer has no more turns; None while it has.
    """

    name: str
    conv: nn.Conv2d
    companion: CompanionMask
    plan: LayerPlan
    step: float
    failures: int = 0
    threshold: float | None = None
    settled: bool = False
    closed: str | None = None

    def take(
        self,
        plan: PrunePlan,
        optimizers: Iterable[torch.optim.Optimizer],
        room: int | None = None,
        chosen: Tensor | None = None,
    ) -> int:
        """Draw the next step and prune it. Returns how many weights went; 0 if none did.

        Args:
            plan: the policy.
            optimizers: told to forget what is pruned.
            room: most weights that the network as a whole may still lose; at least one group.
            chosen: see `next_step`.
        """
        companion = self.companion
        weight = self.conv.weight.detach()
        step = next_step(
            weight, companion.mask, companion.group, self.plan, self.step, plan.prune, room, chosen
        )
        self.threshold = finite_or_none(step.selection.threshold)
        self.settled = not step.wanted
        if not step.weights:
            if step.wanted:
                self.closed = f"reached max_sparsity {self.plan.max_sparsity}"
            elif self.plan.sparsity is not None:
                self.closed = f"reached its sparsity {self.plan.sparsity}"
            return 0
        self.prune_to(step.selection.mask, optimizers)
        return step.weights

    def prune_to(self, mask: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Extend the companion mask, and let the optimizers forget what is pruned."""
        for optimizer in (None, *optimizers):
            extend(self.conv, mask, optimizer)

    def prunable(self) -> PrunableLayer:
        """What a threshold over several layers has to know of this one."""
        norms = group_norms(self.conv.weight.detach(), self.companion.group)
        sizes = group_sizes(self.conv.weight.shape, self.companion.group, norms.device)
        return PrunableLayer(norms, sizes, self.companion.mask, self.plan.max_sparsity)

    def pruned_weights(self) -> int:
        """How many of the layer's weights are pruned."""
        return self.companion.pruned_weights()

    def missed(self, record: PruneStep, retries: int) -> None:
        """Take note that `record` missed the target, and close the layer if that is final.

        Called after the roll-back: the mask is the one from before the step.
        """
        self.failures += 1
        group = self.companion.group
        if self.failures <= retries and record.pruned_weights > group.filters * group.channels:
            # Half of what was tried, not of what was allowed: else the same groups might go again.
            remaining = self.conv.weight.numel() - self.pruned_weights()
            self.step = record.pruned_weights / remaining / 2
            return
        self.closed = (
            f"missed the target on {self.failures} tries; the last pruned "
            f"{record.pruned_weights} weights and came to {record.accuracy:.4f} after "
            f"{record.rounds} rounds"
        )

    def state(self, ended: str) -> str:
        """Why it was pruned no further, given why the loop ended."""
        if self.closed is not None:
            return self.closed
        if self.settled:
            return "settled: no group on the pruned side of theta"
        return f"open when the loop ended: {ended}"

    def state_dict(self) -> dict[str, Any]:
        """How far it has come, JSON-able; the mask is in the model."""
        return {name: getattr(self, name) for name in _SAVED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        for name in _SAVED:
            setattr(self, name, state[name])
