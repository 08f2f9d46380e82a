# SPDX-License-Identifier: MIT
"""A convolution and its max pooling together compute what they do one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, fx, nn
from torch._C import _AutoDispatchBelowAutograd
from torch.profiler import ProfilerActivity, profile

from l1sparse.convert import Timing, pooled
from l1sparse.convert.network import FastNetwork
from l1sparse.nn import DenseConv2d

WAYS = ("modules", "oneDNN")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way that is the faster one."""

    def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
        return {name: Timing(float(name != request.param), 0, 1) for name in candidates}

    monkeypatch.setattr(pooled, "alternate", alternate)
    name: str = request.param
    return name


class Net(nn.Module):
    def __init__(self, conv: nn.Module, pool: nn.Module, format: torch.memory_format) -> None:
        super().__init__()
        self.conv, self.pool, self.format = conv, pool, format

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x)).contiguous(memory_format=self.format) + 1


def network(
    activation: str = "relu",
    pool: nn.Module | None = None,
    way: str = "prepacked",
    format: torch.memory_format = torch.contiguous_format,
) -> FastNetwork:
    torch.manual_seed(0)
    conv = DenseConv2d(nn.Conv2d(3, 16, 7, 2, 3), activation, (-0.25, 0.5), way)
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


@pytest.mark.parametrize("activation", ["relu", "relu6", "clamp"])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)])
def test_outputs_are_those_of_the_modules(activation: str, pool: nn.Module, way: str) -> None:
    net = network(activation, pool)
    with torch.inference_mode():
        for shape in ((1, 3, 30, 30), (2, 3, 27, 33)):
            x = torch.randn(shape)
            expected = net.pool(net.conv(x)) + 1
            for input in (x, x.contiguous(memory_format=torch.channels_last)):
                output = net(input)
                assert output.is_contiguous()
                torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_the_faster_way_runs(way: str) -> None:
    net, x = network(), torch.randn(1, 3, 30, 30)
    with torch.inference_mode():
        net(x)
        with profile(activities=[ProfilerActivity.CPU]) as record:
            net(x)
    ran = {event.name for event in record.events()}
    assert ("aten::mkldnn_max_pool2d" in ran) == (way == "oneDNN")
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


def test_what_would_be_wrong_or_no_faster_is_not_merged() -> None:
    assert len(steps(network())) == 2
    assert "contiguous" not in steps(network("clamp"))
    for apart in (
        network("none"),
        network("hardswish"),
        network(way="eager"),
        network(pool=nn.MaxPool2d(3, 2, dilation=2)),
        network(pool=nn.AvgPool2d(3)),
        network(format=torch.channels_last),
    ):
        assert steps(apart)[:3] == ["conv", "pool", "contiguous"]


def test_what_something_else_reads_is_not_merged() -> None:
    for name in ("conv", "pool"):
        net = network()
        node = next(n for n in net.graph.nodes if n.target == name)
        output = next(n for n in net.graph.nodes if n.op == "output")
        output.args = ((output.args[0], node),)
        assert steps(net)[:3] == ["conv", "pool", "contiguous"]


def test_a_pool_that_is_called_by_keyword_stays_as_it_is() -> None:
    net = network()
    node = next(n for n in net.graph.nodes if n.target == "pool")
    node.args, node.kwargs = (), {"input": node.args[0]}
    assert steps(net)[:3] == ["conv", "pool", "contiguous"]
