# SPDX-License-Identifier: MIT
"""Whether a plan can be followed on a model."""

from __future__ import annotations

from torch import nn

from l1sparse.pruning.layers import conv_weight_count, group_too_large, unprunable_reason
from l1sparse.pruning.mask import raw_weight
from l1sparse.pruning.schedule import PrunePlan


def check_plan_fits(plan: PrunePlan, model: nn.Module) -> None:
    """Raise ValueError, naming the layer or the key, unless `model` can be pruned by `plan`."""
    for record in plan.split.prune:
        reason = unprunable_reason(model, record.name) or group_too_large(
            model, record.name, record.group
        )
        if reason is not None:
            raise ValueError(f"plan: the layer {record.name!r} cannot be pruned: {reason}")
    if plan.target_sparsity is None:
        return
    most = sum(
        plan.of(record.name).max_sparsity * raw_weight(model.get_submodule(record.name)).numel()
        for record in plan.split.prune
    ) / conv_weight_count(model)
    if plan.target_sparsity > most:
        raise ValueError(
            f"target_sparsity: expected at most {most:.4f}, which is what the layers to prune "
            f"hold of all conv weights; got {plan.target_sparsity!r}"
        )
