# SPDX-License-Identifier: MIT
"""Channel-group L1 pruning: measure, split, prune, retrain (the method of CN111242287A).

In the order of use: `conv_layers`, `record_activations`, `measure_sensitivity`, `split_layers`,
`PrunePlan`, `prune` (or `PruneRun`, which can be interrupted), `detach_all`. The parts beneath are
pure functions on norms and masks.
"""

from l1sparse.pruning.callables import DivergedError, Evaluation
from l1sparse.pruning.checks import Side
from l1sparse.pruning.curve import LayerSensitivity, SensitivityPoint, curve_rows, order_layers
from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.layers import (
    conv_layers,
    layer_candidates,
    pruned_share,
    unprunable_reason,
)
from l1sparse.pruning.loop import prune
from l1sparse.pruning.mask import (
    CompanionMask,
    attach,
    companion_mask,
    detach,
    detach_all,
    extend,
)
from l1sparse.pruning.result import LayerRecord, PruneResult, PruneStep, RoundRecord
from l1sparse.pruning.resume import canonical_hash
from l1sparse.pruning.run import PruneRun
from l1sparse.pruning.schedule import LayerPlan, PrunePlan, Strategy
from l1sparse.pruning.sensitivity import measure_sensitivity
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
    "DivergedError",
    "Evaluation",
    "KeptLayer",
    "LayerActivations",
    "LayerPlan",
    "LayerRecord",
    "LayerSensitivity",
    "LayerSplit",
    "PrunePlan",
    "PruneResult",
    "PruneRun",
    "PruneStep",
    "RoundRecord",
    "Selection",
    "SensitivityPoint",
    "Side",
    "Strategy",
    "attach",
    "canonical_hash",
    "claims_threshold",
    "companion_mask",
    "conv_layers",
    "curve_rows",
    "detach",
    "detach_all",
    "extend",
    "group_norms",
    "group_sizes",
    "layer_candidates",
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
