# SPDX-License-Identifier: MIT
"""Which layers are pruned and which are kept unchanged: the most sensitive are kept (claim 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from l1sparse.pruning.checks import check_share
from l1sparse.pruning.curve import LayerSensitivity, order_layers


@dataclass(frozen=True)
class KeptLayer:
    """A layer that is left unchanged, and why."""

    sensitivity: LayerSensitivity
    reason: str


@dataclass(frozen=True)
class LayerSplit:
    """The two parts of a network.

    Attributes:
        prune: layers to prune, in descending sensitivity.
        kept: layers left unchanged; first those measured, in descending sensitivity, then those
            that cannot be pruned.
    """

    prune: tuple[LayerSensitivity, ...]
    kept: tuple[KeptLayer, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {
            "prune": [record.to_dict() for record in self.prune],
            "kept": [{**kept.sensitivity.to_dict(), "kept": kept.reason} for kept in self.kept],
        }


def split_layers(
    sensitivities: Iterable[LayerSensitivity],
    *,
    allowed_drop: float | None = None,
    keep_count: int = 0,
    keep_names: Sequence[str] = (),
) -> LayerSplit:
    """Split layers into those to prune and those kept; a layer is kept if any rule keeps it.

    That the most sensitive layers are the kept ones follows Li et al., 2017; the claims do not
    say which.

    Args:
        sensitivities: as `measure_sensitivity` gave them, in any order.
        allowed_drop: a layer whose sensitivity is larger is kept; a fraction of 1.
        keep_count: so many of the most sensitive layers are kept.
        keep_names: layers to keep: names, or shell patterns such as ``"layer4.*"``.

    Raises:
        ValueError: if `allowed_drop` is outside 0..1, `keep_count` is negative or above the
            number of layers that can be pruned, or a pattern of `keep_names` matches no layer.
    """
    records = list(sensitivities)
    ordered = order_layers(records)
    if allowed_drop is not None:
        check_share("allowed_drop", allowed_drop)
    if not 0 <= keep_count <= len(ordered):
        raise ValueError(
            f"keep_count: expected 0 to {len(ordered)}, the number of layers that can be pruned; "
            f"got {keep_count}"
        )
    for pattern in keep_names:
        if not any(fnmatchcase(record.name, pattern) for record in records):
            raise ValueError(
                f"keep_names: {pattern!r} matches none of {[record.name for record in records]}"
            )

    prune, kept = [], []
    for rank, record in enumerate(ordered):
        reason = _reason_to_keep(record, rank, allowed_drop, keep_count, keep_names)
        if reason is None:
            prune.append(record)
        else:
            kept.append(KeptLayer(record, reason))
    unprunable = (record for record in records if record.reason is not None)
    kept += [KeptLayer(record, f"cannot be pruned: {record.reason}") for record in unprunable]
    return LayerSplit(tuple(prune), tuple(kept))


def _reason_to_keep(
    record: LayerSensitivity,
    rank: int,
    allowed_drop: float | None,
    keep_count: int,
    keep_names: Sequence[str],
) -> str | None:
    for pattern in keep_names:
        if fnmatchcase(record.name, pattern):
            return f"kept by name: {pattern}"
    if rank < keep_count:
        return f"kept as number {rank + 1} of the {keep_count} most sensitive"
    assert record.sensitivity is not None
    if allowed_drop is not None and record.sensitivity > allowed_drop:
        return f"kept: sensitivity {record.sensitivity:.4f} is above {allowed_drop}"
    return None
