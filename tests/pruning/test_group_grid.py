# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l1sparse.group_mask import as_grid_mask, expand_group_mask
from l1sparse.pruning.group import (
    group_norms,
    group_sizes,
    prunable_groups,
    pruned_weights,
    zero_weights,
)

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
groups = st.tuples(st.integers(1, 5), st.integers(1, 10))


def test_norm_is_the_mean_over_the_weights_a_group_has() -> None:
    weight = torch.tensor([[1.0, -3.0, 5.0], [-2.0, 0.0, -7.0]]).reshape(2, 3, 1, 1)
    assert group_norms(weight, (1, 2)).flatten().tolist() == [2.0, 5.0, 1.0, 7.0]
    assert group_norms(weight, "2x2").flatten().tolist() == [1.5, 6.0]


def test_norms_are_outside_of_autograd() -> None:
    weight = torch.ones(2, 8, 1, 1, requires_grad=True)
    assert not group_norms(weight, (1, 8)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_norms_of_any_dtype_are_float32(dtype: torch.dtype) -> None:
    norms = group_norms(torch.full((2, 12, 1, 1), 0.5, dtype=dtype), (1, 8))
    assert norms.dtype is torch.float32
    assert norms.flatten().tolist() == [0.5] * 4


def test_tail_groups_are_smaller() -> None:
    assert group_sizes((3, 5, 1, 2), (2, 4)).tolist() == [
        [[[8, 8]], [[2, 2]]],
        [[[4, 4]], [[1, 1]]],
    ]


@settings(max_examples=50, deadline=None)
@given(shapes, groups, st.randoms(use_true_random=False))
def test_sizes_and_counts_agree_with_the_mask_over_weights(shape, group, random) -> None:
    sizes = group_sizes(shape, group)
    mask = torch.tensor([random.random() < 0.5 for _ in range(sizes.numel())]).reshape(sizes.shape)
    full = expand_group_mask(mask, shape, group)
    assert sizes.sum() == full.numel()
    assert pruned_weights(mask, shape, group) == int((~full).sum())
    assert pruned_weights(mask, shape, group) == zero_weights(torch.ones(shape) * full)


def test_zero_weights_counts_both_signs_of_zero_and_no_nan() -> None:
    assert zero_weights(torch.tensor([0.0, -0.0, float("nan"), 1e-30])) == 2


def test_pruned_groups_and_nan_norms_may_not_be_pruned() -> None:
    norms = torch.tensor([1.0, float("nan"), 0.0, float("inf")])
    mask = torch.tensor([True, True, False, True])
    assert prunable_groups(norms, mask).tolist() == [True, False, False, True]


@settings(max_examples=50, deadline=None)
@given(shapes, groups, st.randoms(use_true_random=False))
def test_a_mask_over_weights_and_its_grid_are_the_same_mask(shape, group, random) -> None:
    grid = group_sizes(shape, group).shape
    mask = torch.tensor([random.random() < 0.5 for _ in range(grid.numel())]).reshape(grid)
    full = expand_group_mask(mask, shape, group)
    assert torch.equal(as_grid_mask(full, shape, group), mask)
    assert torch.equal(as_grid_mask(mask, shape, group), mask)


def test_a_mask_that_cuts_through_a_group_is_refused() -> None:
    mask = torch.ones(2, 10, 3, 3, dtype=torch.bool)
    mask[1, 9, 2, 0] = False
    with pytest.raises(
        ValueError, match=r"keep: cuts through a 1x8 group at weight \[1, 9, 2, 0\]"
    ):
        as_grid_mask(mask, (2, 10, 3, 3), (1, 8), "keep")
    as_grid_mask(mask, (2, 10, 3, 3), (1, 3))  # There, channel 9 is a group by itself.


@pytest.mark.parametrize("mask", [torch.ones(2, 2, 1, 1), torch.ones(2, 2, 1, 1).int(), [[True]]])
def test_a_mask_that_is_not_bool_is_refused(mask) -> None:
    with pytest.raises(TypeError, match=r"mask: expected a torch.bool tensor .* got (torch|list)"):
        as_grid_mask(mask, (2, 16, 1, 1), (1, 8))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask: .*\(2, 2, 1, 1\).*\(2, 16, 1, 1\); got \(2, 4, 1"):
        as_grid_mask(torch.ones(2, 4, 1, 1).bool(), (2, 16, 1, 1), (1, 8))


@pytest.mark.parametrize("group", [(0, 8), (1, -1), (1, 8, 2), "1x", 8])
def test_a_group_that_is_none_is_refused(group) -> None:
    with pytest.raises(ValueError, match="group"):
        group_sizes((2, 16, 1, 1), group)
