# SPDX-License-Identifier: MIT
"""Pruning in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from l1sparse.pruning.callables import (
    Evaluate,
    Progress,
    Recalibrate,
    Stop,
    Train,
    TrainingState,
    silent,
)
from l1sparse.pruning.result import PruneResult
from l1sparse.pruning.run import PruneRun
from l1sparse.pruning.schedule import PrunePlan


def prune(
    model: nn.Module,
    evaluate: Evaluate,
    train: Train,
    plan: PrunePlan,
    *,
    training_state: Sequence[TrainingState] = (),
    recalibrate: Recalibrate | None = None,
    stop: Stop | None = None,
    on_progress: Progress = silent,
) -> PruneResult:
    """Prune `model` in place; under the method, never leaving it below the target accuracy.

    Claims 1, 2, 7 and 8, for ``plan.strategy == "method"``: take the layers in the order of
    ``plan.split``, descending sensitivity. For each, group its kernels, compute norms and theta,
    prune groups, extend the companion mask, and retrain until the network is back at the target.
    Repeat until it converges: a whole pass in which no layer loses a group and none is left to
    retry.

    A step that misses the target within its rounds is rolled back: parameters, buffers, masks and
    training state become what they were after the last accepted step, bit for bit. The layer
    comes back with half the step ``plan.retries`` times, then it is closed. When the loop is cut
    short, by a budget, by a loss that is not finite or by an exception, the model is left in that
    same last good state. `PrunePlan` says what the other strategies do.

    The companion masks stay attached, so that training can go on; `detach_all` removes them.
    `PruneRun` is the same with checkpoints, for runs that may be interrupted.

    Args:
        model: any module with `nn.Conv2d` layers, trained to the target.
        evaluate: accuracy of the model, a fraction of 1; or an `Evaluation`, with the loss.
        train: one round of training, in place; its gradients are masked by the companion masks.
        plan: the policy.
        training_state: what `train` changes besides the model and should be rolled back with it:
            optimizers, schedulers. Optimizers also get the state of pruned weights zeroed.
        recalibrate: called after each pruning, before the first accuracy is measured.
        stop: asked before each step; True ends the pruning.
        on_progress: called after each round of retraining and each step.

    Returns:
        The record of it all.

    Raises:
        ValueError: if `model` starts below the target, a layer to prune cannot be pruned or has a
            companion mask of another group shape, its weight is not finite, `target_sparsity` is
            more than the layers to prune hold, or `evaluate` returns anything but a fraction.
        RuntimeError: if the masks of several processes differ.
    """
    return PruneRun(
        model, evaluate, train, plan, training_state, recalibrate, stop, on_progress
    ).run()
