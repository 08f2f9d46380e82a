# SPDX-License-Identifier: MIT
"""Channel-group L1 pruning: measure, split, prune, retrain (the method of CN111242287A).

In the order of use: `conv_layers`, `record_activations`, `measure_sensitivity`, `split_layers`,
`PrunePlan`, `prune`, `detach_all`. The parts beneath are pure functions on norms and masks.
"""

from l1sparse.pruning.checks import Side
from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.layers import conv_layers, pruned_share, unprunable_reason
from l1sparse.pruning.loop import prune
from l1sparse.pruning.mask import (
    CompanionMask,
    attach,
    companion_mask,
    detach,
    detach_all,
    extend,
)
from l1sparse.pruning.result import LayerRecord, PruneResult, PruneStep
from l1sparse.pruning.schedule import LayerPlan, PrunePlan
from l1sparse.pruning.sensitivity import (
    LayerSensitivity,
    SensitivityPoint,
    measure_sensitivity,
    order_layers,
)
from l1sparse.pruning.sparsity import select_by_sparsity, select_globally
from l1sparse.pruning.split import KeptLayer, LayerSplit, split_layers
from l1sparse.pruning.statistics import (
    ActivationStatistics,
    LayerActivations,
    record_activations,
)
from l1sparse.pruning.threshold import Selection, claims_threshold, select_by_threshold

__all__ = [
    "ActivationStatistics",
    "CompanionMask",
    "KeptLayer",
    "LayerActivations",
    "LayerPlan",
    "LayerRecord",
    "LayerSensitivity",
    "LayerSplit",
    "PrunePlan",
    "PruneResult",
    "PruneStep",
    "Selection",
    "SensitivityPoint",
    "Side",
    "attach",
    "claims_threshold",
    "companion_mask",
    "conv_layers",
    "detach",
    "detach_all",
    "extend",
    "group_norms",
    "group_sizes",
    "measure_sensitivity",
    "order_layers",
    "prune",
    "pruned_share",
    "record_activations",
    "select_by_sparsity",
    "select_by_threshold",
    "select_globally",
    "split_layers",
    "unprunable_reason",
]
