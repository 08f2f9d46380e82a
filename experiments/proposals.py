# SPDX-License-Identifier: MIT
"""A sparsity for each layer, from its sensitivity curve."""

from __future__ import annotations

from torch import nn

from l1sparse.pruning import LayerSensitivity
from l1sparse.pruning.plan_schema import PlanFile, RunSection
from l1sparse.pruning.propose import propose


def proposed(layers: list[LayerSensitivity], model: nn.Module, sparsity: float) -> dict[str, float]:
    """The sparsities that prune `sparsity` of all conv weights at the least sum of drops.

    Layers that are better left alone are not in it.
    """
    template = PlanFile(run=RunSection(allowed_drop=1.0))  # of a plan that is not run as it is
    proposal = propose("density", 1.0 - sparsity, model, layers, template)
    return {layer.name: layer.sparsity for layer in proposal.layers if layer.sparsity > 0}
