# SPDX-License-Identifier: MIT
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse.pruning.group import group_norms, group_sizes
from l1sparse.pruning.sparsity import select_by_sparsity, select_globally
from l1sparse.pruning.threshold import claims_threshold, limit_selection, select_by_threshold

NAN, INF = float("nan"), float("inf")


def norms_of(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def kept(mask: Tensor) -> list[int]:
    return mask.flatten().nonzero()[:, 0].tolist()


def test_claims_threshold_by_hand() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0, -6.0])
    assert claims_threshold(weight) == 3.0
    assert claims_threshold(weight, alpha=0.5) == 1.5


def test_pruned_zeros_count_so_theta_falls() -> None:
    assert claims_threshold(torch.tensor([1.0, -2.0, 3.0, -6.0, 0.0, 0.0, 0.0, 0.0])) == 1.5


def test_claims_threshold_needs_finite_weights() -> None:
    with pytest.raises(ValueError, match="weight: 2 of 3 values are NaN or infinite"):
        claims_threshold(torch.tensor([NAN, 1.0, -INF]))
    with pytest.raises(ValueError, match=r"weight: has no elements \(shape \(0, 8\)\)"):
        claims_threshold(torch.empty(0, 8))


@pytest.mark.parametrize("alpha", [0.0, -1.0, NAN, INF])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha: .*got {alpha}"):
        claims_threshold(torch.ones(3), alpha)


def test_below_prunes_the_small_and_above_the_large_and_neither_an_equal_norm() -> None:
    norms = norms_of(1.0, 2.0, 3.0)
    assert kept(select_by_threshold(norms, 2.0)) == [1, 2]
    assert kept(select_by_threshold(norms, 2.0, prune="above")) == [0, 1]


@pytest.mark.parametrize("prune", ["below", "above"])
def test_a_nan_norm_is_kept(prune) -> None:
    norms = norms_of(NAN, 1.0, NAN)
    assert {0, 2} <= set(kept(select_by_threshold(norms, 5.0, prune=prune)))
    everything = select_by_sparsity(norms, torch.ones_like(norms).long(), 1.0, prune=prune)
    assert kept(everything.mask) == [0, 2]


def test_a_threshold_between_two_float32_norms_tells_them_apart() -> None:
    low = torch.tensor(0.1)
    high = torch.nextafter(low, torch.tensor(1.0))
    norms = torch.stack([low, high]).reshape(2, 1, 1, 1)
    assert kept(select_by_threshold(norms, math.nextafter(float(low), 1.0))) == [1]


def test_a_mask_only_extends() -> None:
    norms = norms_of(1.0, 2.0, 3.0, 4.0)
    mask = torch.tensor([True, True, True, False]).reshape(4, 1, 1, 1)
    assert kept(select_by_threshold(norms, 2.5, mask)) == [2]
    assert kept(select_by_threshold(norms, 2.5, mask, prune="above")) == [0, 1]
    sizes = torch.ones_like(mask, dtype=torch.int64)
    assert kept(select_by_sparsity(norms, sizes, 0.0, mask).mask) == [0, 1, 2]
    assert kept(select_by_sparsity(norms, sizes, 0.5, mask).mask) == [1, 2]
    assert kept(select_by_sparsity(norms, sizes, 0.5, mask, prune="above").mask) == [0, 1]


def test_share_is_of_weights_and_not_of_groups() -> None:
    # The small group is a tail of one weight: it is half of the groups but 1/9 of the weights.
    norms, sizes = norms_of(1.0, 2.0), torch.tensor([1, 8]).reshape(2, 1, 1, 1)
    assert kept(select_by_sparsity(norms, sizes, 0.5).mask) == [1]
    assert kept(select_by_sparsity(norms, sizes, 0.6).mask) == []
    assert kept(select_by_sparsity(norms, sizes, 0.05).mask) == [0, 1]


def test_equal_norms_fall_in_the_order_of_the_grid_and_not_all_at_once() -> None:
    norms = torch.full((4, 5, 1, 1), 0.3)
    sizes = torch.full((4, 5, 1, 1), 8)
    for prune in ("below", "above"):
        selection = select_by_sparsity(norms, sizes, 0.35, prune=prune)
        assert kept(selection.mask) == list(range(7, 20))


