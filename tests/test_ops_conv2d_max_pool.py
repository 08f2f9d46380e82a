# SPDX-License-Identifier: MIT
"""A convolution pooled on the way gives what the pooling of its output gives, bit by bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import pack, sparse_conv2d
from l1sparse.ops import DTYPES

OP = torch.ops.l1sparse.sparse_conv2d_max_pool


def pooled(
    input: Tensor,
    packed: Tensor,
    shape: list[int],
    bias: Tensor | None = None,
    geometry: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1), 1),
    activation: str = "none",
    pool: tuple[Any, Any, Any] = ((3, 3), (2, 2), (1, 1)),
) -> Tensor:
    result: Tensor = OP(input, packed, shape, bias, *geometry, activation, -0.25, 0.5, *pool)
    return result


def expected(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    geometry: tuple[Any, ...],
    activation: str,
    pool: tuple[Any, Any, Any],
) -> Tensor:
    output = sparse_conv2d(input, packed, bias, *geometry, None, activation, clamp=(-0.25, 0.5))
    return F.max_pool2d(output.float(), *pool).to(input.dtype)


POOLS = [
    ((3, 3), (2, 2), (1, 1)),
    ((2, 2), (2, 2), (0, 0)),
    ((3, 2), (1, 3), (0, 1)),
    ((2, 5), (4, 1), (1, 2)),
    ((1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [(64, 3, 7, 112), (256, 16, 3, 150), (600, 8, 1, 40)])
@pytest.mark.parametrize("threads", [1, 3])
def test_bands_and_strips_fit_together(
    isa: str, threads: int, size: tuple[int, int, int, int], pool: Any
) -> None:
    filters, channels, kernel, width = size
    torch.manual_seed(0)
    density = 1.0 if channels == 3 else 0.02
    mask = torch.rand(filters, math.ceil(channels / 8), kernel, kernel) < density
    packed = pack(torch.randn(filters, channels, kernel, kernel), mask, strategy="pixels")
    input, bias = torch.randn(2, channels, 61, width), torch.randn(filters)
    geometry = ((1, 1), (kernel // 2, kernel // 2), (1, 1), 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = pooled(
            input, packed, [filters, channels, kernel, kernel], bias, geometry, "relu", pool
        )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, expected(input, packed, bias, geometry, "relu", pool))


@settings(max_examples=150)
@given(
    pool=st.tuples(*[st.integers(1, 5)] * 4, *[st.integers(0, 2)] * 2),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 5)]),
    size=st.tuples(st.integers(5, 40), st.integers(5, 70)),
    groups=st.sampled_from([1, 2]),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(["none", "relu", "clamp", "hardswish"]),
    channels_last=st.booleans(),
    density=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_pooling_of_any_convolution(
    pool: tuple[int, ...],
    stride: tuple[int, int],
    kernel: tuple[int, int],
    size: tuple[int, int],
    groups: int,
    dtype: torch.dtype,
    activation: str,
    channels_last: bool,
    density: float,
) -> None:
    window = pool[0:2], pool[2:4], (min(pool[4], pool[0] // 2), min(pool[5], pool[1] // 2))
    mask = torch.rand(10, 2, *kernel) < density
    packed = pack(torch.randn(10, 9, *kernel), mask, strategy="pixels")
    input = torch.randn(1, 9 * groups, *size).to(dtype)
    if channels_last:
        input = input.contiguous(memory_format=torch.channels_last)
    geometry = (stride, (1, 1), (1, 1), groups)
    try:
        wanted = expected(input, packed, None, geometry, activation, window)
    except RuntimeError:
        return  # a window larger than the output
    got = pooled(input, packed, [10, 9, *kernel], None, geometry, activation, window)
    assert got.is_contiguous()
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_come_out_of_every_window_that_holds_them(
    isa: str, dtype: torch.dtype
) -> None:
    packed = pack(torch.ones(4, 8, 1, 1), torch.ones(4, 1, 1, 1, dtype=torch.bool))
    for seed in range(20):
        input = torch.randn(1, 8, 9, 40, generator=torch.Generator().manual_seed(seed)).to(dtype)
        places = torch.randint(40, (3,), generator=torch.Generator().manual_seed(seed))
        for place, value in zip(places, (math.nan, math.inf, -math.inf), strict=True):
            input[0, 0, 4, place] = value
        for pool in POOLS[:3]:
            output = sparse_conv2d(input, packed)
            wanted = F.max_pool2d(output.float(), *pool).to(dtype)
            got = pooled(input, packed, [4, 8, 1, 1], pool=pool)
            assert torch.equal(got.nan_to_num(7.0), wanted.nan_to_num(7.0))


PACKED = pack(torch.randn(6, 12, 3, 3), strategy="pixels")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pool": ((0, 3), (2, 2), (1, 1))}, "pool_kernel: 0 is not usable"),
        ({"pool": ((3, 3), (2, -1), (1, 1))}, "pool_stride: -1 is not usable"),
        ({"pool": ((3, 3), (2, 2), (2, 1))}, "pool_padding: 2 is not usable, expected 0 or more"),
        ({"pool": ((3, 3), (2, 2), (0, -1))}, "pool_padding: -1 is not usable"),
        ({"pool": ((3,), (2, 2), (1, 1))}, "pool_kernel"),
        ({"pool": ((9, 9), (1, 1), (0, 0))}, "the output would have a size of 0"),
        ({"pool": ((2**62, 3), (1, 1), (0, 0))}, "pool_kernel"),
        ({"activation": "gelu"}, "activation: 'gelu'"),
        ({"bias": torch.randn(5)}, "bias: has 5 values"),
        ({"input": torch.randn(12, 8, 8)}, "input"),
        ({"input": torch.randn(1, 12, 2, 2)}, "the output would have a size of 0"),
        ({"packed": pack(torch.randn(6, 12, 3, 3), strategy="channels")}, "which does not pool"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], text: str) -> None:
    arguments = {"input": torch.randn(1, 12, 8, 8), "packed": PACKED, "shape": [6, 12, 3, 3]}
    with pytest.raises(RuntimeError) as error:
        pooled(**{**arguments, **change})
    assert text in str(error.value)


def test_opcheck() -> None:
    arguments = torch.randn(2, 12, 9, 9), PACKED, [6, 12, 3, 3], torch.randn(6)
    rest = [1, 1], [1, 1], [1, 1], 1, "relu", 0.0, 6.0, [3, 3], [2, 2], [1, 1]
    torch.library.opcheck(OP.default, (*arguments, *rest))
