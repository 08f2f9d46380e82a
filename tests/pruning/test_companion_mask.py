# SPDX-License-Identifier: MIT
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from l1sparse.pruning.mask import (
    CompanionMask,
    attach,
    companion_mask,
    detach,
    detach_all,
    extend,
    raw_weight,
)

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
}


class OwnForward(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, self.weight + 1, self.bias)


def conv_with_tails() -> nn.Conv2d:
    return nn.Conv2d(10, 7, 3, padding=1)


def grid_mask(conv: nn.Conv2d, group: tuple[int, int], density: float, seed: int) -> torch.Tensor:
    companion = attach(conv, group)
    return torch.rand(companion.mask.shape, generator=torch.Generator().manual_seed(seed)) < density


def step(conv: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    output = conv(torch.randn(4, conv.in_channels, 6, 6))
    (output - torch.randn_like(output)).square().mean().backward()
    optimizer.step()


def is_plus_zero(values: torch.Tensor) -> bool:
    return bool((values == 0).all()) and not bool(torch.signbit(values).any())


@pytest.mark.parametrize("group", [(1, 8), (4, 4), (1, 1)])
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_pruned_weights_stay_zero_over_50_steps(optimizer_name: str, group) -> None:
    conv = conv_with_tails()
    # Made before the mask is attached: the parameter keeps its identity.
    optimizer = OPTIMIZERS[optimizer_name](conv.parameters())
    companion = attach(conv, group)
    for _ in range(5):
        step(conv, optimizer)
    extend(conv, grid_mask(conv, group, 0.7, seed=1), optimizer)
    for turn in range(50):
        if turn == 25:
            before = companion.mask.clone()
            extend(conv, grid_mask(conv, group, 0.5, seed=2), optimizer)
            assert not (companion.mask & ~before).any()
            assert companion.mask.sum() < before.sum()
        old = conv.weight.detach().clone()
        pruned = ~companion.weight_mask()
        step(conv, optimizer)
        raw = raw_weight(conv)
        assert raw.grad is not None
        assert (raw.grad[pruned] == 0).all()
        assert is_plus_zero(conv.weight[pruned])
        assert (raw[pruned] == 0).all()
        assert (conv.weight[~pruned] != old[~pruned]).all()


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_the_effective_weight_is_zero_even_if_the_optimizer_was_not_told(optimizer_name) -> None:
    conv = conv_with_tails()
    optimizer = OPTIMIZERS[optimizer_name](conv.parameters())
    for _ in range(5):
        step(conv, optimizer)
    companion = extend_half(conv)
    pruned = ~companion.weight_mask()
    for _ in range(5):
        step(conv, optimizer)
        assert is_plus_zero(conv.weight[pruned])
    assert (raw_weight(conv)[pruned] != 0).any(), "momentum moved the parameter beneath"


def extend_half(conv: nn.Conv2d, optimizer: torch.optim.Optimizer | None = None) -> CompanionMask:
    return extend(conv, grid_mask(conv, (1, 8), 0.5, seed=3), optimizer)


def test_state_of_kept_weights_is_left_alone() -> None:
    conv = conv_with_tails()
    optimizer = OPTIMIZERS["adam"](conv.parameters())
    step(conv, optimizer)
    moments = optimizer.state[raw_weight(conv)]["exp_avg"]
    before = moments.clone()
    pruned = ~extend_half(conv, optimizer).weight_mask()
    assert (moments[pruned] == 0).all()
    assert torch.equal(moments[~pruned], before[~pruned])
    assert optimizer.state[raw_weight(conv)]["step"] == 1


def test_a_gradient_from_before_the_extension_does_not_move_pruned_weights() -> None:
    conv = conv_with_tails()
    attach(conv, (1, 8))
    optimizer = torch.optim.SGD(conv.parameters(), lr=1.0)
    conv(torch.randn(2, 10, 6, 6)).sum().backward()
    pruned = ~extend_half(conv, optimizer).weight_mask()
    optimizer.step()
    assert (raw_weight(conv)[pruned] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0])