def test_threshold_of_a_selection_draws_the_same_mask() -> None:
    norms = torch.rand(7, 3, 3, 3)
    sizes = group_sizes((7, 20, 3, 3), (1, 8))
    for sparsity in (0.0, 0.3, 0.77, 1.0):
        for prune in ("below", "above"):
            selection = select_by_sparsity(norms, sizes, sparsity, prune=prune)
            again = select_by_threshold(norms, selection.threshold, prune=prune)
            assert torch.equal(again, selection.mask)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3)),
    group=st.tuples(st.integers(1, 4), st.integers(1, 9)),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 1000),
    few_values=st.booleans(),
)
def test_no_other_cut_of_the_order_comes_nearer(shape, group, sparsity, seed, few_values) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    norms = group_norms(weight.round() if few_values else weight, group)
    sizes = group_sizes(shape, group)
    mask = select_by_sparsity(norms, sizes, sparsity).mask
    wanted = sparsity * weight.numel()
    error = abs(int(sizes[~mask].sum()) - wanted)
    assert error <= group[0] * group[1] / 2
    falling = sizes.flatten()[norms.flatten().argsort(stable=True)].cumsum(0).tolist()
    assert error <= min(abs(pruned - wanted) for pruned in [0, *falling]) + 1e-9
    if mask.any() and not mask.all():
        assert norms[~mask].max() <= norms[mask].min()


def test_global_threshold_takes_the_smallest_of_all_layers() -> None:
    norms = {"a": norms_of(1.0, 5.0), "b": norms_of(2.0, 3.0, 9.0)}
    sizes = {"a": norms_of(8, 8).long(), "b": norms_of(4, 4, 4).long()}
    # 28 weights; falling: a0 (8), b0 (12), b1 (16), a1 (24).
    selections = select_globally(norms, sizes, 16 / 28)
    assert kept(selections["a"].mask) == [1]
    assert kept(selections["b"].mask) == [2]
    assert selections["a"].threshold == selections["b"].threshold == 5.0


def test_global_names_must_agree() -> None:
    norms = {"a": norms_of(1.0)}
    with pytest.raises(
        ValueError, match=r"sizes: expected the layers of norms, \['a'\], got \['b'"
    ):
        select_globally(norms, {"b": norms_of(8).long()}, 0.5)


def test_limit_prunes_the_first_to_fall() -> None:
    norms, sizes = norms_of(4.0, 1.0, 3.0, 2.0), torch.full((4, 1, 1, 1), 8)
    mask = torch.ones(4, 1, 1, 1, dtype=torch.bool)
    wish = select_by_threshold(norms, 3.5)
    assert kept(limit_selection(wish, mask, norms, sizes, 24)) == [0]
    assert kept(limit_selection(wish, mask, norms, sizes, 23)) == [0, 2]
    assert kept(limit_selection(wish, mask, norms, sizes, 7)) == [0, 1, 2, 3]
    above = select_by_threshold(norms, 1.5, prune="above")
    assert kept(limit_selection(above, mask, norms, sizes, 8, prune="above")) == [1, 2, 3]


def test_bad_arguments_are_named() -> None:
    norms = norms_of(1.0, 2.0)
    sizes = torch.ones_like(norms).long()
    with pytest.raises(ValueError, match="prune: expected 'below' or 'above', got 'under'"):
        select_by_threshold(norms, 1.0, prune="under")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mask: expected a torch.bool tensor .* got torch.float32"):
        select_by_threshold(norms, 1.0, torch.ones_like(norms))
    with pytest.raises(ValueError, match=r"mask: expected the shape of norms, \(2, 1, 1, 1\), got"):
        select_by_threshold(norms, 1.0, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="sizes: expected the shape of norms"):
        select_by_sparsity(norms, sizes[:1], 0.5)
    for sparsity in (-0.1, 1.1, NAN):
        with pytest.raises(ValueError, match=f"sparsity: .* got {sparsity}"):
            select_by_sparsity(norms, sizes, sparsity)
