# SPDX-License-Identifier: MIT
"""`SparseConv2d.train_sparse`: training that goes through the kept groups alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l1sparse import SparseConv2d

OPS = torch.ops.l1sparse


def pruned(**options: Any) -> SparseConv2d:
    layer = SparseConv2d(12, 10, 3, **{"padding": 1, "group": (1, 4), **options})
    layer.mask &= torch.rand(layer.mask.shape) < 0.4
    return layer


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Names of the operators that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def results(layer: SparseConv2d, x: Tensor, residual: Tensor | None) -> list[Tensor]:
    x = x.detach().requires_grad_()
    leaves = [x, layer.weight]
    if layer.bias is not None:
        leaves.append(layer.bias)
    if residual is not None:
        residual = residual.detach().requires_grad_()
        leaves.append(residual)
    output = layer(x, residual)
    # Not 0 where an activation gives 0, so that its gradient is seen there.
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    return [output, *torch.autograd.grad(output, leaves, grad.to(output.dtype))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", [None, "full", "broadcast"])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "clamp", "hardswish"])
def test_it_equals_dense_training(activation: str, residual: str | None, training: bool) -> None:
    layer = pruned(activation=activation, clamp=(-0.5, 0.75)).train(training)
    x = torch.randn(2, 12, 7, 7)
    added = None if residual is None else torch.randn(2, 10, 7, 7 if residual == "full" else 1)
    expected = results(copy.deepcopy(layer), x, added)
    with Calls() as calls:
        actual = results(layer.train_sparse(), x, added)
    assert "l1sparse::conv2d_values_grad" in calls.names
    assert "l1sparse::conv2d_input_grad" in calls.names
    assert not any("convolution" in name for name in calls.names)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    gone = layer.masked_weight() == 0
    assert (actual[2][gone].view(torch.int32) == 0).all()


OPTIONS: list[dict[str, Any]] = [
    {"stride": 2},
    {"padding": "same", "dilation": 2},
    {"padding_mode": "reflect", "padding": (2, 1)},
    {"groups": 2, "bias": False},
    {"dtype": torch.bfloat16},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_it_equals_dense_training_whatever_the_convolution(options: dict[str, Any]) -> None:
    layer = pruned(**options)
    x = torch.randn(2, 12, 9, 8, dtype=layer.weight.dtype)
    for input in (x, x[0]):
        exact = copy.deepcopy(layer).float()
        expected = results(exact, input.float(), None)
        for one, other in zip(results(layer.train_sparse(), input, None), expected, strict=True):
            bound = 0.1 if layer.weight.dtype == torch.bfloat16 else 1e-3
            torch.testing.assert_close(one.float(), other, rtol=bound, atol=bound)


def test_training_is_dense_unless_it_is_asked_for() -> None:
    layer = pruned()
    for asked in (False, True, False):
        with Calls() as calls:
            layer.train_sparse(asked)(torch.randn(1, 12, 5, 5)).sum().backward()
        assert ("l1sparse::values_conv2d" in calls.names) == asked


def test_what_the_kernels_can_not_do_trains_dense() -> None:
    layer = pruned().double().train_sparse()
    layer(torch.randn(1, 12, 5, 5).double()).sum().backward()
    layer = pruned().train_sparse()
    with torch.autocast("cpu", torch.bfloat16), Calls() as calls:
        layer(torch.randn(1, 12, 5, 5)).float().sum().backward()
    assert not any(name.startswith("l1sparse") for name in calls.names)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_are_those_of_dense_training(make: Any) -> None:
    start = pruned()
    start.load_state_dict(start.state_dict())  # writes the masked weight into the parameter
    weights = []
    for sparse in (False, True):
        torch.manual_seed(1)
        layer = copy.deepcopy(start).train_sparse(sparse)
        optimizer = make(layer.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            layer(torch.randn(2, 12, 6, 6)).square().mean().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
        assert (layer.weight[start.masked_weight() == 0] == 0).all()
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert not torch.equal(weights[1], start.weight)


def test_a_new_mask_is_seen() -> None:
    layer, x = pruned().train_sparse(), torch.randn(1, 12, 5, 5)
    layer(x)
    layer.mask[:5] = False
    torch.testing.assert_close(layer(x)[0, 0], layer.bias[0].expand(5, 5))
    layer.mask = torch.zeros_like(layer.mask)
    torch.testing.assert_close(layer(x), layer.bias.reshape(1, 10, 1, 1).expand(1, 10, 5, 5))


def test_double_backward_is_that_of_dense_training() -> None:
    layer, x = pruned(), torch.randn(1, 12, 6, 6, requires_grad=True)
    found = []
    for sparse in (False, True):
        layer.train_sparse(sparse)
        (slope,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, layer.weight]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


def test_copies_and_pickles_keep_the_choice_and_old_pickles_load() -> None:
    layer, x = pruned().train_sparse(), torch.randn(1, 12, 5, 5)
    before = layer(x)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied.trains_sparse
        assert torch.equal(copied(x), before)
    state = layer.__getstate__()
    for name in ("trains_sparse", "_pattern"):
        state.pop(name)
    old = SparseConv2d.__new__(SparseConv2d)
    old.__setstate__(state)
    torch.testing.assert_close(old(x), before)


def test_without_a_dense_weight_there_is_nothing_to_train() -> None:
    layer = pruned().train_sparse().eval().drop_dense_weight()
    assert not layer.trains_sparse
    layer(torch.randn(1, 12, 5, 5))
    with pytest.raises(RuntimeError, match=r"^weight: is None after drop_dense_weight"):
        layer.train_sparse()


@pytest.mark.parametrize("frozen", ["weight", "bias", "input"])
def test_gradients_where_only_some_are_wanted(frozen: str) -> None:
    layer = pruned(activation="relu").train_sparse()
    x = torch.randn(2, 12, 7, 7, requires_grad=frozen != "input")
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name != frozen)
    layer(x).sum().backward()
    for name, tensor in (("input", x), *layer.named_parameters()):
        assert (tensor.grad is None) == (name == frozen)


def test_it_trains_inside_a_network_with_batch_norm() -> None:
    body = pruned().train_sparse()
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), body, nn.Flatten())
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x = torch.randn(4, 3, 8, 8)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
