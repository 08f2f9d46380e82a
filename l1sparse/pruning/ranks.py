# SPDX-License-Identifier: MIT
"""What several processes have to agree upon; without `torch.distributed`, one is rank 0 of 1.

Every function but `rank` and `count` is a collective: all ranks call it, in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _distributed() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if _distributed() else 0


def of_all(value: T) -> list[T]:
    """Every rank's `value`, in the order of the ranks."""
    if count() == 1:
        return [value]
    values: list[T | None] = [None] * count()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def of_rank_0(value: T) -> T:
    """The `value` of rank 0, on every rank."""
    if count() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def check_same_masks(masks: Mapping[str, Tensor]) -> None:
    """Compare the masks of all ranks.

    Args:
        masks: layer name to mask.

    Raises:
        RuntimeError: on every rank, if one rank's mask differs from rank 0's in a bit.
    """
    if count() == 1:
        return
    digests = of_all({name: _digest(mask) for name, mask in masks.items()})
    for other, digest in enumerate(digests):
        different = sorted(
            name
            for name in digest.keys() | digests[0].keys()
            if digest.get(name) != digests[0].get(name)
        )
        if different:
            raise RuntimeError(
                f"masks: rank {other} and rank 0 differ at {different}; the weights of the ranks "
                "were not the same when they pruned"
            )


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _digest(mask: Tensor) -> str:
    return hashlib.sha256(mask.cpu().contiguous().numpy().tobytes()).hexdigest()
