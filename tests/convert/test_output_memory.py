# SPDX-License-Identifier: MIT
"""Outputs that share memory one after the other: never two that are needed at the same time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from l1sparse.convert.network import FastNetwork
from l1sparse.convert.output_memory import Life, OutputMemory, place
from l1sparse.convert.rewrite import make_sparse, optimised_graph
from l1sparse.format import GroupShape


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 1000)).map(
            lambda x: (Life("", min(x[:2]), max(x[:2])), x[2])
        )
    )
)
def test_what_lives_at_the_same_time_lies_apart(things: list[tuple[Life, int]]) -> None:
    lives, sizes = [life for life, _ in things], [size for _, size in things]
    places, end = place(lives, sizes)
    assert all(at % 64 == 0 and at + size <= end for at, size in zip(places, sizes, strict=True))
    assert end <= sum(size + 63 for size in sizes)
    for i, j in itertools.combinations(range(len(things)), 2):
        meet = lives[i].first <= lives[j].last and lives[j].first <= lives[i].last
        if meet and sizes[i] > 0 and sizes[j] > 0:
            assert places[i] + sizes[i] <= places[j] or places[j] + sizes[j] <= places[i]


def test_places_are_used_again() -> None:
    chain = [Life(str(i), i, i + 1) for i in range(6)]
    assert place(chain, [128] * 6) == ([0, 128] * 3, 256)
    assert place([Life("a", 0, 9), Life("b", 2, 3), Life("c", 4, 5)], [64, 10, 100]) == (
        [128, 0, 0],
        192,
    )


class Chain(nn.Module):
    """Convolutions with a shortcut; the last one's output goes by `end`."""

    def __init__(self, end: Callable[[Tensor], Tensor] = torch.neg) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))
        self.pool = nn.MaxPool2d(2)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = self.convs
        x = torch.relu(a(x))
        x = torch.relu(c(b(x)) + x)
        return self.end(e(self.pool(d(x))))


def fast(model: nn.Module) -> FastNetwork:
    torch.manual_seed(0)
    graph = optimised_graph(model.eval())
    for name, conv in [*graph.named_modules()]:
        if isinstance(conv, nn.Conv2d):
            conv.weight.data *= (torch.rand(8, 8, 1, 1) < 0.5).float()
            make_sparse(graph, name, GroupShape(1, 1)).eval().drop_dense_weight()
    return FastNetwork.of(graph)


def image(seed: int, size: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 8, size, size, generator=generator).to(dtype)


def by_the_graph(network: fx.GraphModule, x: Tensor) -> Tensor:
    with torch.no_grad():
        return fx.Interpreter(network).run(x)  # type: ignore[no-any-return]


def memory_of(network: FastNetwork) -> OutputMemory:
    directly = type(network)._directly
    assert directly is not None
    return directly[1]


def has_memory(network: FastNetwork) -> bool:
    plan = memory_of(network)._plan
    return plan is not None and len(plan.free) == 1


@pytest.mark.parametrize("modes", [*itertools.permutations((torch.inference_mode, torch.no_grad))])
def test_outputs_stay_right_from_call_to_call(modes: tuple[type, type]) -> None:
    network = fast(Chain())
    results = []
    for mode in (*modes, *modes):
        with mode():
            for seed in range(3):
                results.append((network(image(seed)), by_the_graph(network, image(seed))))
    assert has_memory(network)
    assert len(memory_of(network).nothing) == 2, "a, b; c over a, d with its pooling, e the last"
    assert all(torch.equal(result, expected) for result, expected in results)


@pytest.mark.parametrize(
    "end", [lambda x: x, lambda x: x.flatten(1), lambda x: x[:, 1:].transpose(2, 3)]
)
def test_what_is_returned_is_not_written_over(end: Callable[[Tensor], Tensor]) -> None:
    network = fast(Chain(end))
    with torch.inference_mode():
        results = [(network(image(seed)), by_the_graph(network, image(seed))) for seed in range(4)]
    assert all(torch.equal(result, expected) for result, expected in results)


def test_other_sizes_types_and_formats_are_right() -> None:
    network = fast(Chain())
    with torch.inference_mode():
        network(image(0))
        for x in (image(1, 7), image(2, 20), image(3)):
            for format_ in (torch.contiguous_format, torch.channels_last):
                y = x.contiguous(memory_format=format_)
                torch.testing.assert_close(network(y), by_the_graph(network, y))
        assert has_memory(network)
        network.to(torch.bfloat16)
        x = image(4, dtype=torch.bfloat16)
        assert torch.equal(network(x), by_the_graph(network, x))


def test_a_size_that_comes_twice_in_a_row_gets_it() -> None:
    network = fast(Chain())
    with torch.inference_mode():
        network(image(0))
        memory = memory_of(network)
        held = memory.take([image(0)])
        for size, planned in ((8, 12), (12, 12), (8, 12), (8, 8), (12, 8), (8, 8), (8, 8)):
            x = image(1, size)
            assert torch.equal(network(x), by_the_graph(network, x))
            assert memory._plan is not None
            assert memory._plan.size[0][0] == (2, 8, planned, planned)
        assert held is not None
        memory.give_back(held)  # of a size that it is not for any more
        assert has_memory(network)
        assert torch.equal(network(x), by_the_graph(network, x))


def test_calls_at_the_same_time_do_not_share_it() -> None:
    network = fast(Chain())
    expected = [by_the_graph(network, image(seed)) for seed in range(2)]
    wrong = []

    def work(seed: int) -> None:
        with torch.inference_mode():
            for _ in range(200):
                if not torch.equal(network(image(seed)), expected[seed]):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert has_memory(network)


def test_while_it_is_taken_others_take_theirs_from_torch() -> None:
    network = fast(Chain())
    with torch.inference_mode():
        network(image(0))
        memory = memory_of(network)
        taken = memory.take([image(0)])
        assert taken is not memory.nothing
        assert memory.take([image(0)]) is memory.nothing
        assert torch.equal(network(image(1)), by_the_graph(network, image(1)))
        memory.give_back(taken)
        assert has_memory(network)


def test_a_hook_keeps_what_it_sees() -> None:
    network, kept = fast(Chain()), []
    with torch.inference_mode():
        network(image(0))
        for name in ("convs.1", "convs.4", "pool"):
            handle = network.get_submodule(name).register_forward_pre_hook(
                lambda module, args: kept.append((args[0], args[0].clone()))
            )
            network(image(1))
            network(image(2))
            handle.remove()
            network(image(3))
    assert len(kept) == 6
    assert all(torch.equal(tensor, then) for tensor, then in kept)


def test_an_error_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    network = fast(Chain())
    with torch.inference_mode():
        network(image(0))
        directly = type(network)._directly

        def fails(*args: object) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr(type(network), "_directly", (fails, memory_of(network)))
        with pytest.raises(RuntimeError, match="no"):
            network(image(0))
        monkeypatch.setattr(type(network), "_directly", directly)
        assert has_memory(network)
