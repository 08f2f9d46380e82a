# SPDX-License-Identifier: MIT
"""The time that a convolution takes: measured by `l1sparse.convert`, planned with by `pruning`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from l1sparse.format import GroupShape


@dataclass(frozen=True)
class LayerTime:
    """One measurement of one layer.

    Attributes:
        name: the layer's `named_modules` name.
        group: its channel-group shape; None: the dense convolution.
        sparsity: share of the weights that were pruned, 0 to 1; 0 for the dense convolution.
        ms: median milliseconds a call.
    """

    name: str
    group: GroupShape | None
    sparsity: float
    ms: float

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values; the group as ``"1x8"``."""
        return {**asdict(self), "group": None if self.group is None else str(self.group)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerTime:
        """The measurement that `to_dict` wrote."""
        group = values["group"]
        return cls(**{**values, "group": None if group is None else GroupShape.of(group)})
