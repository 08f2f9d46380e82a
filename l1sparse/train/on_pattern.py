# SPDX-License-Identifier: MIT
"""Retraining of masked layers through their kept groups alone, where that is faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from l1sparse.conv_grad import gather_values, values_conv2d, values_shape
from l1sparse.nn.padding import pad_input
from l1sparse.ops import DTYPES, pack
from l1sparse.pruning.layers import conv_layers
from l1sparse.pruning.mask import companion_mask, raw_weight


@contextmanager
def training_on_pattern(model: nn.Module, densest: Mapping[str, float]) -> Iterator[list[str]]:
    """Have masked layers compute, and compute gradients, on the pattern of their masks.

    Within it the layers that are chosen cost what their masks keep, on the CPU; parameters, masks,
    gradients (exactly 0 for pruned weights) and hooks are as before, outputs within the rounding of
    float32. What the native kernels can't do (another device, autocast) runs dense. Masks must not
    change within it.

    Args:
        model: some of whose layers have a companion mask.
        densest: by name, the density up to which a layer is chosen, 0 to 1; others stay dense.

    Yields:
        The names of the layers chosen.
    """
    chosen: dict[str, nn.Conv2d] = {}
    for name, conv in conv_layers(model).items():
        companion = companion_mask(conv)
        if companion is not None and companion.density() <= densest.get(name, -1.0):
            chosen[name] = conv
    try:
        for conv in chosen.values():
            run_on_pattern(conv)
        yield list(chosen)
    finally:
        for conv in chosen.values():
            run_dense(conv)


def run_on_pattern(conv: nn.Conv2d) -> None:
    """Have `conv`, which has a companion mask, compute on its pattern until `run_dense`."""
    companion, weight = companion_mask(conv), raw_weight(conv)
    assert companion is not None
    if weight.device.type != "cpu" or weight.dtype not in DTYPES:
        return
    with torch.no_grad():
        pattern = pack(weight.detach(), companion.mask, companion.group)
    # On the instance, as hooks of other libraries are put there; a partial, so that a deep copy of
    # the layer computes with its own weight.
    conv.forward = partial(_forward, conv, pattern, values_shape(pattern))  # type: ignore[method-assign]


def run_dense(conv: nn.Conv2d) -> None:
    """Undo `run_on_pattern`; nothing happens where it was not called."""
    conv.__dict__.pop("forward", None)


def _forward(conv: nn.Conv2d, pattern: Tensor, shape: list[int], input: Tensor) -> Tensor:
    weight = raw_weight(conv)
    fits = input.device.type == "cpu" and input.dtype == weight.dtype and input.dim() == 4
    if not fits or torch.is_autocast_enabled("cpu"):
        return nn.Conv2d.forward(conv, input)
    padded, padding = pad_input(conv, input)
    return values_conv2d(
        padded,
        gather_values(weight, pattern, shape),
        pattern,
        weight.shape,
        conv.bias,
        conv.stride,
        padding,
        conv.dilation,
        conv.groups,
    )