def test_what_lies_under_the_mask_contributes_nothing(value: float) -> None:
    conv = conv_with_tails()
    pruned = ~extend_half(conv).weight_mask()
    with torch.no_grad():
        raw_weight(conv)[pruned] = value
    assert is_plus_zero(conv.weight[pruned])
    output = conv(torch.randn(2, 10, 6, 6))
    output.sum().backward()
    assert torch.isfinite(output).all()
    gradient = raw_weight(conv).grad
    assert gradient is not None
    assert (gradient[pruned] == 0).all()


def test_a_nan_gradient_does_not_reach_a_pruned_weight() -> None:
    conv = conv_with_tails()
    pruned = ~extend_half(conv).weight_mask()
    (conv.weight * float("nan")).sum().backward()
    gradient = raw_weight(conv).grad
    assert gradient is not None
    assert (gradient[pruned] == 0).all()
    assert gradient[~pruned].isnan().all()


def test_a_mask_over_weights_extends_like_one_over_the_grid() -> None:
    first, second = conv_with_tails(), conv_with_tails()
    keep = grid_mask(first, (4, 4), 0.5, seed=4)
    attach(second, "4x4")
    extend(first, keep)
    extend(second, companion_mask(first).weight_mask())
    assert torch.equal(companion_mask(second).mask, keep)


def test_density_counts_weights() -> None:
    conv = nn.Conv2d(10, 1, 1)
    attach(conv, (1, 8))
    companion = extend(conv, torch.tensor([True, False]).reshape(1, 2, 1, 1))
    assert companion.density() == pytest.approx(0.8)
    assert "group=1x8, density=0.8" in repr(companion)


def test_state_dict_round_trip() -> None:
    source, target = conv_with_tails(), conv_with_tails()
    companion = extend_half(source)
    attach(target, (1, 8))
    target.load_state_dict(source.state_dict())
    assert torch.equal(companion_mask(target).mask, companion.mask)
    assert torch.equal(target.weight, source.weight)


def test_a_saved_mask_of_another_group_shape_is_refused() -> None:
    # 10 channels are two groups by 8 as well as by 5, so the shapes alone would agree.
    source, target = conv_with_tails(), conv_with_tails()
    extend_half(source)
    attach(target, (1, 5))
    with pytest.raises(RuntimeError, match=r"saved for group 1x8, .* companion mask of group 1x5"):
        target.load_state_dict(source.state_dict())


def test_deepcopy_and_conversion_carry_the_mask() -> None:
    conv = conv_with_tails()
    companion = extend_half(conv)
    copied = copy.deepcopy(conv)
    detach(conv)
    assert torch.equal(companion_mask(copied).mask, companion.mask)
    converted = copied.to(torch.float64).to(memory_format=torch.channels_last)
    assert companion_mask(converted).mask.dtype is torch.bool
    assert converted.weight.dtype is torch.float64
    assert converted.weight.is_contiguous(memory_format=torch.channels_last)
    assert is_plus_zero(converted.weight[~companion.weight_mask()])
    extend(converted, torch.zeros_like(companion.mask))
    assert companion.mask.any(), "the copy has a mask of its own"


@pytest.mark.parametrize("removed", ["original", "copy"])
def test_removing_the_mask_of_a_module_leaves_its_copies_alone(removed: str) -> None:
    conv = nn.Sequential(conv_with_tails())
    extend_half(conv[0])
    copied = copy.deepcopy(conv)
    first, second = (conv, copied) if removed == "original" else (copied, conv)
    expected = second[0].weight.detach().clone()
    # Not `detach`: other parts remove parametrizations of any kind.
    parametrize.remove_parametrizations(first[0], "weight")
    assert torch.equal(second[0].weight, expected)
    assert companion_mask(copy.deepcopy(second)[0]) is not None
    second(torch.randn(1, 10, 6, 6)).sum().backward()
    assert raw_weight(first[0]).grad is None


def test_assigning_a_weight_masks_it() -> None:
    conv = conv_with_tails()
    pruned = ~extend_half(conv).weight_mask()
    conv.weight = torch.ones_like(conv.weight)
    assert (raw_weight(conv)[pruned] == 0).all()
    assert (conv.weight[~pruned] == 1).all()


