# SPDX-License-Identifier: MIT
"""What a finished run of pruning leaves in its folder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.cli.records import write_json
from l1sparse.convert import accelerate, alternate, layer_choices, save
from l1sparse.convert.dense import dense_variants
from l1sparse.format import GroupShape
from l1sparse.pruning import (
    LayerSensitivity,
    PruneResult,
    companion_mask,
    conv_layers,
    detach_all,
)
from l1sparse.report import pack_mask, weight_histogram, write_report
from l1sparse.train import save_weights

MODEL, FAST, RESULT, REPORT = "model.safetensors", "fast.safetensors", "result.json", "report.html"


def write_outcome(
    folder: Path,
    model: nn.Module,
    dense: Mapping[str, Tensor],
    example: Tensor | None,
    result: PruneResult,
    sensitivities: Sequence[LayerSensitivity],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the pruned network, the fast one, the record and the report.

    Args:
        folder: of the run.
        model: pruned; its companion masks are removed, and it is moved to the CPU.
        dense: its ``state_dict`` before, on the CPU.
        example: a batch to measure the layers' times with; None: the network is not converted.
        result: of the run.
        sensitivities: of its layers.
        settings: more of the run for the record.

    Returns:
        The record.
    """
    model.cpu().eval()
    convs = conv_layers(model)
    masks = {name: companion_mask(conv) for name, conv in convs.items()}
    record = {
        **result.to_dict(),
        **settings,
        "sensitivity": [entry.to_dict() for entry in sensitivities],
        "masks": {name: pack_mask(mask.mask) for name, mask in masks.items() if mask is not None},
        "histograms": {
            name: weight_histogram(dense[f"{name}.weight"], conv.weight.detach())
            for name, conv in convs.items()
            if f"{name}.weight" in dense
        },
    }
    groups = {name: mask.group for name, mask in masks.items() if mask is not None}
    detach_all(model)
    save_weights(model, folder / MODEL)
    if example is not None:
        record |= _converted(model, example, groups, folder)
    write_json(folder / RESULT, record)
    write_report(record, folder / REPORT)
    return record


def _converted(
    model: nn.Module, example: Tensor, groups: Mapping[str, GroupShape], folder: Path
) -> dict[str, Any]:
    dense = copy.deepcopy(model)
    # Pooling and the sparse kernels are fastest with the channels of a pixel side by side.
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        fast = accelerate(model, example, dict(groups))
        save(fast, folder / FAST)
        with torch.no_grad():
            calls = dense_variants(dense, example)
            calls["l1sparse"] = lambda: fast(example)
            timings = alternate(calls)
    sizes = {"dense": (folder / MODEL).stat().st_size, "sparse": (folder / FAST).stat().st_size}
    return {
        "times": [choice.to_dict() for choice in layer_choices(fast)],
        "milliseconds": {name: timing.median for name, timing in timings.items()},
        "threads": torch.get_num_threads(),
        "sizes": sizes,
    }
