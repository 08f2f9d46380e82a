# SPDX-License-Identifier: MIT
"""`SparseConv2d` in the place of `nn.Conv2d`: the same values, gradients and state dicts."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1sparse import GroupShape, SparseConv2d


def pruned(**options: object) -> SparseConv2d:
    conv = nn.Conv2d(12, 10, 3, padding=1, **options)  # type: ignore[arg-type]
    grid = GroupShape(1, 8).grid(tuple(conv.weight.shape))
    return SparseConv2d.from_dense(conv, mask=torch.rand(grid) < 0.4)


def dense_output(layer: SparseConv2d, x: Tensor) -> Tensor:
    weight = layer.masked_weight()
    return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (2, 0), "same", "valid"])
def test_evaluation_equals_the_dense_convolution(mode: str, padding: object) -> None:
    conv = nn.Conv2d(12, 10, (3, 4), padding=padding, padding_mode=mode)  # type: ignore[arg-type]
    grid = GroupShape(1, 8).grid(tuple(conv.weight.shape))
    layer = SparseConv2d.from_dense(conv, mask=torch.rand(grid) < 0.4).eval()
    for shape in ((2, 12, 9, 11), (12, 9, 11), (0, 12, 9, 11)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), layer.to_dense()(x), rtol=1e-4, atol=1e-4)


def test_training_gives_pruned_weights_no_gradient() -> None:
    layer = pruned()
    x = torch.randn(2, 12, 7, 7)
    layer(x).square().sum().backward()
    gone = layer.masked_weight() == 0
    assert gone.any()
    assert (layer.weight.grad[gone] == 0).all()  # type: ignore[index]
    assert (layer.weight.grad[~gone] != 0).all()  # type: ignore[index]


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_gradients_in_evaluation_are_those_of_training(activation: str) -> None:
    layer = pruned()
    layer.activation = activation
    x = torch.randn(2, 12, 7, 7, requires_grad=True)
    grads = []
    for mode in (True, False):
        layer.train(mode)
        loss = layer(x).square().sum()
        grads.append(torch.autograd.grad(loss, [x, layer.weight, layer.bias]))
    for trained, evaluated in zip(*grads, strict=True):
        torch.testing.assert_close(trained, evaluated, rtol=1e-4, atol=1e-3)


def edit_in_place(layer: SparseConv2d) -> SparseConv2d:
    with torch.no_grad():
        layer.weight[0].mul_(3)
    return layer


def take_a_step(layer: SparseConv2d) -> SparseConv2d:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.randn(1, 12, 5, 5)).sum().backward()
    optimizer.step()
    return layer


def load_other_weights(layer: SparseConv2d) -> SparseConv2d:
    layer.load_state_dict(nn.Conv2d(12, 10, 3, padding=1).state_dict())
    return layer


def move_there_and_back(layer: SparseConv2d) -> SparseConv2d:
    with torch.no_grad():
        return edit_in_place(layer.to(torch.float64)).to(torch.float32)


def edit_a_deepcopy(layer: SparseConv2d) -> SparseConv2d:
    return edit_in_place(copy.deepcopy(layer))


def edit_an_unpickled(layer: SparseConv2d) -> SparseConv2d:
    return edit_in_place(pickle.loads(pickle.dumps(layer)))


def edit_data_and_evaluate(layer: SparseConv2d) -> SparseConv2d:
    layer.weight.data.mul_(2)
    return layer.eval()


CHANGES = [
    edit_in_place,
    take_a_step,
    load_other_weights,
    move_there_and_back,
    edit_a_deepcopy,
    edit_an_unpickled,
    edit_data_and_evaluate,
]


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_packed_again_after(change) -> None:  # type: ignore[no-untyped-def]
    layer, x = pruned().eval(), torch.randn(1, 12, 8, 8)
    before = layer(x)
    layer = change(layer)
    after = layer(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, dense_output(layer, x), rtol=1e-4, atol=1e-4)


def test_state_dicts_go_both_ways_with_conv2d() -> None:
    layer, x = pruned().eval(), torch.randn(1, 12, 8, 8)
    conv = nn.Conv2d(12, 10, 3, padding=1)
    conv.load_state_dict(layer.state_dict(), strict=True)
    torch.testing.assert_close(conv(x), layer(x), rtol=1e-4, atol=1e-4)
    fresh = SparseConv2d(12, 10, 3, padding=1).eval()
    fresh.load_state_dict(conv.state_dict(), strict=True)
    assert torch.equal(fresh.mask, layer.mask)
    assert torch.equal(fresh(x), layer(x))


def test_dropping_the_dense_weight_changes_no_output_and_loads_both_ways() -> None:
    layer, x = pruned().eval(), torch.randn(1, 12, 8, 8)
    packed = copy.deepcopy(layer).drop_dense_weight()
    assert set(packed.state_dict()) == {"packed", "bias"}
    assert torch.equal(packed(x), layer(x))
    assert packed.density == pytest.approx(layer.density)
    other = pruned().eval()
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), layer(x))
    third = pruned().eval().drop_dense_weight()
    third.load_state_dict(layer.state_dict())
    assert torch.equal(third(x), layer(x))


def test_a_damaged_packed_weight_is_refused_and_what_was_there_stays() -> None:
    layer, x = pruned().eval().drop_dense_weight(), torch.randn(1, 12, 8, 8)
    before = layer(x)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state["packed"][-1] ^= 1
    with pytest.raises(RuntimeError, match="checksum"):
        layer.load_state_dict(state)
    assert torch.equal(layer(x), before)


def test_other_dtypes_and_autocast_run_dense() -> None:
    layer, x = pruned().eval(), torch.randn(1, 12, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    double = copy.deepcopy(layer).double()
    torch.testing.assert_close(double(x.double()).float(), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [0, (0, 8), (1, -1), (1, 8, 1), "1x", None, (1.0, 8)])
def test_a_group_that_is_no_pair_of_positive_numbers_is_named(group: object) -> None:
    with pytest.raises(ValueError, match="group"):
        SparseConv2d(8, 8, 3, group=group)  # type: ignore[arg-type]


def test_masks_that_do_not_fit_are_named() -> None:
    conv = nn.Conv2d(16, 4, 3)
    with pytest.raises(TypeError, match=r"mask.*bool"):
        SparseConv2d.from_dense(conv, mask=torch.ones(4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"mask.*\(4, 2, 3, 3\)"):
        SparseConv2d.from_dense(conv, mask=torch.ones(4, 3, 3, 3, dtype=torch.bool))
    cut = torch.ones(4, 16, 3, 3, dtype=torch.bool)
    cut[1, 3, 0, 0] = False
    with pytest.raises(ValueError, match=r"mask.*cuts"):
        SparseConv2d.from_dense(conv, mask=cut)


def test_what_would_be_lost_is_refused() -> None:
    class PadsItself(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(F.pad(input, (1, 1)))

    with pytest.raises(TypeError, match="PadsItself"):
        SparseConv2d.from_dense(PadsItself(8, 8, 3))
    layer = pruned()
    layer.activation = "relu"
    with pytest.raises(ValueError, match="activation"):
        layer.to_dense()
    with pytest.raises(ValueError, match="activation"):
        SparseConv2d(8, 8, 3, activation="gelu")


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["sgd", "adam", "adamw"])
def test_pruned_weights_stay_exactly_zero_over_50_steps(make) -> None:  # type: ignore[no-untyped-def]
    layer = pruned()
    gone, start = layer.masked_weight() == 0, layer.weight.detach().clone()
    optimizer = make(layer.parameters())
    for _ in range(50):
        optimizer.zero_grad()
        layer(torch.randn(2, 12, 6, 6)).square().mean().backward()
        optimizer.step()
        assert (layer.weight[gone] == 0).all()
    assert (layer.weight[~gone] != start[~gone]).all()
