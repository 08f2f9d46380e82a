# SPDX-License-Identifier: MIT
"""The keys of ``plan.yaml``: what each means, what it may be, what it is when left out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from l1sparse.format import GroupShape
from l1sparse.pruning.checks import Side
from l1sparse.pruning.schedule import Strategy, Threshold


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # YAML's yes and no; pydantic would take them for 1 and 0
        raise ValueError(f"expected a number, not {value}")
    return value


def _group(value: Any) -> str:
    try:
        return str(GroupShape.of(value))
    except ValueError:
        raise ValueError(
            "expected filters x channels, both whole numbers of at least 1, such as 1x8"
        ) from None


def _no_is_a_word(value: Any) -> Any:
    return "no" if value is False else value  # as YAML reads a bare `no`


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
AtLeastOne = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Group = Annotated[str, BeforeValidator(_group)]


class Section(BaseModel):
    """A part of the plan; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerRule(Section):
    """How the layers of one name or pattern are pruned."""

    keep: bool | None = Field(
        None,
        description="true: leave the layer unchanged. false: prune it, whatever `split` says. "
        "Left out: `split` decides.",
    )
    group: Group | None = Field(
        None,
        description="Group shape, filters x channels: so many weights share one decision. At most "
        "as many channels as the layer has input channels.",
    )
    alpha: Positive | None = Field(
        None,
        description="Prune groups whose norm is below alpha times the mean absolute weight of the "
        "layer. Strategy `method` only; 1 if neither alpha nor sparsity is given.",
    )
    sparsity: Share | None = Field(
        None,
        description="Prune towards this share of the layer's weights instead of by alpha. The "
        "other strategies need it of every layer, or `run.target_sparsity`.",
    )
    max_sparsity: Share | None = Field(
        None, description="Never prune more than this share of the layer's weights."
    )

    @model_validator(mode="after")
    def _one_rule(self) -> LayerRule:
        if self.alpha is not None and self.sparsity is not None:
            raise ValueError(
                f"expected alpha or sparsity, not both; got alpha {self.alpha} and sparsity "
                f"{self.sparsity}"
            )
        return self


class DefaultRule(LayerRule):
    """How a layer is pruned that no pattern matches, and what a matching rule leaves out."""

    group: Group = Field("1x8", description=LayerRule.model_fields["group"].description)
    max_sparsity: Share = Field(1.0, description=LayerRule.model_fields["max_sparsity"].description)


class SplitSection(Section):
    """Which layers are kept, besides those with ``keep: true``: the most sensitive ones."""

    allowed_drop: Share | None = Field(
        None,
        description="Keep every layer whose sensitivity (accuracy lost when it alone is pruned to "
        "`sensitivity.at`) is larger. null: no such rule.",
    )
    keep_count: Count = Field(0, description="Keep so many of the most sensitive layers.")


class SensitivitySection(Section):
    """How sensitivity is measured."""

    sparsities: list[Share] = Field(
        [0.25, 0.5, 0.75],
        min_length=1,
        description="Shares of a layer's weights at which its curve is measured.",
    )
    at: Share = Field(0.5, description="The one of them that layers are ordered and split by.")
    recalibrate: bool = Field(
        True, description="Re-estimate batch-norm statistics before each measurement."
    )

    @model_validator(mode="after")
    def _at_is_measured(self) -> SensitivitySection:
        if self.at not in self.sparsities:
            raise ValueError(f"at: expected one of the sparsities {self.sparsities}, got {self.at}")
        return self


