# SPDX-License-Identifier: MIT
"""`DenseConv2d` computes what `nn.Conv2d` and torch's activations do, in each of its ways."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from l1sparse.nn import DenseConv2d
from l1sparse.ops import ACTIVATIONS
from l1sparse.reference import activate

LIMITS = (-0.25, 0.5)


@pytest.mark.parametrize(
    ("way", "activation", "with_residual"),
    list(itertools.product(["eager", "prepacked"], ACTIVATIONS, [False, True])),
)
def test_it_computes_convolution_residual_and_activation(
    way: str, activation: str, with_residual: bool
) -> None:
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    x, residual = torch.randn(2, 6, 9, 7), torch.randn(2, 8, 5, 4)
    layer = DenseConv2d(conv, activation, LIMITS, way).eval()
    added = residual if with_residual else None
    with torch.no_grad():
        expected = conv(x) + residual if with_residual else conv(x)
        expected = activate(expected, activation, *LIMITS)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            output = layer(x.contiguous(memory_format=memory_format), added)
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_a_new_weight_is_seen_by_the_prepacked_way() -> None:
    layer = DenseConv2d(nn.Conv2d(4, 4, 3), way="prepacked").eval()
    x = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        layer(x)
        other = nn.Conv2d(4, 4, 3)
        layer.load_state_dict(other.state_dict())
        torch.testing.assert_close(layer(x), other(x), rtol=0, atol=1e-5)
        again = copy.deepcopy(layer)
        torch.testing.assert_close(again(x), other(x), rtol=0, atol=1e-5)


def test_gradients_and_other_types_run_eager() -> None:
    layer = DenseConv2d(nn.Conv2d(4, 4, 3), "relu", way="prepacked")
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.double()(x.detach().double()).dtype == torch.float64


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"way: got 'fast', expected one of"):
        DenseConv2d(nn.Conv2d(4, 4, 3), way="fast")
    with pytest.raises(ValueError, match=r"activation: got 'gelu'"):
        DenseConv2d(nn.Conv2d(4, 4, 3), "gelu")
    with pytest.raises(ValueError, match=r"clamp: got \(1.0, 0.0\)"):
        DenseConv2d(nn.Conv2d(4, 4, 3), "clamp", (1.0, 0.0))


def test_repr_and_state_dict_are_those_of_conv2d_and_more() -> None:
    conv = nn.Conv2d(4, 4, 3)
    layer = DenseConv2d(conv, "relu6", way="prepacked")
    assert "activation=relu6, way=prepacked" in repr(layer)
    assert list(layer.state_dict()) == list(conv.state_dict())
    assert layer.to_plain().weight is conv.weight
