# SPDX-License-Identifier: MIT
"""A packed weight that knows when the dense weight behind it has changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from l1sparse.format import GroupShape
from l1sparse.ops import pack

_optimizer_steps = 0


def _count_optimizer_step(*_: Any) -> None:
    # Fused optimizers change parameters without moving torch's change counter.
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_optimizer_step)


class PackedCopy:
    """The packed form of `weight` where `mask` keeps it, and the state that both were in.

    Args:
        weight: ``[O, C, kH, kW]``, float32.
        mask: bool, see `l1sparse.pack`.
        group: channel-group shape.
    """

    def __init__(self, weight: Tensor, mask: Tensor, group: GroupShape) -> None:
        # Outside of inference_mode, so that autograd may save the result later.
        with torch.inference_mode(False), torch.no_grad():
            self.packed = pack(weight.detach(), mask, group)
        # Held, so that no other tensor can take their place in memory.
        self._weight, self._mask = weight, mask
        self._state = _state(weight, mask)

    def is_current(self, weight: Tensor, mask: Tensor) -> bool:
        """Whether these are the tensors that were packed, and they hold what they held then."""
        same = weight is self._weight and mask is self._mask
        return same and self._state is not None and self._state == _state(weight, mask)


def _state(weight: Tensor, mask: Tensor) -> tuple[int, ...] | None:
    if weight.is_inference() or mask.is_inference():
        return None  # made under inference_mode, such tensors count no changes
    return (weight.data_ptr(), weight._version, mask._version, _optimizer_steps)
