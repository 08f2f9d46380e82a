# SPDX-License-Identifier: MIT
"""The linear layer of few images, alone and after the average of all pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

OP = torch.ops.l1sparse.linear


@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("features", [(1, 1), (7, 5), (64, 10), (300, 33), (2048, 1000)])
@pytest.mark.parametrize("size", [None, (1, 1), (7, 7), (5, 9)])
def test_results_are_torchs(
    isa: str, size: tuple[int, int] | None, features: tuple[int, int], batch: int
) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(features[1], features[0]), torch.randn(features[1])
    input = torch.randn(batch, features[0], *(size or ()))
    average = input.double() if size is None else input.double().mean((2, 3))
    for added in (None, bias):
        wanted = F.linear(average, weight.double(), added if added is None else added.double())
        got = OP(input, weight, added)
        bound = 1e-6 * features[0] ** 0.5 * 4
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_changes_nothing(isa: str, threads: int) -> None:
    input, weight = torch.randn(3, 100, 3, 3), torch.randn(333, 100)
    before = torch.get_num_threads()
    results = []
    for number in (1, threads):
        torch.set_num_threads(number)
        results.append(OP(input, weight))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_any_memory_layout_is_read() -> None:
    weight, bias = torch.randn(24, 40)[::2, ::2], torch.randn(24)[::2]
    input = torch.randn(2, 20, 4, 6)
    wanted = OP(input, weight.contiguous(), bias.contiguous())
    assert torch.equal(OP(input, weight, bias), wanted)
    last = input.contiguous(memory_format=torch.channels_last)
    assert torch.equal(OP(last, weight, bias), wanted)
    assert torch.equal(OP(input[:, :, 1, 1], weight), OP(input[:, :, 1:2, 1:2], weight))


@pytest.mark.parametrize(
    ("input", "weight", "bias", "text"),
    [
        (torch.randn(3), torch.randn(2, 3), None, "input: has shape [3], expected 2 dimensions"),
        (torch.randn(1, 3, 2), torch.randn(2, 3), None, "expected 2 dimensions"),
        (torch.randn(1, 3).double(), torch.randn(2, 3), None, "float64, expected float32"),
        (torch.randn(1, 3), torch.randn(2, 3).half(), None, "weight: has dtype float16"),
        (torch.randn(1, 3), torch.randn(2, 4), None, "weight: has shape [2, 4], expected"),
        (torch.randn(1, 3), torch.randn(3), None, "weight: has shape [3]"),
        (torch.randn(1, 3), torch.randn(2, 3), torch.randn(3), "bias: has shape [3], expected"),
        (torch.randn(1, 3, 0, 4), torch.randn(2, 3), None, "expected pixels"),
    ],
)
def test_errors_name_the_argument(
    input: Tensor, weight: Tensor, bias: Tensor | None, text: str
) -> None:
    with pytest.raises(RuntimeError) as error:
        OP(input, weight, bias)
    assert text in str(error.value)


@pytest.mark.parametrize("size", [(), (3, 3)])
def test_opcheck(size: tuple[int, ...]) -> None:
    torch.library.opcheck(OP.default, (torch.randn(2, 9, *size), torch.randn(4, 9), None))
