# SPDX-License-Identifier: MIT
"""`group_l1_norm` against its fp64 reference, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import GroupShape, group_l1_norm, reference

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 4), st.integers(1, 4))
GROUPS = st.tuples(st.sampled_from([1, 2, 3, 4, 16]), st.sampled_from([1, 3, 4, 8, 15, 16, 64]))
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "sliced", "strided", "permuted"])


@settings(max_examples=60)
@given(SHAPES, GROUPS, LAYOUTS, st.sampled_from([1, 2]))
def test_equals_the_fp64_reference(
    isa: str,
    in_layout: Callable[..., Tensor],
    shape: tuple[int, ...],
    group: tuple[int, int],
    layout: str,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    weight = torch.randn(shape)
    norms = group_l1_norm(in_layout(weight, layout), group)
    assert norms.shape == GroupShape.of(group).grid(shape)
    assert norms.dtype == torch.float32
    # Sums of at most 16 * 64 values of one sign, and float32 rounds by 6e-8 at each step.
    expected = reference.group_l1_norm(weight.double(), group)
    torch.testing.assert_close(norms.double(), expected, rtol=1e-5, atol=0)


def test_is_the_mean_absolute_weight_of_a_group(isa: str) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [-5.0, 0.0, 7.0]]).reshape(2, 3, 1, 1)
    torch.testing.assert_close(group_l1_norm(weight, "1x3").flatten(), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(group_l1_norm(weight, (2, 3)).flatten(), torch.tensor([3.0]))


def test_a_shorter_last_group_is_averaged_over_the_weights_it_has(isa: str) -> None:
    weight = torch.full((3, 10, 1, 1), -2.0)
    norms = group_l1_norm(weight, (2, 8))
    assert norms.shape == (2, 2, 1, 1)
    assert torch.equal(norms, torch.full_like(norms, 2.0))


def test_a_group_larger_than_the_weight_is_one_group(isa: str) -> None:
    weight = torch.randn(3, 5, 2, 2)
    norms = group_l1_norm(weight, (100, 1000))
    torch.testing.assert_close(norms, weight.abs().mean((0, 1), keepdim=True))


def test_nan_and_infinity_stay_in_their_own_group(isa: str) -> None:
    weight = torch.ones(2, 20, 1, 1)
    weight[0, 3] = torch.nan
    weight[1, 19] = -torch.inf
    expected = torch.tensor([[torch.nan, 1, 1], [1, 1, torch.inf]]).reshape(2, 3, 1, 1)
    torch.testing.assert_close(group_l1_norm(weight, (1, 8)), expected, equal_nan=True)


def test_every_spelling_of_a_group_shape_is_the_same() -> None:
    weight = torch.randn(4, 16, 3, 3)
    expected = group_l1_norm(weight, GroupShape(2, 4))
    for spelling in [(2, 4), [2, 4], "2x4", torch.Size([2, 4])]:
        assert torch.equal(group_l1_norm(weight, spelling), expected)


WEIGHT = torch.randn(4, 16, 3, 3)


@pytest.mark.parametrize("group", [8, (8,), (1, 8, 1), (1.0, 8), (True, 8), "1by8", "1x", "", None])
def test_a_group_that_is_no_pair_of_whole_numbers_is_an_error(group: Any) -> None:
    with pytest.raises(ValueError, match=r"^group: expected a pair .*\(1, 8\)") as error:
        group_l1_norm(WEIGHT, group)
    assert repr(group) in str(error.value)


@pytest.mark.parametrize(
    ("group", "side", "value"),
    [((0, 8), "filters", 0), ((-2, 8), "filters", -2), ("1x0", "channels", 0)],
)
def test_a_group_side_below_one_is_an_error(group: Any, side: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^group: {side} .* at least 1, got {value}$"):
        group_l1_norm(WEIGHT, group)


@pytest.mark.parametrize(
    ("weight", "parts"),
    [
        (torch.randn(4, 16), ["weight", "[4, 16]", "4 dimensions"]),
        (torch.randn(1, 4, 16, 3, 3), ["weight", "[1, 4, 16, 3, 3]", "4 dimensions"]),
        (WEIGHT.double(), ["weight", "float64", "float32"]),
        (WEIGHT.to(torch.int32), ["weight", "int32", "float32"]),
        (torch.randn(0, 16, 3, 3), ["weight", "dimension of 0"]),
        (torch.randn(4, 16, 0, 3), ["weight", "dimension of 0"]),
    ],
)
def test_a_weight_of_wrong_rank_dtype_or_size_is_an_error(weight: Tensor, parts: list[str]) -> None:
    with pytest.raises(RuntimeError) as error:
        group_l1_norm(weight, (1, 8))
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("group", "parts"),
    [
        ([0, 8], ["group", "0", "from 1"]),
        ([1, -8], ["group", "-8", "from 1"]),
        ([1, 2**40], ["group", str(2**40)]),
        ([8], ["group", "1 numbers", "expected 2"]),
        ([1, 8, 1], ["group", "3 numbers", "expected 2"]),
        ([], ["group", "0 numbers", "expected 2"]),
    ],
)
def test_a_direct_call_checks_the_group_as_well(group: list[int], parts: list[str]) -> None:
    with pytest.raises(RuntimeError) as error:
        torch.ops.l1sparse.group_l1_norm(WEIGHT, group)
    assert all(part in str(error.value) for part in parts), error.value
