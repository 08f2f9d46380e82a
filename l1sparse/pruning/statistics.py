# SPDX-License-Identifier: MIT
"""Each conv layer's data while the network runs forward (claim 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.pruning import ranks
from l1sparse.pruning.result import finite_or_none


@dataclass
class ActivationStatistics:
    """Running statistics of every value seen so far.

    Attributes:
        minimum: inf before the first value; NaN once a NaN was seen.
        maximum: -inf before the first value; NaN once a NaN was seen.
        total: sum of the values, accumulated in float64.
        zeros: how many were exactly zero.
        count: how many there were.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    total: float = 0.0
    zeros: int = 0
    count: int = 0

    @property
    def mean(self) -> float:
        """Mean of the values; NaN before the first."""
        return self.total / self.count if self.count else math.nan

    @property
    def zero_share(self) -> float:
        """Share of the values that are exactly zero, 0 to 1; NaN before the first."""
        return self.zeros / self.count if self.count else math.nan

    def add(self, values: Tensor) -> None:
        """Take in the values of a tensor of any shape; one that is empty changes nothing."""
        if not values.numel():
            return
        values = values.detach()
        low, high = torch.aminmax(values)
        self.minimum = float(torch.minimum(low, low.new_tensor(self.minimum)))
        self.maximum = float(torch.maximum(high, high.new_tensor(self.maximum)))
        self.total += float(values.sum(dtype=torch.float64))
        self.zeros += values.numel() - int(torch.count_nonzero(values))
        self.count += values.numel()

    def merge(self, other: ActivationStatistics) -> None:
        """Take in all that `other` has seen."""
        self.minimum = float(torch.tensor([self.minimum, other.minimum], dtype=torch.float64).min())
        self.maximum = float(torch.tensor([self.maximum, other.maximum], dtype=torch.float64).max())
        self.total += other.total
        self.zeros += other.zeros
        self.count += other.count

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; what is not finite is None."""
        return {
            "minimum": finite_or_none(self.minimum),
            "maximum": finite_or_none(self.maximum),
            "mean": finite_or_none(self.mean),
            "zero_share": finite_or_none(self.zero_share),
            "count": self.count,
        }


@dataclass
class LayerActivations:
    """The data of one layer.

    Attributes:
        input: of what the layer reads; after a ReLU its share of zeros says how sparse.
        output: of what the layer gives.
    """

    input: ActivationStatistics = field(default_factory=ActivationStatistics)
    output: ActivationStatistics = field(default_factory=ActivationStatistics)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"input": self.input.to_dict(), "output": self.output.to_dict()}


@contextmanager
def record_activations(
    model: nn.Module, layers: Iterable[str]
) -> Iterator[dict[str, LayerActivations]]:
    """Record range, mean and share of zeros of each layer's input and output (claim 4).

    Everything that `model` runs forward inside of the ``with`` is recorded, batch after batch;
    leaving it removes the hooks, also upon an exception. The records stay.

    Args:
        model: any module.
        layers: `named_modules` names of conv layers.

    Yields:
        Layer name to its record, which grows as the model runs.

    Raises:
        ValueError: if `model` has no module of a name, or it is not an `nn.Conv2d`.
    """
    convs = {name: _conv(model, name) for name in layers}
    records = {name: LayerActivations() for name in convs}
    handles = [
        conv.register_forward_hook(partial(_record, records[name])) for name, conv in convs.items()
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def gathered(records: Mapping[str, LayerActivations]) -> dict[str, Any]:
    """The records of all ranks as one, JSON-able, the same on every rank.

    Layers through which nothing went are left out.
    """
    merged: dict[str, LayerActivations] = {}
    for part in ranks.of_all(dict(records)):
        for name, record in part.items():
            whole = merged.setdefault(name, LayerActivations())
            whole.input.merge(record.input)
            whole.output.merge(record.output)
    return {name: whole.to_dict() for name, whole in merged.items() if whole.output.count}


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if not isinstance(module, nn.Conv2d):
        found = "no such module" if module is None else f"a {type(module).__name__}"
        raise ValueError(f"layers: expected names of nn.Conv2d modules, {name!r} is {found}")
    return module


def _record(
    record: LayerActivations, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    if output.is_complex():
        return  # has no range
    if inputs:
        record.input.add(inputs[0])
    record.output.add(output)