def test_detach_leaves_a_plain_masked_weight() -> None:
    conv = conv_with_tails()
    parameter = conv.weight
    companion = extend_half(conv)
    with torch.no_grad():
        raw_weight(conv)[~companion.weight_mask()] = 1.0
    detach(conv)
    assert type(conv) is nn.Conv2d
    assert conv.weight is parameter
    assert list(conv.state_dict()) == ["bias", "weight"]
    assert is_plus_zero(conv.weight[~companion.weight_mask()])
    assert companion_mask(conv) is None


def test_detach_all_leaves_layers_without_a_mask_alone() -> None:
    model = nn.Sequential(conv_with_tails(), nn.ReLU(), conv_with_tails())
    attach(model[0], (1, 8))
    detach_all(model)
    assert all(companion_mask(module) is None for module in model)


def test_attach_twice_gives_the_same_mask_and_another_group_is_refused() -> None:
    conv = conv_with_tails()
    assert attach(conv, (1, 8)) is attach(conv, "1x8") is companion_mask(conv)
    with pytest.raises(ValueError, match=r"group: .* companion mask of group 1x8, got 4x4"):
        attach(conv, (4, 4))


def test_attach_refuses_what_it_cannot_mask() -> None:
    with pytest.raises(TypeError, match=r"conv: expected an nn.Conv2d, got Linear"):
        attach(nn.Linear(8, 8), (1, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="conv: OwnForward has a forward of its own"):
        attach(OwnForward(8, 8, 1), (1, 8))
    normed = nn.utils.parametrizations.weight_norm(conv_with_tails())
    with pytest.raises(ValueError, match="conv: its weight is computed by another parametrization"):
        attach(normed, (1, 8))
    with pytest.raises(ValueError, match="group"):
        attach(conv_with_tails(), (0, 8))


def test_detach_refuses_to_take_other_parametrizations_along() -> None:
    conv = conv_with_tails()
    attach(conv, (1, 8))
    parametrize.register_parametrization(conv, "weight", nn.Identity())
    with pytest.raises(ValueError, match="conv: 1 other parametrizations"):
        detach(conv)


def test_extend_names_what_is_wrong() -> None:
    conv = conv_with_tails()
    with pytest.raises(ValueError, match="conv: this Conv2d has no companion mask; attach"):
        extend(conv, torch.ones(7, 2, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="conv: this Conv2d has no companion mask"):
        detach(conv)
    companion = attach(conv, (1, 8))
    with pytest.raises(TypeError, match=r"mask: expected a torch.bool tensor .* torch.float32"):
        extend(conv, torch.zeros(7, 2, 3, 3))
    with pytest.raises(ValueError, match=r"mask: .*\(7, 2, 3, 3\).*\(7, 10, 3, 3\); got \(2, 7"):
        extend(conv, torch.zeros(2, 7, 3, 3, dtype=torch.bool))
    cutting = torch.ones(7, 10, 3, 3, dtype=torch.bool)
    cutting[0, 3, 1, 1] = False
    with pytest.raises(ValueError, match="mask: cuts through a 1x8 group"):
        extend(conv, cutting)
    assert companion.mask.all(), "a refused mask changes nothing"


def test_gradients_reach_the_hooks_that_a_parameter_had_before_its_mask() -> None:
    """DistributedDataParallel exchanges gradients in such hooks."""
    conv = conv_with_tails()
    weight = conv.weight
    seen = []
    node = torch.autograd.graph.get_gradient_edge(weight).node
    node.register_hook(lambda *_: seen.append(1))
    attach(conv, (1, 4))
    conv(torch.randn(1, conv.in_channels, 6, 6)).sum().backward()
    assert len(seen) == 1
    detach(conv)
    assert conv.weight is weight
    conv(torch.randn(1, conv.in_channels, 6, 6)).sum().backward()
    assert len(seen) == 2
    assert "set_" not in vars(weight)
