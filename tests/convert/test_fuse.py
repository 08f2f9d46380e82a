# SPDX-License-Identifier: MIT
"""The graph pass: what follows a convolution becomes part of it, where that changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from l1sparse.convert.fuse import fuse_epilogues
from l1sparse.convert.rewrite import make_sparse
from l1sparse.format import GroupShape

Follow = Callable[[Tensor, Tensor], Tensor]


class Net(nn.Module):
    """One convolution, and what a test does with its output and its input."""

    def __init__(self, follow: Follow) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.relu6 = nn.ReLU6()
        self.tanh = nn.Hardtanh(-0.5, 0.25)
        self.swish = nn.Hardswish()
        self.follow = follow

    def forward(self, x: Tensor) -> Tensor:
        return self.follow(self, self.conv(x), x)  # type: ignore[call-arg, arg-type]


def fused(follow: object) -> tuple[Net, fx.GraphModule]:
    net = Net(follow).eval()  # type: ignore[arg-type]
    graph = fx.symbolic_trace(net)
    fuse_epilogues(graph)
    return net, graph


def steps(graph: fx.GraphModule) -> list[str]:
    return [str(n.target) for n in graph.graph.nodes if n.op not in ("placeholder", "output")]


# What follows, the activation that the convolution takes over, and whether a residual too.
FUSED = {
    "relu": (lambda n, y, x: y.relu(), "relu", False),
    "relu in place": (lambda n, y, x: F.relu(y, inplace=True), "relu", False),
    "relu6": (lambda n, y, x: n.relu6(y), "relu6", False),
    "hardtanh": (lambda n, y, x: n.tanh(y), "clamp", False),
    "clamp": (lambda n, y, x: torch.clamp(y, -0.25, 0.5), "clamp", False),
    "clamp by name": (lambda n, y, x: y.clamp(max=0.5, min=0.1), "clamp", False),
    "hardswish": (lambda n, y, x: n.swish(y), "hardswish", False),
    "residual": (lambda n, y, x: y + x, "none", True),
    "residual first": (lambda n, y, x: x + y, "none", True),
    "residual and relu": (lambda n, y, x: torch.relu(torch.add(x, y)), "relu", True),
    "residual in place": (lambda n, y, x: y.add_(x).relu_(), "relu", True),
}


@pytest.mark.parametrize("name", FUSED)
def test_what_follows_becomes_part_of_the_convolution(name: str) -> None:
    follow, activation, residual = FUSED[name]
    net, graph = fused(follow)
    assert steps(graph) == ["conv"]
    (call,) = (n for n in graph.graph.nodes if n.op == "call_module")
    assert len(call.args) == 1 + residual
    conv = graph.get_submodule("conv")
    assert conv.activation == activation
    x = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(graph(x.clone()), net(x.clone()), rtol=0, atol=1e-6)
        make_sparse(graph, "conv", GroupShape(1, 8)).eval()
        torch.testing.assert_close(graph(x.clone()), net(x.clone()), rtol=0, atol=1e-5)


KEPT = {
    "two readers": lambda n, y, x: y.relu() + y,
    "one-sided clamp": lambda n, y, x: torch.clamp(y, min=0.1),
    "scaled addition": lambda n, y, x: torch.add(y, x, alpha=2),
    "doubled": lambda n, y, x: y + y,
    "a number": lambda n, y, x: y + 1.5,
    "into a residual that is read again": lambda n, y, x: (n.relu6(x)).add_(y),
    "silu": lambda n, y, x: F.silu(y),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_can_not_be_moved_stays(name: str) -> None:
    net, graph = fused(KEPT[name])
    x = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(graph(x.clone()), net(x.clone()), rtol=0, atol=1e-6)
    if name != "into a residual that is read again":
        assert len(steps(graph)) > 1


def test_an_addition_into_a_tensor_that_others_read_stays() -> None:
    def follow(n: Net, y: Tensor, x: Tensor) -> Tensor:
        shared = x * 2
        return shared.add_(y) * shared

    net, graph = fused(follow)
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), net(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (5, 6), (2, 8, 5, 6)])
def test_a_residual_may_broadcast(shape: tuple[int, ...]) -> None:
    other = torch.randn(shape)
    net, graph = fused(lambda n, y, x: torch.relu(y + (x.mean() * 0 + other)))
    x = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        make_sparse(graph, "conv", GroupShape(1, 8)).eval()
        torch.testing.assert_close(graph(x), net(x), rtol=0, atol=1e-5)


class Shortcut(nn.Module):
    """Two convolutions meet in an addition: the later one takes it over."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.side(x))


def test_of_two_convolutions_that_meet_one_adds_the_other() -> None:
    net = Shortcut().eval()
    graph = fx.symbolic_trace(net)
    fuse_epilogues(graph)
    assert sorted(steps(graph)) == ["main", "side"]
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), net(x), rtol=0, atol=1e-6)
