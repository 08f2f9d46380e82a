# SPDX-License-Identifier: MIT
"""A convolution and its max pooling together compute what they do one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._C import _AutoDispatchBelowAutograd
from torch.profiler import ProfilerActivity, profile

from l1sparse.convert import Timing, measure, pooled
from l1sparse.convert.network import FastNetwork
from l1sparse.nn import DenseConv2d, SparseConv2d

WAYS = ("modules", "native")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way that is the faster one."""

    def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
        return {name: Timing(float(name != request.param), 0, 1) for name in candidates}

    monkeypatch.setattr(measure, "alternate", alternate)
    name: str = request.param
    return name


class Net(nn.Module):
    def __init__(self, conv: nn.Module, pool: nn.Module, format: torch.memory_format) -> None:
        super().__init__()
        self.conv, self.pool, self.format = conv, pool, format

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x)).contiguous(memory_format=self.format) + 1


KINDS = ("dense", "sparse")


def convolution(kind: str, activation: str, way: str = "prepacked", filters: int = 16) -> Any:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, filters, 7, 2, 3)
    if kind == "dense":
        return DenseConv2d(conv, activation, (-0.25, 0.5), way)
    mask = torch.rand(filters, 1, 7, 7) < 0.5
    sparse = SparseConv2d.from_dense(conv, mask=mask)
    sparse.activation, sparse.clamp = activation, (-0.25, 0.5)
    sparse.eval().drop_dense_weight()
    return sparse


def network(
    activation: str = "relu",
    pool: nn.Module | None = None,
    conv: nn.Module | None = None,
    format: torch.memory_format = torch.contiguous_format,
) -> FastNetwork:
    conv = conv or convolution("dense", activation)
    net = Net(conv, pool or nn.MaxPool2d(3, 2, 1), format).eval()

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    return FastNetwork.of(fx.GraphModule(net, Tracer().trace(net)))


def steps(net: FastNetwork) -> list[str]:
    """What is left of the network's steps but inputs and outputs."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(net.graph, {}))
    pooled.merge_pooling(net, graph)
    return [str(n.target) for n in graph.nodes if n.op not in ("placeholder", "output")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "clamp", "hardswish"])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 3), (1, 2))])
def test_outputs_are_those_of_the_modules(
    pool: nn.Module, activation: str, kind: str, way: str
) -> None:
    net = network(pool=pool, conv=convolution(kind, activation))
    with torch.inference_mode():
        for shape in ((1, 3, 30, 30), (2, 3, 27, 33)):
            x = torch.randn(shape)
            expected = net.pool(net.conv(x)) + 1
            for input in (x, x.contiguous(memory_format=torch.channels_last)):
                output = net(input)
                assert output.is_contiguous()
                torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_faster_way_runs(kind: str, way: str) -> None:
    net, x = network(conv=convolution(kind, "relu")), torch.randn(1, 3, 30, 30)
    with torch.inference_mode():
        net(x)
        with profile(activities=[ProfilerActivity.CPU]) as record:
            net(x)
    ran = {event.name for event in record.events()}
    assert ("l1sparse::sparse_conv2d_max_pool" in ran) == (way == "native")
    assert ("aten::max_pool2d_with_indices" in ran) == (way == "modules")


@pytest.mark.parametrize("name", ["conv", "pool"])
def test_hooks_are_called(name: str, way: str) -> None:
    net, x, seen = network(), torch.randn(1, 3, 30, 30), []
    with torch.inference_mode():
        before = net(x)
        net.get_submodule(name).register_forward_hook(lambda m, args, output: seen.append(output))
        torch.testing.assert_close(net(x), before, rtol=0, atol=1e-5)
    assert len(seen) == 1


def test_a_new_weight_is_seen(way: str) -> None:
    net, other, x = network(), network(), torch.randn(1, 3, 30, 30)
    other.conv.weight.data += 1
    with torch.inference_mode():
        net(x)
        net.load_state_dict(other.state_dict())
        torch.testing.assert_close(net(x), other(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype, way: str) -> None:
    net = network().to(dtype)
    x = torch.randn(1, 3, 30, 30, dtype=dtype)
    with torch.inference_mode(), _AutoDispatchBelowAutograd():
        call = pooled.pooled_call(net.conv, net.pool)
        torch.testing.assert_close(call(x), net.pool(net.conv(x)))


def test_what_the_operator_has_not_is_not_merged() -> None:
    for together in (
        network(),
        network("hardswish"),
        network(conv=convolution("sparse", "clamp")),
        network(format=torch.channels_last),
    ):
        assert steps(together)[1:] == ["contiguous", "<built-in function add>"]
    for apart in (
        network(conv=convolution("dense", "relu", way="eager")),
        network(conv=convolution("sparse", "relu", filters=4)),
        network(conv=nn.Conv2d(3, 16, 7)),
        network(pool=nn.MaxPool2d(3, 2, dilation=2)),
        network(pool=nn.MaxPool2d(3, 2, ceil_mode=True)),
        network(pool=nn.AvgPool2d(3)),
    ):
        assert steps(apart)[:3] == ["conv", "pool", "contiguous"]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_before_it_keep_their_own_memory(kind: str, way: str) -> None:
    """The convolution before it writes to planned memory, which a second call must not spoil."""
    conv = nn.Conv2d(3, 3, 3, padding=1)
    root = nn.Module()
    root.before = SparseConv2d.from_dense(conv).eval()
    root.before.drop_dense_weight()
    root.conv, root.pool = convolution(kind, "relu"), nn.MaxPool2d(2)
    graph = fx.Graph()
    node = graph.placeholder("x")
    for name in ("before", "conv", "pool"):
        node = graph.call_module(name, (node,))
    graph.output(node)
    net = FastNetwork.of(fx.GraphModule(root, graph))
    inputs = [torch.randn(1, 3, 30, 30) for _ in range(4)]
    with torch.inference_mode():
        outputs = [net(x) for x in inputs]
        for x, output in zip(inputs, outputs, strict=True):
            expected = root.pool(root.conv(root.before(x)))
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    directly = type(net)._directly
    assert directly is not None
    assert len(directly[1].nothing) == 1


def test_a_convolution_that_something_else_reads_is_not_merged() -> None:
    net = network()
    node = next(n for n in net.graph.nodes if n.target == "conv")
    output = next(n for n in net.graph.nodes if n.op == "output")
    output.args = ((output.args[0], node),)
    assert steps(net)[:3] == ["conv", "pool", "contiguous"]


def test_a_pool_that_is_called_by_keyword_stays_as_it_is() -> None:
    net = network()
    node = next(n for n in net.graph.nodes if n.target == "pool")
    node.args, node.kwargs = (), {"input": node.args[0]}
    assert steps(net)[:3] == ["conv", "pool", "contiguous"]
