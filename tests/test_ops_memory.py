# SPDX-License-Identifier: MIT
"""Calls keep nothing: a process that calls an operator again and again does not grow.

A few bytes a call are enough to keep the allocator from using an output's memory again, so a
process would grow by whole outputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

from l1sparse import pack

OPS = torch.ops.l1sparse
SHAPE = [8, 8, 1, 1]
GEOMETRY = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
INPUT, GRAD = torch.ones(1, 8, 4, 4), torch.ones(1, 8, 4, 4)  # GRAD is a residual, too
WEIGHT, BIAS, MASK = torch.ones(SHAPE), torch.ones(8), torch.ones(8, 1, 1, 1, dtype=torch.bool)
PACKED = pack(WEIGHT, MASK, (1, 8))
VALUES = OPS.gather_values(WEIGHT, PACKED, [8, 1, 8])
OUTPUT = torch.empty(1, 8, 4, 4)
LIMITS = (0.0, 6.0)

CALLS: dict[str, tuple[Any, ...]] = {
    "group_l1_norm": (WEIGHT, [1, 8]),
    "pack": (WEIGHT, MASK, [1, 8], "pixels"),
    "packed_info": (PACKED,),
    "unpack": (PACKED, SHAPE),
    "sparse_conv2d": (INPUT, PACKED, SHAPE, BIAS, *GEOMETRY, GRAD, "relu", *LIMITS, "auto"),
    "sparse_conv2d_into": (INPUT, PACKED, SHAPE, BIAS, *GEOMETRY, GRAD, "relu", *LIMITS, OUTPUT),
    "sparse_conv2d_sequence": (
        *([INPUT, PACKED], [OUTPUT]),
        torch.tensor([[1, 2, -1, -1, 0, *SHAPE, 1, 1, 0, 0, 1, 1, 1, 1]]),
        torch.tensor([LIMITS], dtype=torch.float64),
    ),
    "sparse_conv2d_max_pool": (
        *(INPUT, PACKED, SHAPE, BIAS, *GEOMETRY, "relu", *LIMITS),
        *([2, 2], [2, 2], [0, 0]),
    ),
    "linear": (INPUT, WEIGHT[:, :, 0, 0], BIAS),
    "gather_values": (WEIGHT, PACKED, [8, 1, 8]),
    "scatter_values": (VALUES, PACKED, SHAPE),
    "values_conv2d": (INPUT, VALUES, PACKED, SHAPE, BIAS, *GEOMETRY, GRAD, "relu"),
    "conv2d_input_grad": (GRAD, VALUES, PACKED, SHAPE, 4, 4, False, *GEOMETRY),
    "conv2d_values_grad": (GRAD, INPUT, PACKED, SHAPE, [8, 1, 8], *GEOMETRY),
}
COUNT = 2_000


class AllocatedBytes(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def grown(call: Callable[[], object]) -> float:
    """Bytes that a call leaves allocated."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = AllocatedBytes
    for _ in range(COUNT // 8):
        call()
    before = mallinfo2()
    for _ in range(COUNT):
        call()
    after = mallinfo2()
    bytes = after.uordblks + after.hblkhd - before.uordblks - before.hblkhd
    return float(bytes / COUNT)


pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts glibc's memory, 2.33 or later"
)


@pytest.mark.parametrize("name", CALLS)
def test_an_operators_calls_keep_no_memory(name: str) -> None:
    operator, arguments = getattr(OPS, name).default, CALLS[name]
    with torch.inference_mode():
        assert grown(lambda: operator(*arguments)) < 8


def test_refused_calls_keep_no_memory() -> None:
    operator, arguments = OPS.sparse_conv2d.default, list(CALLS["sparse_conv2d"])
    arguments[9] = "tanh"

    def call() -> None:
        with pytest.raises(RuntimeError, match="activation: 'tanh' is unknown"):
            operator(*arguments)

    with torch.inference_mode():
        assert grown(call) < 8
