# SPDX-License-Identifier: MIT
"""Linear layers in the faster of two ways, and the average pooling before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile

from l1sparse.convert import Timing, linear, measure
from l1sparse.convert.network import FastNetwork

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
    """A classifier that gets its vectors by `flatten`, after `pool`."""

    def __init__(self, pool: nn.Module, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool, self.flatten, self.linear = pool, flatten, nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.flatten(self.pool(x)))
        return y


FLATTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "function": lambda x: torch.flatten(x, 1),
    "keyword": lambda x: torch.flatten(x, start_dim=1),
    "method": lambda x: x.flatten(1),
    "module": nn.Flatten(),
}


def traced(net: nn.Module) -> FastNetwork:
    graph = fx.symbolic_trace(net.eval())
    return FastNetwork.of(graph)


def network(flatten: str = "function", pool: nn.Module | None = None) -> FastNetwork:
    torch.manual_seed(0)
    return traced(Net(pool or nn.AdaptiveAvgPool2d(1), FLATTEN[flatten]))


def steps(net: FastNetwork) -> int:
    graph = fx.Graph()
    graph.output(graph.graph_copy(net.graph, {}))
    linear.merge_linear(net, graph)
    return len(graph.nodes) - 2


@pytest.mark.parametrize("flatten", FLATTEN)
def test_outputs_are_those_of_the_modules(flatten: str, way: str) -> None:
    net = network(flatten)
    assert steps(net) == 1
    with torch.inference_mode():
        for shape in ((1, 20, 7, 7), (3, 20, 4, 9)):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape).contiguous(memory_format=memory_format)
                torch.testing.assert_close(net(x), fx.Interpreter(net).run(x))


def test_the_faster_way_runs(way: str) -> None:
    net, x = network(), torch.randn(1, 20, 7, 7)
    with torch.inference_mode():
        net(x)
        with profile(activities=[ProfilerActivity.CPU]) as record:
            net(x)
    ran = {event.name for event in record.events()}
    assert ("l1sparse::linear" in ran) == (way == "native")
    assert ("aten::adaptive_avg_pool2d" in ran) == (way == "modules")


def test_a_linear_layer_alone(way: str) -> None:
    net = traced(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 7)))
    with torch.inference_mode():
        for shape in ((1, 20), (4, 20), (2, 3, 20), (20,), (0, 20)):
            x = torch.randn(shape)
            torch.testing.assert_close(net(x), fx.Interpreter(net).run(x))


@pytest.mark.parametrize("name", ["pool", "flatten", "linear"])
def test_hooks_are_called(name: str, way: str) -> None:
    net, x, seen = network("module"), torch.randn(1, 20, 7, 7), []
    with torch.inference_mode():
        before = net(x)
        net.get_submodule(name).register_forward_hook(lambda m, args, output: seen.append(output))
        torch.testing.assert_close(net(x), before)
    assert len(seen) == 1


def test_a_new_weight_is_seen(way: str) -> None:
    net, x = network(), torch.randn(1, 20, 7, 7)
    with torch.inference_mode():
        net(x)
    net.linear.weight = nn.Parameter(torch.randn(7, 20))
    net.linear.bias = None
    with torch.inference_mode():
        torch.testing.assert_close(net(x), net.linear(x.mean((2, 3))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype, way: str) -> None:
    net, x = network().to(dtype), torch.randn(1, 20, 7, 7, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), fx.Interpreter(net).run(x))


def test_autocast_has_its_effect(way: str) -> None:
    net, x = network(), torch.randn(1, 20, 7, 7)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d((1, 2)), nn.AdaptiveMaxPool2d(1)])
def test_another_pooling_is_not_merged(pool: nn.Module) -> None:
    net = network("function", pool)
    assert steps(net) == 3


def test_another_flattening_is_not_merged() -> None:
    for flatten in (lambda x: torch.flatten(x, end_dim=1), nn.Flatten(1, 2), lambda x: x.flatten()):
        net = traced(Net(nn.AdaptiveAvgPool2d(1), flatten))
        assert steps(net) == 3


def test_what_something_else_reads_is_not_merged() -> None:
    net = network()
    flatten = next(n for n in net.graph.nodes if n.target is torch.flatten)
    for node in (flatten, flatten.args[0]):
        kept = network()
        other = next(n for n in kept.graph.nodes if n.name == node.name)
        output = next(n for n in kept.graph.nodes if n.op == "output")
        output.args = ((output.args[0], other),)
        assert steps(kept) == 3
