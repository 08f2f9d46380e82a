# SPDX-License-Identifier: MIT
"""What was chosen for each convolution, and why, as a record and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from l1sparse.convert.table import text_table


@dataclass(frozen=True)
class LayerChoice:
    """What `accelerate` chose for one convolution, and why."""

    name: str
    group: str
    density: float
    """Kept weights over all weights at this group shape, 0 to 1."""
    dense_ms: float | None
    """Median time of one call, dense in the fastest way; None where it was not measured: there was
    no choice."""
    sparse_ms: float | None
    choice: str
    """``"sparse"`` or ``"dense"``."""
    reason: str
    """Why, in a few words."""

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)


def explain_choices(choices: Sequence[LayerChoice], memory_format: str | None) -> str:
    """The choices as a table of text, a line each.

    Args:
        choices: of `accelerate`.
        memory_format: the name of the whole network's; None: that of its input.
    """

    def milliseconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = [("layer", "group", "density", "dense ms", "sparse ms", "runs", "because")]
    rows += [
        (
            choice.name,
            choice.group,
            f"{choice.density:.3f}",
            milliseconds(choice.dense_ms),
            milliseconds(choice.sparse_ms),
            choice.choice,
            choice.reason,
        )
        for choice in choices
    ]
    lines = text_table(rows, right=(2, 3, 4))
    return "\n".join([f"memory format: {memory_format or 'that of the input'}", *lines])
