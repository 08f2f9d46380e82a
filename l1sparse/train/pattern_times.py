# SPDX-License-Identifier: MIT
"""Up to which density a training step of a layer is faster on its pattern than dense."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l1sparse.convert.measure import alternate
from l1sparse.format import GroupShape
from l1sparse.nn.conv_arguments import conv_arguments
from l1sparse.pruning.layers import conv_layers
from l1sparse.pruning.mask import attach, extend
from l1sparse.train.on_pattern import run_on_pattern

DENSITIES = (0.5, 0.25, 0.1)
"""The densities that are measured, densest first."""

_ROUNDS, _TURN_SECONDS = 5, 0.005
# A step has to be faster by this, or the choice would be noise.
_GAIN = 1.05


class _Input(NamedTuple):
    """Of a layer, as the network gives it in training."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool


def measure_densest(
    model: nn.Module,
    images: Tensor,
    groups: Mapping[str, GroupShape],
    on_layer: Callable[[str], object] = lambda _: None,
) -> dict[str, float]:
    """The density up to which each layer trains faster on its pattern, on this CPU.

    A forward and backward pass of the layer is timed with random masks of `DENSITIES`, in turns
    with the dense one; layers of equal shape are measured once. The model is not changed.

    Args:
        model: in float32 on the CPU.
        images: a batch as training takes it.
        groups: names of layers, each with its group shape.
        on_layer: told what is being measured.

    Returns:
        By name, one of `DENSITIES`, or 0 where the dense step is faster at all of them.
    """
    inputs = _inputs(model, images, groups)
    known: dict[object, float] = {}
    found: dict[str, float] = {}
    for name, conv in conv_layers(model).items():
        if name not in inputs:
            continue
        arguments, group = conv_arguments(conv), groups[name]
        last = conv.weight.is_contiguous(memory_format=torch.channels_last)
        key = (str(arguments), group, inputs[name], last)
        if key not in known:
            on_layer(f"{name}: measuring a training step, dense and on its kept groups")
            known[key] = _densest(conv, group, inputs[name])
        found[name] = known[key]
    return found


def _inputs(model: nn.Module, images: Tensor, names: Mapping[str, object]) -> dict[str, _Input]:
    found: dict[str, _Input] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        found[name] = _Input(tuple(x.shape), x.stride(), x.requires_grad)

    hooks = [
        conv.register_forward_pre_hook(partial(note, name))
        for name, conv in conv_layers(model).items()
        if name in names
    ]
    was_training = model.training
    try:
        model.eval()  # batch norm's statistics stay as they are
        with torch.enable_grad():
            model(images)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _densest(like: nn.Conv2d, group: GroupShape, given: _Input) -> float:
    conv = nn.Conv2d(**conv_arguments(like)).to_empty(device="cpu")
    if like.weight.is_contiguous(memory_format=torch.channels_last):
        conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    input = torch.empty_strided(given.shape, given.strides).normal_(generator=generator)
    input.requires_grad_(given.requires_grad)
    for density in DENSITIES:
        if _is_faster(conv, group, density, input):
            return density
    return 0.0


def _is_faster(conv: nn.Conv2d, group: GroupShape, density: float, input: Tensor) -> bool:
    kinds = {}
    for kind in ("dense", "pattern"):
        layer = copy.deepcopy(conv)
        companion = attach(layer, group)
        kept = torch.rand(companion.mask.shape, generator=torch.Generator().manual_seed(1))
        extend(layer, kept < density)
        if kind == "pattern":
            run_on_pattern(layer)
        kinds[kind] = _step(layer, input)
    times = alternate(kinds, _ROUNDS, _TURN_SECONDS)
    return times["dense"].median > _GAIN * times["pattern"].median


def _step(conv: nn.Conv2d, input: Tensor) -> Callable[[], object]:
    wanted = [tensor for tensor in (input, *conv.parameters()) if tensor.requires_grad]
    grad = torch.ones_like(conv(input))
    return lambda: torch.autograd.grad(conv(input), wanted, grad)
