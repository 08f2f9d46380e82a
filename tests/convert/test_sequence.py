# SPDX-License-Identifier: MIT
"""Convolutions that follow one another are one call, and compute what they do one by one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile

from l1sparse.convert.network import FastNetwork
from l1sparse.convert.rewrite import make_sparse, optimised_graph
from l1sparse.format import GroupShape
from l1sparse.nn import SparseConv2d


class Blocks(nn.Module):
    """Two residual blocks, one with a smaller output, and an end that reads two outputs."""

    def __init__(self, **last: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 16, 1, bias=False), nn.Conv2d(16, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.c, self.d = nn.Conv2d(8, 8, 3, 2, 1, groups=2), nn.Conv2d(8, 12, 1, 2)
        self.e, self.f = (
            nn.Conv2d(8, 12, 3, padding=1),
            nn.Conv2d(12, 4, **{"kernel_size": 1, **last}),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(nn.functional.relu6(self.a(x))) + x)
        z = nn.functional.hardswish(self.e(self.c(y)) + self.d(y))
        result: Tensor = self.pool(self.f(z)).flatten(1) + self.pool(y).sum()
        return result


def fast(model: nn.Module) -> FastNetwork:
    torch.manual_seed(0)
    graph = optimised_graph(model.eval())
    for name, conv in [*graph.named_modules()]:
        if isinstance(conv, nn.Conv2d):
            conv.weight.data *= (torch.rand_like(conv.weight[:, :1]) < 0.5).float()
            make_sparse(graph, name, GroupShape(1, 4)).eval().drop_dense_weight()
    return FastNetwork.of(graph)


def expected(network: FastNetwork, x: Tensor) -> Tensor:
    with torch.no_grad():
        return fx.Interpreter(network).run(x)  # type: ignore[no-any-return]


def steps_in_sequences(network: FastNetwork, x: Tensor) -> list[int]:
    """How many convolutions each call of the operator makes."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        network(x)
    names = ("l1sparse::sparse_conv2d_sequence",)
    return [event.input_shapes[2][0] for event in record.events() if event.name in names]


def image(seed: int, size: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 8, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@torch.inference_mode()
@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
def test_one_call_gives_what_single_ones_give(format_: torch.memory_format) -> None:
    network = fast(Blocks())
    for seed in range(4):
        x = image(seed).contiguous(memory_format=format_)
        torch.testing.assert_close(network(x), expected(network, x), rtol=0, atol=0)
    assert steps_in_sequences(network, image(0).contiguous(memory_format=format_)) == [6]


@torch.inference_mode()
def test_other_sizes_and_types_are_right() -> None:
    network = fast(Blocks())
    for size in (12, 12, 9, 12, 9, 9, 9, 12):
        x = image(0, size)
        assert torch.equal(network(x), expected(network, x))
    half = network.to(torch.bfloat16)
    for seed in range(3):
        x = image(seed, dtype=torch.bfloat16)
        assert torch.equal(half(x), expected(half, x))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["a", "b", "d", "f"])
def test_a_hook_on_any_of_them_is_called(name: str) -> None:
    network, seen = fast(Blocks()), []
    for seed in range(2):
        network(image(seed))
    hook = network.get_submodule(name).register_forward_hook(lambda *args: seen.append(args))
    assert torch.equal(network(image(5)), expected(network, image(5)))
    assert len(seen) == 2
    hook.remove()
    assert torch.equal(network(image(6)), expected(network, image(6)))


@torch.inference_mode()
def test_new_weights_and_biases_are_seen() -> None:
    network, other = fast(Blocks()), fast(Blocks())
    for conv in other.modules():
        if isinstance(conv, SparseConv2d) and conv.bias is not None:
            conv.bias.data += 1
    x = image(0)
    for _ in range(2):
        network(x)
    network.load_state_dict(other.state_dict())
    for _ in range(2):
        assert torch.equal(network(x), expected(other, x))
    network.b.bias = None
    network.a.bias = nn.Parameter(torch.randn(16))
    for _ in range(2):
        assert torch.equal(network(x), expected(network, x))


@torch.inference_mode()
@pytest.mark.parametrize("last", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_what_has_no_place_in_a_sequence_still_runs(last: dict[str, Any]) -> None:
    network = fast(Blocks(kernel_size=3, **last))
    for seed in range(3):
        assert torch.equal(network(image(seed)), expected(network, image(seed)))


def test_calls_at_the_same_time_are_right() -> None:
    network = fast(Blocks())
    wanted = [expected(network, image(seed)) for seed in range(8)]
    wrong = []

    def run(seed: int) -> None:
        with torch.inference_mode():
            for _ in range(50):
                if not torch.equal(network(image(seed)), wanted[seed]):
                    wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
