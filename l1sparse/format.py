# SPDX-License-Identifier: MIT
"""The shape of a channel group, and what a packed weight says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GroupShape:
    """How many filters and consecutive input channels share one keep/prune decision.

    Written ``filters x channels``: ``1x8`` is eight consecutive input channels of one filter at
    one kernel tap, ``4x4`` the same four channels of four neighbouring filters. The last group of
    a filter is shorter when the channels do not divide, and the last filters form a smaller group
    when the filters do not.
    """

    filters: int = 1
    channels: int = 8

    def __post_init__(self) -> None:
        for name in ("filters", "channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"group: {name} must be a whole number of at least 1, got {value!r}"
                )

    @classmethod
    def of(cls, value: GroupShape | Sequence[int] | str) -> GroupShape:
        """Read ``(1, 8)``, ``"1x8"`` or a `GroupShape`.

        Raises:
            ValueError: if `value` is not a pair of positive whole numbers.
        """
        if isinstance(value, GroupShape):
            return value
        parts: Sequence[object]
        if isinstance(value, str):
            parts = [int(part) if part.isdigit() else part for part in value.split("x")]
        elif isinstance(value, Sequence):
            parts = value
        else:
            parts = ()
        if len(parts) != 2 or not all(
            isinstance(part, int) and not isinstance(part, bool) for part in parts
        ):
            raise ValueError(
                f"group: expected a pair (filters, channels) such as (1, 8) or '1x8', got {value!r}"
            )
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.filters}x{self.channels}"

    def as_list(self) -> list[int]:
        """``[filters, channels]``, as the operators take it."""
        return [self.filters, self.channels]

    def grid(self, weight_shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Shape of the group grid of an ``[O, C, kH, kW]`` weight.

        Returns:
            ``(ceil(O / filters), ceil(C / channels), kH, kW)``.

        Raises:
            ValueError: if `weight_shape` has not four dimensions.
        """
        if len(weight_shape) != 4:
            raise ValueError(
                f"weight: has shape {list(weight_shape)}, expected 4 dimensions [O, C, kH, kW]"
            )
        filters, channels, height, width = weight_shape
        return (-(-filters // self.filters), -(-channels // self.channels), height, width)


@dataclass(frozen=True)
class PackedInfo:
    """What the header of a packed weight says."""

    weight_shape: tuple[int, ...]
    """``(O, C, kH, kW)`` of the dense weight; C is that of one convolution group."""
    group: GroupShape
    kept_groups: int
    kept_weights: int
    """Weights of the kept groups, without what fills up a shorter last group."""
    strategy: str
    """How kernels go through the kept groups, one of `l1sparse.ops.STRATEGIES`."""

    @property
    def density(self) -> float:
        """Kept weights over all weights, 0 to 1."""
        total = 1
        for size in self.weight_shape:
            total *= size
        return self.kept_weights / total
