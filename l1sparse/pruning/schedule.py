# SPDX-License-Identifier: MIT
"""The policy of pruning, and the one pure function that draws a layer's next step from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

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

Strategy = Literal["method", "one-shot", "gradual", "global"]
"""How the network comes to its sparsity; `PrunePlan.strategy` says what each does."""

Threshold = Literal["layer", "global"]
"""Whose threshold the method prunes by; see `PrunePlan.threshold`."""


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

    The strategies:

    - ``"method"``: the claims' loop. Layer by layer, prune a step and retrain to the target; roll
      back what misses it; until the network converges or `target_sparsity` is reached.
    - ``"one-shot"``: prune every layer to its sparsity at once, then retrain.
    - ``"gradual"``: every layer's sparsity rises over `pruning_rounds` on the cubic schedule of
      Zhu & Gupta (2017), one round of training after each rise; then retrain.
    - ``"global"``: one threshold over all layers to prune, in `pruning_rounds` rises of the same
      schedule; then retrain.

    The last three use all of `total_rounds` and never roll back. So does the method with a
    `target_sparsity`: what its loop leaves of `total_rounds` is spent on fine-tuning. Runs with
    the same `total_rounds` and `target_sparsity` thus compare at equal training.

    Attributes:
        target_accuracy: what the network has to reach before anything is pruned and, under
            ``"method"``, after every accepted step; a fraction of 1.
        split: which layers are pruned, in this order, and which are kept.
        layer: how a layer is pruned that `layers` does not name.
        layers: name to plan, for layers that differ (claim 6).
        prune: the side of the threshold that is pruned.
        strategy: see above.
        target_sparsity: share of ALL conv weights of the network to prune; None: the layers' own
            sparsities or thresholds decide.
        threshold: by what ``"method"`` prunes a layer when its turn comes. ``"layer"``: its own
            alpha or sparsity. ``"global"``: one threshold over all layers to prune, by which the
            network would now come to `target_sparsity`.
        step: of a layer's remaining weights, at most this share goes in one step (or one group,
            if that is more): a threshold that would take most of a layer takes it over several
            steps, with retraining between. ``"method"`` only, as the next three.
        retries: how often a layer that missed the target comes back, in a later pass, with half
            the step, before it is closed.
        rounds: most rounds of retraining a step.
        min_rounds: least rounds of retraining a step, also where it is at the target before: so
            pruning goes on slowly even where much accuracy may be lost between steps.
        total_rounds: most rounds of retraining in all; None: no such limit.
        passes: most passes over the layers; None: until the network converges.
        pruning_rounds: over how many rounds pruning is spread; None: half of `total_rounds` for
            ``"gradual"`` and 1 for ``"global"``. The other strategies have no use for it.
    """

    target_accuracy: float
    split: LayerSplit
    layer: LayerPlan = LayerPlan()
    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    prune: Side = "below"
    strategy: Strategy = "method"
    target_sparsity: float | None = None
    threshold: Threshold = "layer"
    step: float = 0.5
    retries: int = 1
    rounds: int = 3
    min_rounds: int = 0
    total_rounds: int | None = None
    passes: int | None = None
    pruning_rounds: int | None = None

    def __post_init__(self) -> None:
        check_share("target_accuracy", self.target_accuracy)
        check_side(self.prune)
        names = [record.name for record in self.split.prune]
        foreign = [name for name in self.layers if name not in names]
        if foreign:
            raise ValueError(
                f"layers: expected some of the layers to prune, {names}; got {foreign}"
            )
        if self.target_sparsity is not None:
            check_share("target_sparsity", self.target_sparsity)
        if not 0.0 < self.step <= 1.0:
            raise ValueError(f"step: expected a share above 0 and up to 1, got {self.step!r}")
        for argument in ("retries", "rounds", "min_rounds", "total_rounds", "passes"):
            value = getattr(self, argument)
            if value is not None and value < 0:
                raise ValueError(f"{argument}: expected 0 or more, got {value!r}")
        if self.min_rounds > self.rounds:
            raise ValueError(
                f"min_rounds: expected at most rounds={self.rounds}, got {self.min_rounds}"
            )
        self._check_threshold()
        self._check_strategy()

    def of(self, name: str) -> LayerPlan:
        """How the layer `name` is pruned."""
        return self.layers.get(name, self.layer)

    def rises(self) -> int:
        """In how many steps a strategy other than the method comes to its sparsity."""
        if self.pruning_rounds is not None:
            return self.pruning_rounds
        assert self.total_rounds is not None
        return max(1, self.total_rounds // 2) if self.strategy == "gradual" else 1

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {
            **{key: value for key, value in vars(self).items() if key != "split"},
            "layer": asdict(self.layer),
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "split": self.split.to_dict(),
        }

    def _check_threshold(self) -> None:
        if self.threshold not in get_args(Threshold):
            raise ValueError(
                f"threshold: expected one of {', '.join(get_args(Threshold))}; got "
                f"{self.threshold!r}"
            )
        if self.threshold == "layer":
            return
        if self.strategy != "method":
            raise ValueError(
                f"threshold: the {self.strategy} strategy has one of its own, expected 'layer'; "
                f"got {self.threshold!r}"
            )
        if self.target_sparsity is None:
            raise ValueError("target_sparsity: threshold='global' needs a number, got None")
        for record in self.split.prune:
            plan = self.of(record.name)
            if plan.alpha is not None or plan.sparsity is not None:
                raise ValueError(
                    f"threshold: 'global' leaves a layer no threshold of its own, but "
                    f"{record.name!r} has alpha={plan.alpha!r} and sparsity={plan.sparsity!r}; "
                    "expected None for both"
                )

    def _check_strategy(self) -> None:
        strategy = self.strategy
        if strategy not in get_args(Strategy):
            raise ValueError(
                f"strategy: expected one of {', '.join(get_args(Strategy))}; got {strategy!r}"
            )
        if strategy in ("method", "one-shot") and self.pruning_rounds is not None:
            raise ValueError(
                f"pruning_rounds: the {strategy} strategy has none, expected None; got "
                f"{self.pruning_rounds!r}"
            )
        if strategy == "method":
            return
        if self.total_rounds is None:
            raise ValueError(f"total_rounds: the {strategy} strategy needs a number, got None")
        if not 1 <= self.rises() <= max(1, self.total_rounds):
            raise ValueError(
                f"pruning_rounds: expected 1 to total_rounds={self.total_rounds}, got "
                f"{self.pruning_rounds!r}"
            )
        plans = {record.name: self.of(record.name) for record in self.split.prune}
        for name, plan in plans.items():
            if plan.alpha is not None:
                raise ValueError(
                    f"alpha: the {strategy} strategy prunes by sparsity, expected None for "
                    f"{name!r}; got {plan.alpha!r}"
                )
            if (plan.sparsity is None) == (self.target_sparsity is None):
                raise ValueError(
                    f"sparsity: the {strategy} strategy needs either target_sparsity or a "
                    f"sparsity of every layer; {name!r} has {plan.sparsity!r} and "
                    f"target_sparsity is {self.target_sparsity!r}"
                )


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
    weight: Tensor,
    mask: Tensor,
    group: GroupShape,
    plan: LayerPlan,
    step: float,
    prune: Side,
    room: int | None = None,
    chosen: Tensor | None = None,
) -> NextStep:
    """Group, compare with theta, and limit the step: what a layer loses when its turn comes.

    Args:
        weight: ``[O, C, kH, kW]``, with zeros where it is pruned already.
        mask: bool, of the group grid's shape: what is kept so far.
        group: channel-group shape.
        plan: the layer's threshold and most sparsity.
        step: most share of the remaining weights to prune (or one group, if that is more).
        prune: the side of the threshold that is pruned.
        room: most weights that the step may prune, whatever else says; None: no such limit.
        chosen: bool, of the mask's shape; what to keep in the end by a threshold from elsewhere.
            None: by the layer's own.

    Raises:
        ValueError: if `weight` holds NaN or an infinity and the plan is by `alpha`.
    """
    norms = group_norms(weight, group)
    sizes = group_sizes(weight.shape, group, norms.device)
    if chosen is not None:
        wanted = Selection(chosen, math.nan)
    elif plan.sparsity is None:
        theta = claims_threshold(weight, 1.0 if plan.alpha is None else plan.alpha)
        wanted = Selection(select_by_threshold(norms, theta, mask, prune), theta)
    else:
        wanted = select_by_sparsity(norms, sizes, plan.sparsity, mask, prune)
    remaining = int(sizes[mask].sum())
    below_cap = int(plan.max_sparsity * weight.numel()) - (weight.numel() - remaining)
    most = min(max(int(step * remaining), group.filters * group.channels), below_cap)
    if room is not None:
        most = min(most, room)
    limited = limit_selection(wanted.mask, mask, norms, sizes, most, prune)
    return NextStep(
        Selection(limited, wanted.threshold),
        weights=int(sizes[mask & ~limited].sum()),
        wanted=int(sizes[mask & ~wanted.mask].sum()),
    )