class RunSection(Section):
    """The target, and how the network comes to its sparsity."""

    strategy: Strategy = Field(
        "method",
        description="method: layer by layer, retrain after each step, roll back what misses the "
        "target (the claims' loop). one-shot: all at once, then retrain. gradual: a cubic rise. "
        "global: one threshold over all layers.",
    )
    side: Side = Field(
        "below",
        description="Which side of the threshold is pruned. above: the literal reading of claim "
        "2, which prunes the large groups.",
    )
    target_accuracy: Share | None = Field(
        None, description="Accuracy to keep, 0 to 1. Give this or `allowed_drop`."
    )
    allowed_drop: Share | None = Field(
        None, description="Accuracy that may be lost against the network as it is given, 0 to 1."
    )
    target_sparsity: Share | None = Field(
        None,
        description="Share of ALL conv weights to prune; pruning stops there, and the rounds that "
        "are left fine-tune. null: the layers' own rules decide.",
    )
    threshold: Threshold = Field(
        "layer",
        description="By what a layer is pruned when its turn comes (method). layer: its own alpha "
        "or sparsity. global: one threshold over all layers, which leads to `target_sparsity`.",
    )
    step: Annotated[Share, Field(gt=0)] = Field(
        0.5, description="Of a layer's remaining weights, most share pruned in one step (method)."
    )
    retries: Count = Field(
        1,
        description="How often a layer that missed the target is tried again with half the step, "
        "before it is closed (method).",
    )
    rounds: Count = Field(3, description="Most rounds of retraining after a step (method).")
    min_rounds: Count = Field(
        0,
        description="Least rounds of retraining after a step, even at the target (method). 1 or "
        "more spreads pruning over the training.",
    )
    total_rounds: Count | None = Field(
        None,
        description="Most rounds of training in all; all strategies but `method` need it and use "
        "all of it. null: no limit.",
    )
    passes: Count | None = Field(
        None,
        description="Most passes over the layers (method). null: until the network converges.",
    )
    pruning_rounds: AtLeastOne | None = Field(
        None,
        description="Over how many rounds pruning is spread (gradual, global). null: half of "
        "total_rounds (gradual), 1 (global).",
    )
    recalibrate: bool = Field(
        True, description="Re-estimate batch-norm statistics after each pruning."
    )

    @model_validator(mode="after")
    def _one_target(self) -> RunSection:
        if (self.target_accuracy is None) == (self.allowed_drop is None):
            raise ValueError(
                "expected either target_accuracy or allowed_drop; got target_accuracy "
                f"{self.target_accuracy} and allowed_drop {self.allowed_drop}"
            )
        return self


class TrainingSection(Section):
    """How the network is trained in a round; for `l1sparse.train`, not for callers' own loops."""

    optimizer: str = Field("SGD", description="A class of torch.optim.")
    learning_rate: Positive = Field(0.01, description="Its learning rate.")
    optimizer_options: dict[str, Any] = Field(
        {"momentum": 0.9, "weight_decay": 5e-4}, description="Its other arguments."
    )
    scheduler: str | None = Field(
        None,
        description="A class of torch.optim.lr_scheduler. null: the learning rate is constant.",
    )
    scheduler_options: dict[str, Any] = Field(
        {}, description="Its arguments; its length is filled in where it is left out."
    )
    scheduler_every: Literal["step", "round"] = Field(
        "step", description="Whether it steps after each step of the optimizer or each round."
    )
    batch_size: AtLeastOne = Field(
        64, description="Images a step of the optimizer, over all processes."
    )
    accumulate: AtLeastOne = Field(
        1, description="In how many pieces a process takes its share of a batch."
    )
    steps_per_round: AtLeastOne | None = Field(
        None, description="Steps of the optimizer in a round. null: one epoch."
    )
    label_smoothing: Share = Field(
        0.0, description="Share of the target that is spread over all classes."
    )
    distillation: Share = Field(
        0.0, description="Share of the loss that compares with the dense network."
    )
    temperature: Positive = Field(4.0, description="That softens both in this comparison.")
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_no_is_a_word)] = (
        Field("no", description="Precision of the forward and backward pass.")
    )
    channels_last: bool = Field(
        False, description="Whether the channels of a pixel lie side by side in memory."
    )
    workers: Count = Field(0, description="Processes that prepare batches, for each rank.")
    seed: Count = Field(0, description="Of the order and the random changes of images.")


class PlanFile(Section):
    """All of ``plan.yaml``."""

    layer: DefaultRule = Field(
        DefaultRule(),
        description="How a layer is pruned that nothing under `layers` matches, and what a match "
        "leaves out.",
    )
    layers: dict[str, LayerRule] = Field(
        {},
        description="Layers that differ, by name or shell pattern; of several that match, the "
        "first counts. The keys are those of `layer`.",
        examples=[
            {
                "features.0": LayerRule(keep=True),
                "features.*": LayerRule(group="1x16", alpha=2.0, max_sparsity=0.9),
            }
        ],
    )
    split: SplitSection = Field(
        SplitSection(),
        description="Which layers are kept, besides those with `keep: true`: the most sensitive.",
    )
    sensitivity: SensitivitySection = Field(
        SensitivitySection(), description="How sensitivity is measured."
    )
    run: RunSection = Field(description="The target, and how the network comes to its sparsity.")
    training: TrainingSection = Field(
        TrainingSection(), description="How the network is trained in a round."
    )
