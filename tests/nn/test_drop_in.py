# SPDX-License-Identifier: MIT
"""`SparseConv2d` where an `nn.Conv2d` stood: construction, conversion, training in a network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1sparse import GroupShape, SparseConv2d
from l1sparse.group_mask import expand_group_mask


def test_the_signature_is_that_of_conv2d_with_group_and_activation_after_it() -> None:
    theirs = inspect.signature(nn.Conv2d).parameters
    ours = inspect.signature(SparseConv2d).parameters
    assert list(ours) == [*theirs, "group", "activation", "clamp"]
    assert all(ours[name].default == theirs[name].default for name in theirs)


def test_a_new_layer_keeps_every_group_and_starts_as_conv2d_starts() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(12, 10, 3)
    torch.manual_seed(3)
    layer = SparseConv2d(12, 10, 3)
    assert torch.equal(layer.weight, conv.weight)
    assert layer.mask.all()
    assert layer.density == 1.0
    assert layer.group == GroupShape(1, 8)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False, "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"groups": 3, "padding": "same"},
    {"padding": 2, "padding_mode": "circular"},
    {"dtype": torch.float64},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_from_dense_and_to_dense_round_trip(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(12, 9, 3, **options).eval()
    conv.weight.requires_grad_(False)
    layer = SparseConv2d.from_dense(conv, group=(2, 4))
    back = layer.to_dense()
    assert type(back) is nn.Conv2d
    assert repr(back) == repr(conv)
    assert not layer.training
    assert not back.training
    assert not back.weight.requires_grad
    for name, value in conv.state_dict().items():
        for other in (layer, back):
            assert torch.equal(other.state_dict()[name], value)
            assert other.state_dict()[name].data_ptr() != value.data_ptr()


def test_from_dense_reads_masks_of_both_shapes_and_finds_zero_groups() -> None:
    conv = nn.Conv2d(12, 9, 3)
    grid = torch.rand(GroupShape(2, 8).grid((9, 12, 3, 3))) < 0.5
    full = expand_group_mask(grid, (9, 12, 3, 3), (2, 8))
    by_grid = SparseConv2d.from_dense(conv, (2, 8), grid)
    by_weight = SparseConv2d.from_dense(conv, (2, 8), full)
    found = SparseConv2d.from_dense(by_grid.to_dense(), (2, 8))
    for layer in (by_grid, by_weight, found):
        assert torch.equal(layer.mask, grid)
        assert torch.equal(layer.weight, conv.weight * full)
        assert layer.density == pytest.approx(full.float().mean().item())
    grid.zero_()
    assert by_grid.mask.any()


def test_from_dense_takes_only_what_computes_a_convolution() -> None:
    with pytest.raises(TypeError, match=r"^conv: got Linear, expected nn.Conv2d"):
        SparseConv2d.from_dense(nn.Linear(3, 3))  # type: ignore[arg-type]

    class Named(nn.Conv2d):
        """Only another name."""

    conv = Named(8, 4, 3)
    assert torch.equal(SparseConv2d.from_dense(conv).weight, conv.weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_training_equals_the_masked_dense_convolution_to_the_bit(groups: int) -> None:
    layer = SparseConv2d(12, 10, 3, padding=1, groups=groups, group=(1, 4))
    layer.mask &= torch.rand(layer.mask.shape) < 0.5
    x = torch.randn(2, 12, 7, 7, requires_grad=True)
    layer(x).square().sum().backward()
    full = expand_group_mask(layer.mask, layer.weight.shape, layer.group)
    weight, bias, other = (
        t.detach().clone().requires_grad_() for t in (layer.weight, layer.bias, x)
    )
    masked = weight * full
    F.conv2d(other, masked, bias, padding=1, groups=groups).square().sum().backward()
    assert torch.equal(layer.weight.grad, weight.grad)
    assert torch.equal(layer.bias.grad, bias.grad)
    assert torch.equal(x.grad, other.grad)
    assert (layer.weight.grad[~full] == 0).all()


@pytest.mark.parametrize("frozen", ["weight", "bias", "input", "weight and bias"])
def test_evaluation_gives_gradients_where_only_some_are_wanted(frozen: str) -> None:
    layer = SparseConv2d(12, 10, 3, activation="relu")
    layer.mask &= torch.rand(layer.mask.shape) < 0.5
    x = torch.randn(2, 12, 7, 7, requires_grad="input" not in frozen)
    layer.weight.requires_grad_("weight" not in frozen)
    layer.bias.requires_grad_("bias" not in frozen)
    wanted = [t for t in (x, layer.weight, layer.bias) if t.requires_grad]
    trained = torch.autograd.grad(layer(x).square().sum(), wanted)
    evaluated = torch.autograd.grad(layer.eval()(x).square().sum(), wanted)
    for one, other in zip(trained, evaluated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_nan_in_the_input_of_a_pruned_group_reaches_training_but_not_evaluation() -> None:
    layer = SparseConv2d(16, 4, 1)
    layer.mask[:, 1] = False
    x = torch.randn(1, 16, 2, 2)
    x[:, 8:] = torch.nan
    assert layer.train()(x).isnan().all()
    expected = F.conv2d(x[:, :8], layer.weight[:, :8], layer.bias)
    torch.testing.assert_close(layer.eval()(x), expected)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_bfloat16_runs_dense_in_both_modes(activation: str) -> None:
    layer = SparseConv2d(8, 4, 3, activation=activation).to(torch.bfloat16)
    x = torch.randn(1, 8, 5, 5, dtype=torch.bfloat16)
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_a_layer_without_its_dense_weight_says_what_it_can_not_do() -> None:
    layer = SparseConv2d(8, 4, 3).drop_dense_weight()
    assert layer.drop_dense_weight() is layer
    assert torch.equal(layer.to_dense().weight, layer.masked_weight())
    with pytest.raises(RuntimeError, match=r"input: .*float32"):
        layer(torch.randn(1, 8, 5, 5).double())
    with pytest.raises(RuntimeError, match=r"input: has shape \[8, 5\]"):
        layer(torch.randn(8, 5))


def test_a_packed_weight_of_another_shape_is_refused_and_nothing_changes() -> None:
    x, foreign = torch.randn(1, 8, 5, 5), SparseConv2d(8, 5, 3).drop_dense_weight().state_dict()
    for layer in (SparseConv2d(8, 4, 3).eval(), SparseConv2d(8, 4, 3).eval().drop_dense_weight()):
        before = layer(x)
        with pytest.raises(RuntimeError, match=r"\(?\[?5, 8, 3, 3"):
            layer.load_state_dict(foreign)
        with pytest.raises(RuntimeError, match="Missing key"):
            layer.load_state_dict({})
        assert torch.equal(layer(x), before)


def network() -> nn.Sequential:
    body = SparseConv2d(16, 24, 3, padding=1)
    body.mask &= torch.rand(body.mask.shape) < 0.4
    last = SparseConv2d(24, 8, 3, stride=2, groups=2, group=(2, 4), activation="relu")
    last.mask &= torch.rand(last.mask.shape) < 0.4
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), body, nn.ReLU(), last]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, 0.005, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.005, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_trains_with_it_and_pruned_weights_stay_zero(name: str) -> None:
    net = network()
    x, labels = torch.randn(20, 3, 8, 8), torch.arange(20) % 5
    net(x)
    for layer in (net[3], net[5]):
        layer.load_state_dict(layer.state_dict())  # writes the masked weight into the parameter
    optimizer = OPTIMIZERS[name](net.parameters())
    pruned = {i: net[i].masked_weight() == 0 for i in (3, 5)}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for i, gone in pruned.items():
        assert gone.any()
        assert (net[i].weight.detach()[gone].view(torch.int32) == 0).all()

    dense = copy.deepcopy(net).eval()
    dense[3] = net[3].to_dense()
    net[5].activation = "none"
    dense[5] = nn.Sequential(net[5].to_dense(), nn.ReLU())
    net[5].activation = "relu"
    torch.testing.assert_close(net.eval()(x), dense.eval()(x), rtol=1e-4, atol=1e-4)


def test_repr_shows_group_density_and_activation() -> None:
    text = repr(SparseConv2d(8, 4, 3, group="2x4", activation="relu"))
    assert "group=2x4, density=1.0000, activation=relu" in text
    assert "group=1x8" in repr(SparseConv2d(8, 4, 3, device="meta"))


def test_masked_weight_takes_no_part_of_a_pruned_nan() -> None:
    layer = SparseConv2d(16, 2, 1)
    layer.mask[:, 0] = False
    with torch.no_grad():
        layer.weight[:, :8] = torch.nan
    expected = torch.zeros(2, 8, 1, 1)
    assert torch.equal(layer.masked_weight()[:, :8], expected)
    assert torch.equal(layer.state_dict()["weight"][:, :8], expected)
    outputs: list[Tensor] = [layer.train(mode)(torch.randn(1, 16, 3, 3)) for mode in (True, False)]
    assert all(output.isfinite().all() for output in outputs)


def test_many_threads_may_call_one_module_at_once() -> None:
    layer = SparseConv2d(32, 48, 3, padding=1).eval()
    layer.mask &= torch.rand(layer.mask.shape) < 0.3
    inputs = [torch.randn(1, 32, size, size) for size in (7, 13, 20, 28)] * 6

    def call(input: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(input)

    with ThreadPoolExecutor(8) as threads:  # all meet where the weight is packed, at the first call
        outputs = list(threads.map(call, inputs))
    assert all(torch.equal(a, call(x)) for a, x in zip(outputs, inputs, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_of_16_bits_runs_on_the_native_kernels(dtype: torch.dtype) -> None:
    layer = SparseConv2d(16, 8, 3, dtype=dtype).eval()
    layer.mask[:, 0] = False
    input = torch.randn(2, 16, 9, 9).to(dtype)
    input[:, :8] = torch.nan  # the dense convolution would let it through
    with torch.no_grad():
        output = layer(input)
    weight, bias = layer.masked_weight().double(), layer.bias.double()
    expected = F.conv2d(input.double().nan_to_num(), weight, bias)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
