# SPDX-License-Identifier: MIT
"""The policy of the loop, and the one pure function that draws a layer's next step from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.pruning.checks import Side, check_alpha, check_share, check_side
from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.sparsity import select_by_sparsity
from l1sparse.pruning.split import LayerSplit
from l1sparse.pruning.threshold import (
    Selection,
    claims_threshold,
    limit_selection,
    select_by_threshold,
)


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is pruned; its group shape is the one that its sensitivity was measured with.

    Attributes:
        alpha: factor of the claims' threshold; None: 1, unless `sparsity` is given.
        sparsity: prune towards this share of the layer's weights instead (a quantile of the
            norms); None: by the claims' threshold.
        max_sparsity: never prune more than this share of the layer's weights.
    """

    alpha: float | None = None
    sparsity: float | None = None
    max_sparsity: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha is not None and self.sparsity is not None:
            raise ValueError(
                "sparsity: a layer is pruned by alpha or by sparsity, not by both; got "
                f"alpha={self.alpha!r} and sparsity={self.sparsity!r}"
            )
        if self.alpha is not None:
            check_alpha(self.alpha)
        if self.sparsity is not None:
            check_share("sparsity", self.sparsity)
        check_share("max_sparsity", self.max_sparsity)


@dataclass(frozen=True)
class PrunePlan:
    """The whole policy of `prune`.

    Attributes:
        target_accuracy: what every accepted state of the network reaches, a fraction of 1.
        split: which layers are pruned, in this order, and which are kept.
        layer: how a layer is pruned that `layers` does not name.
        layers: name to plan, for layers that differ (claim 6).
        prune: the side of the threshold that is pruned.
        step: of a layer's remaining weights, at most this share goes in one step (or one group,
            if that is more): a threshold that would take most of a layer takes it over several
            steps, with retraining between.
        retries: how often a layer that missed the target comes back, in a later pass, with half
            the step, before it is closed.
        rounds: most rounds of retraining a step.
        total_rounds: most rounds of retraining in all; None: no such limit.
        passes: most passes over the layers; None: until the network converges.
    """

    target_accuracy: float
    split: LayerSplit
    layer: LayerPlan = LayerPlan()
    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    prune: Side = "below"
    step: float = 0.5
    retries: int = 1
    rounds: int = 3
    total_rounds: int | None = None
    passes: int | None = None

    def __post_init__(self) -> None:
        check_share("target_accuracy", self.target_accuracy)
        check_side(self.prune)
        names = [record.name for record in self.split.prune]
        foreign = [name for name in self.layers if name not in names]
        if foreign:
            raise ValueError(
                f"layers: expected some of the layers to prune, {names}; got {foreign}"
            )
        if not 0.0 < self.step <= 1.0:
            raise ValueError(f"step: expected a share above 0 and up to 1, got {self.step!r}")
        for argument in ("retries", "rounds", "total_rounds", "passes"):
            value = getattr(self, argument)
            if value is not None and value < 0:
                raise ValueError(f"{argument}: expected 0 or more, got {value!r}")

    def of(self, name: str) -> LayerPlan:
        """How the layer `name` is pruned."""
        return self.layers.get(name, self.layer)


@dataclass(frozen=True)
class NextStep:
    """What a layer would lose next.

    Attributes:
        selection: the mask after the step, and the theta that asked for it.
        weights: how many weights the step prunes; 0 if none.
        wanted: how many weights lie on the pruned side of theta; more than `weights` where the
            step or `max_sparsity` limits it.
    """

    selection: Selection
    weights: int
    wanted: int


def next_step(
    weight: Tensor, mask: Tensor, group: GroupShape, plan: LayerPlan, step: float, prune: Side
) -> NextStep:
    """Group, compare with theta, and limit the step: what a layer loses when its turn comes.

    Args:
        weight: ``[O, C, kH, kW]``, with zeros where it is pruned already.
        mask: bool, of the group grid's shape: what is kept so far.
        group: channel-group shape.
        plan: the layer's threshold and most sparsity.
        step: most share of the remaining weights to prune (or one group, if that is more).
        prune: the side of the threshold that is pruned.

    Raises:
        ValueError: if `weight` holds NaN or an infinity and the plan is by `alpha`.
    """
    norms = group_norms(weight, group)
    sizes = group_sizes(weight.shape, group, norms.device)
    if plan.sparsity is None:
        theta = claims_threshold(weight, 1.0 if plan.alpha is None else plan.alpha)
        wanted = Selection(select_by_threshold(norms, theta, mask, prune), theta)
    else:
        wanted = select_by_sparsity(norms, sizes, plan.sparsity, mask, prune)
    remaining = int(sizes[mask].sum())
    room = int(plan.max_sparsity * weight.numel()) - (weight.numel() - remaining)
    most = min(max(int(step * remaining), group.filters * group.channels), room)
    limited = limit_selection(wanted.mask, mask, norms, sizes, most, prune)
    return NextStep(
        Selection(limited, wanted.threshold),
        weights=int(sizes[mask & ~limited].sum()),
        wanted=int(sizes[mask & ~wanted.mask].sum()),
    )
