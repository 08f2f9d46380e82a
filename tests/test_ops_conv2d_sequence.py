# SPDX-License-Identifier: MIT
"""Convolutions in one call: the same bits as one by one, and errors that say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from l1sparse import pack
from l1sparse.ops import ACTIVATIONS

OPS = torch.ops.l1sparse
FIRST, SECOND = (pack(torch.randn(8, 8, 3, 3), torch.rand(8, 1, 3, 3) < 0.5) for _ in range(2))
GEOMETRY = [8, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1]  # weight_shape, stride, padding, dilation, groups
# written: 0, 1; read: input 2, packed 3 and 4, bias 5
STEPS = [[2, 3, 5, -1, 0, *GEOMETRY, 3], [0, 4, -1, 2, 1, *GEOMETRY, 1]]
CLAMPS = [[-0.5, 0.75], [0.0, 6.0]]


def arguments(steps: Any = STEPS, clamps: Any = CLAMPS) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    input, bias = (torch.randn(size, generator=generator) for size in ((2, 8, 9, 9), (8,)))
    read = [input, FIRST, SECOND, bias]
    written = [torch.zeros(2, 8, 9, 9) for _ in range(2)]
    steps = steps if isinstance(steps, Tensor) else torch.tensor(steps)
    return read, written, steps, torch.tensor(clamps, dtype=torch.float64)


def test_the_steps_are_made_one_after_the_other(isa: str) -> None:
    read, written, steps, clamps = arguments()
    OPS.sparse_conv2d_sequence(read, written, steps, clamps)
    rest = [8, 8, 3, 3], [1, 1], [1, 1], [1, 1], 1
    shape, *geometry = rest
    first = OPS.sparse_conv2d(read[0], FIRST, shape, read[3], *geometry, None, "clamp", -0.5, 0.75)
    second = OPS.sparse_conv2d(first, SECOND, shape, None, *geometry, read[0], "relu")
    assert torch.equal(written[0], first)
    assert torch.equal(written[1], second)


@pytest.mark.parametrize("number", range(len(ACTIVATIONS)))
def test_activations_are_numbered_as_in_their_list(number: int) -> None:
    read, written, steps, clamps = arguments([[*STEPS[0][:-1], number]], [[-0.5, 0.75]])
    OPS.sparse_conv2d_sequence(read, written, steps, clamps)
    rest = [1, 1], [1, 1], [1, 1], 1, None, ACTIVATIONS[number], -0.5, 0.75
    wanted = OPS.sparse_conv2d(read[0], FIRST, [8, 8, 3, 3], read[3], *rest)
    assert torch.equal(written[0], wanted)


def changed(column: int, value: int) -> list[list[int]]:
    return [STEPS[0], [*STEPS[1][:column], value, *STEPS[1][column + 1 :]]]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (torch.tensor(STEPS).int(), "steps: has dtype int32, expected int64"),
        (torch.tensor(STEPS)[0], "steps: has shape [17], expected 2 dimensions"),
        (torch.tensor(STEPS)[:, 1:], "steps: has shape [2, 16]"),
        (changed(0, 6), "steps: column 0 holds 6, expected 0 to 5"),
        (changed(1, -1), "steps: column 1 holds -1"),
        (changed(2, -2), "steps: column 2 holds -2"),
        (changed(3, 2**62), f"steps: column 3 holds {2**62}"),
        (changed(4, 2), "steps: column 4 holds 2, expected 0 to 1"),
        (changed(16, 5), "steps: column 16 holds 5, expected 0 to 4"),
        (changed(0, 1), "out: shares memory with input"),
        (changed(1, 2), "packed"),
        (changed(0, 3), "input"),
        (changed(5, 9), "weight_shape"),
        (changed(9, 0), "stride"),
        (changed(9, 2), "out: has shape"),
        (changed(15, 0), "groups"),
    ],
)
def test_bad_steps_are_an_error(steps: Any, text: str) -> None:
    with pytest.raises(RuntimeError) as error:
        OPS.sparse_conv2d_sequence(*arguments(steps))
    assert text in str(error.value)


def test_every_step_needs_its_bounds() -> None:
    with pytest.raises(RuntimeError, match=r"clamps: has shape \[1, 2\]"):
        OPS.sparse_conv2d_sequence(*arguments(clamps=CLAMPS[:1]))


def test_opcheck() -> None:
    torch.library.opcheck(OPS.sparse_conv2d_sequence.default, arguments())
