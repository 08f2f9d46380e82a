# SPDX-License-Identifier: MIT
"""How long each convolution takes, dense and at several group shapes and sparsities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.convert.measure import alternate
from l1sparse.convert.rewrite import (
    conv_inputs,
    conv_names,
    inference_copy,
    optimised_graph,
    sparse_like,
)
from l1sparse.format import GroupShape
from l1sparse.group_mask import expand_group_mask
from l1sparse.layer_time import LayerTime
from l1sparse.ops import group_l1_norm


def layer_times(
    model: nn.Module,
    example_input: Tensor,
    groups: Iterable[GroupShape | Sequence[int] | str],
    sparsities: Sequence[float] = (0.5, 0.75, 0.9),
    names: Iterable[str] | None = None,
    rounds: int = 15,
) -> list[LayerTime]:
    """Time every convolution of `model` as `accelerate` would run it, on this machine.

    Batch norm is folded, and a residual and an activation that follow are part of the call, where
    the graph allows; all in the example's memory format, dense as torch runs it eagerly. The
    smallest groups of each layer are pruned. What is compared takes turns; the number of threads
    is the one that torch has now.

    Args:
        model: any module; it is not changed.
        example_input: a batch as the network will get it.
        groups: channel-group shapes to time; one of more channels than a layer has is left out
            for that layer.
        sparsities: shares of a layer's weights to prune, 0 to 1.
        names: layers to time; None: all that the example reaches.
        rounds: turns that each candidate gets.

    Returns:
        For each layer, in the network's order, the dense convolution and then the sparse ones.

    Raises:
        ValueError: if a name is no conv layer that the example reaches, a group is no group
            shape, or a sparsity is outside 0..1.
    """
    shapes = [GroupShape.of(group) for group in groups]
    for sparsity in sparsities:
        if not 0.0 <= sparsity <= 1.0:
            raise ValueError(f"sparsities: expected fractions from 0 to 1, got {sparsity!r}")
    fast = inference_copy(model)
    # What can't be traced (fx raises whatever the model's own code does with a proxy) is timed
    # without its batch norms and ReLUs.
    with suppress(Exception):
        fast = optimised_graph(fast)
    inputs = conv_inputs(fast, conv_names(fast), example_input)
    wanted = list(inputs) if names is None else list(names)
    for name in wanted:
        if name not in inputs:
            raise ValueError(
                f"names: expected conv layers that the example reaches, {list(inputs)}; got "
                f"{name!r}"
            )
    times: list[LayerTime] = []
    with torch.no_grad():
        for name in (name for name in inputs if name in wanted):
            times += _times(fast, name, inputs[name], shapes, sparsities, rounds)
    return times


def _times(
    model: nn.Module,
    name: str,
    arguments: tuple[Any, ...],
    groups: Sequence[GroupShape],
    sparsities: Sequence[float],
    rounds: int,
) -> list[LayerTime]:
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    calls: dict[str, Callable[[], object]] = {"dense": partial(conv, *arguments)}
    kinds: dict[str, tuple[GroupShape | None, float]] = {"dense": (None, 0.0)}
    for group in groups:
        if conv.weight.shape[1] == 1 or group.channels > conv.weight.shape[1]:
            continue
        for sparsity in sparsities:
            sparse = sparse_like(_pruned(conv, group, sparsity), group)
            sparse.eval().drop_dense_weight()  # as it will run: packed before the clock starts
            key = f"{group} {sparsity}"
            kinds[key] = (group, sparsity)
            calls[key] = partial(sparse, *arguments)
    measured = alternate(calls, rounds=rounds)
    return [LayerTime(name, *kinds[key], measured[key].median) for key in kinds]


def _pruned(conv: nn.Conv2d, group: GroupShape, sparsity: float) -> nn.Conv2d:
    """A copy of `conv` without the smallest groups."""
    result = copy.deepcopy(conv)
    norms = group_l1_norm(conv.weight.float(), group)
    mask = torch.ones(norms.numel(), dtype=torch.bool)
    mask[norms.flatten().argsort()[: round(sparsity * norms.numel())]] = False
    result.weight *= expand_group_mask(mask.reshape(norms.shape), conv.weight.shape, group)
    return result
