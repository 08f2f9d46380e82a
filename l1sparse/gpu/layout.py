# SPDX-License-Identifier: MIT
"""Which layout a packed weight gets for a convolution on a GPU; one for all sizes of input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.gpu.cells import KeptByMask
from l1sparse.gpu.chips import chip_like
from l1sparse.gpu.choose import considered
from l1sparse.gpu.device import Device
from l1sparse.gpu.model import Convolution
from l1sparse.gpu.plan import (
    STRIP,
    fits_tensor_cores,
    simt_channels,
    tensor_core_channels,
)
from l1sparse.gpu.problem import Conv2dProblem, dtype_text

LAYOUTS = ("tensor_core", "compressed", "simt")


@dataclass(frozen=True)
class Layout:
    """How a plan is to be made."""

    kind: str
    """One of `LAYOUTS`."""
    channels: int
    """Of a tile."""
    strips: int
    """Of a block (`tensor_core`, `compressed`)."""
    order: Tensor | None
    """int64, ``[O]``, see `Plan.filter_order`; None: the weight's own order."""


def may_round_to_tf32() -> bool:
    """Whether float32 convolutions may use TF32: torch's own switch for cuDNN's convolutions."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return bool(convolutions.fp32_precision == "tf32")


def choose(
    problem: Conv2dProblem,
    mask: Tensor,
    group: GroupShape,
    dtype: torch.dtype,
    device: Device,
    forced: str | None = None,
    layouts: Sequence[str] = LAYOUTS,
) -> Layout:
    """The layout that the model of `l1sparse.gpu.model` expects to be fastest.

    A `simt` tile never holds a pruned weight beside a kept one. What tensor cores multiply may (see
    `Plan.fill_in`); there a pruned weight is a zero, and times an infinite input it is NaN.

    Args:
        problem: what to compute; the first that the weight is used for.
        mask: bool, of the weight's shape.
        group: channel-group shape that the weight was packed with.
        dtype: of the activations.
        device: that runs it.
        forced: one of `layouts`, or None.
        layouts: that there are kernels for; `simt` is one of them.

    Raises:
        RuntimeError: if the forced layout can't hold this weight.
    """
    fits = fits_tensor_cores(tuple(mask.shape), dtype)
    wants_tensor_cores = forced not in (None, "simt")
    if wants_tensor_cores and not fits:
        raise RuntimeError(
            f"backend: layout {forced!r} needs channels in multiples of "
            f"{tensor_core_channels(dtype)} for {dtype_text(dtype)}, the weight has "
            f"{mask.shape[1]} (per convolution group)"
        )
    # Rounding is the caller's wish where the layout is.
    allowed = wants_tensor_cores or dtype != torch.float32 or may_round_to_tf32()
    simt = Layout("simt", simt_channels(group.channels), 0, None)
    if forced == "simt" or not (fits and allowed):
        return simt
    convolution = Convolution(
        batch=max(problem.batch, 1),
        weight_shape=problem.weight_shape,
        size=(problem.in_h, problem.in_w),
        stride=(problem.stride_h, problem.stride_w),
        padding=(problem.pad_h, problem.pad_w),
        dilation=(problem.dilation_h, problem.dilation_w),
        groups=problem.groups,
        dtype=dtype_text(dtype),
    )
    choices = considered(
        convolution,
        KeptByMask(mask, problem.groups),
        chip_like(device.name, device.capability),
        permute=not _groups_are_tiles(group, problem, dtype),
    )
    best = min(
        (
            choice
            for choice in choices
            if choice.layout in ((forced,) if forced else layouts)
            and (choice.layout != "simt" or choice.channels == simt.channels)
        ),
        key=lambda choice: choice.cost,
    )
    if best.layout == "simt":
        return simt
    return Layout(best.layout, best.channels, best.tiling.filters // STRIP, best.order)


def _groups_are_tiles(group: GroupShape, problem: Conv2dProblem, dtype: torch.dtype) -> bool:
    """Whether tiles hold whole groups only, so that no order of filters could be better."""
    per_group = problem.out_channels // problem.groups
    aligned = problem.groups == 1 or per_group % group.filters == 0
    return (
        aligned and group.filters % STRIP == 0 and group.channels % tensor_core_channels(dtype) == 0
    )
