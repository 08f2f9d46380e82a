# SPDX-License-Identifier: MIT
"""Pruned weights to time: at random, or out of a network's compressed file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from l1sparse import GroupShape
from l1sparse.group_mask import expand_group_mask
from l1sparse.ops import packed_info, unpack
from suites import Layer


@dataclass(frozen=True)
class Setting:
    """What the rows of one table share."""

    group: str
    sparsity: float | None
    """Share of the groups that was pruned at random; None for trained masks."""

    def __str__(self) -> str:
        return f"group {self.group}, {self.pruned}"

    @property
    def pruned(self) -> str:
        """The sparsity in words."""
        return "trained masks" if self.sparsity is None else f"{100 * self.sparsity:g} % pruned"


@dataclass(frozen=True)
class Case:
    """A layer with a pruned weight."""

    layer: Layer
    group: GroupShape
    sparsity: float | None
    """Share of the groups that was pruned at random; None for a trained mask."""
    weight: Callable[[], Tensor]
    """Makes the dense weight, float32, pruned groups zero."""
    name: str = ""
    """Of the layer in the compressed file."""

    def __str__(self) -> str:
        name = f"{self.name}, " if self.name else ""
        return f"layer {name}{self.layer}, {self.setting}"

    @property
    def setting(self) -> Setting:
        """The table that the layer belongs in."""
        return Setting(str(self.group), self.sparsity)


def random_cases(
    layers: Sequence[Layer], groups: Sequence[GroupShape], sparsities: Sequence[float], seed: int
) -> tuple[list[Case], list[str]]:
    """Every layer at every group shape and sparsity.

    Returns:
        The cases, and a note for every layer that has fewer channels or filters than a group.
    """
    cases, notes = [], []
    for group in groups:
        fitting = [layer for layer in layers if fits(layer, group)]
        notes += [f"{x}: smaller than a {group} group" for x in layers if x not in fitting]
        for sparsity in sparsities:
            for layer in fitting:
                weight = _RandomWeight(layer, group, sparsity, seed)
                cases.append(Case(layer, group, sparsity, weight))
    return cases, notes


def file_cases(layers: Sequence[Layer], path: Path) -> tuple[list[Case], list[str]]:
    """The layers with the weights of a network that `l1sparse.save` wrote.

    Layer and weight are brought together by the weight's shape and, where several layers share
    it, by the order of the weights' names, numbers in them counting as numbers.

    Returns:
        The cases, and a note for every layer that the file has no pruned weight for.

    Raises:
        ValueError: if the file is no such file.
    """
    weights = _weights_in(path)
    cases, notes = [], []
    for shape in dict.fromkeys(layer.weight_shape for layer in layers):
        places = [x for x in layers if x.weight_shape == shape]
        places = [replace(place, count=1) for place in places for _ in range(place.count)]
        found = [name for name in weights if _shape_of(weights[name]) == shape]
        if len(found) != len(places):
            text = "x".join(map(str, shape))
            notes.append(f"{len(places)} layers of weight {text}, {len(found)} in {path.name}")
            if len(set(places)) > 1:
                continue  # which of them lies where can't be told
        for name, place in zip(found, places, strict=False):
            if not name.endswith(".packed"):
                notes.append(f"{name.removesuffix('.weight')}: not pruned in {path.name}")
                continue
            group = packed_info(weights[name]).group
            weight = _PackedWeight(weights[name])
            cases.append(Case(place, group, None, weight, name.removesuffix(".packed")))
    cases.sort(key=lambda case: str(case.group))
    return cases, notes


@dataclass(frozen=True)
class _RandomWeight:
    layer: Layer
    group: GroupShape
    sparsity: float
    seed: int

    def __call__(self) -> Tensor:
        random = torch.Generator().manual_seed(self.seed)
        shape = self.layer.weight_shape
        grid = self.group.grid(shape)
        number = grid[0] * grid[1] * grid[2] * grid[3]
        kept = torch.zeros(number, dtype=torch.bool)
        kept[torch.randperm(number, generator=random)[round(number * self.sparsity) :]] = True
        mask = expand_group_mask(kept.reshape(grid), shape, self.group)
        weight = torch.randn(shape, generator=random)
        return torch.where(mask, weight, torch.zeros(()))


@dataclass(frozen=True)
class _PackedWeight:
    packed: Tensor

    def __call__(self) -> Tensor:
        return unpack(self.packed)


def fits(layer: Layer, group: GroupShape) -> bool:
    """Whether the layer has at least a group's channels and filters."""
    return layer.in_channels >= group.channels and layer.out_channels >= group.filters


def _weights_in(path: Path) -> dict[str, Tensor]:
    """Packed weights and 4-dimensional dense ones, in the natural order of their names."""
    try:
        with safe_open(path, framework="pt") as file:
            if "l1sparse" not in (file.metadata() or {}):
                raise ValueError(f"{str(path)!r} was not written by l1sparse.save()")
            names = [name for name in file.keys() if name.endswith((".packed", ".weight"))]  # noqa: SIM118
            # Cloned: a file may map bytes to where the native code can't read them.
            tensors = {name: file.get_tensor(name).clone() for name in sorted(names, key=_natural)}
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or no safetensors file: {error}") from None
    try:
        return {name: x for name, x in tensors.items() if len(_shape_of(x)) == 4}
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from None


def _shape_of(tensor: Tensor) -> tuple[int, ...]:
    is_packed = tensor.dtype == torch.uint8
    return packed_info(tensor).weight_shape if is_packed else tuple(tensor.shape)


def _natural(name: str) -> list[str | int]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]
