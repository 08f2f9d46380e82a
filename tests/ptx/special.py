# SPDX-License-Identifier: MIT
"""The special registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .machine import Machine


def _axis(kind: str, axis: int) -> Callable[[Machine], np.ndarray]:
    return lambda machine: getattr(machine.shape, kind)[axis]


def _lane_mask(compare: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable:
    bits = np.arange(32)

    def value(machine: Machine) -> np.ndarray:
        chosen = compare(bits[None, :], machine.shape.lane[:, None])
        return (chosen.astype(np.uint64) << bits.astype(np.uint64)).sum(axis=1)

    return value


SPECIAL: dict[str, Callable[[Machine], np.ndarray]] = {
    "%laneid": lambda machine: machine.shape.lane,
    "%warpid": lambda machine: machine.shape.warp_in_block,
    "%nwarpid": lambda machine: np.array([machine.shape.warps_a_block]),
    "%dynamic_smem_size": lambda machine: np.array([machine.dynamic_shared]),
    "%total_smem_size": lambda machine: np.array(
        [machine.dynamic_shared + machine.program.layout.static_shared]
    ),
    "%lanemask_eq": _lane_mask(np.equal),
    "%lanemask_lt": _lane_mask(np.less),
    "%lanemask_le": _lane_mask(np.less_equal),
    "%lanemask_gt": _lane_mask(np.greater),
    "%lanemask_ge": _lane_mask(np.greater_equal),
}
for _number, _name in enumerate("xyz"):
    SPECIAL[f"%tid.{_name}"] = _axis("thread", _number)
    SPECIAL[f"%ntid.{_name}"] = _axis("block_size", _number)
    SPECIAL[f"%ctaid.{_name}"] = _axis("block", _number)
    SPECIAL[f"%nctaid.{_name}"] = _axis("grid_size", _number)
