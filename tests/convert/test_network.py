# SPDX-License-Identifier: MIT
"""A traced network that calls its operators directly computes what its graph says."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile

from l1sparse import SparseConv2d
from l1sparse.convert.direct_call import direct_call
from l1sparse.convert.network import FastNetwork
from l1sparse.convert.rewrite import make_sparse, optimised_graph
from l1sparse.format import GroupShape


class Block(nn.Module):
    """Sparse convolutions with and without a residual, one of them broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.ReLU())
        self.last = nn.Conv2d(16, 16, 1)
        self.gate = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.last(self.inner(x)) + x)
        pooled = x.mean((2, 3), keepdim=True)
        return torch.relu(self.gate(x) + pooled)


class ModulesAsSteps(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@pytest.fixture
def fast() -> FastNetwork:
    return pruned(Block())


def pruned(model: nn.Module, but: Collection[str] = ()) -> FastNetwork:
    """All convolutions sparse `but` these."""
    torch.manual_seed(0)
    graph = optimised_graph(model.eval())
    for name, conv in [*graph.named_modules()]:
        if not isinstance(conv, nn.Conv2d) or name in but:
            continue
        keep = torch.rand(conv.weight.shape[0], conv.weight.shape[1] // 8, 1, 1) < 0.5
        conv.weight.data *= keep.repeat_interleave(8, 1)
        make_sparse(graph, name, GroupShape(1, 8)).eval().drop_dense_weight()
    return FastNetwork.of(graph)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(1))


def by_the_graph(fast: fx.GraphModule, x: Tensor) -> Tensor:
    with torch.no_grad():
        return fx.Interpreter(fast).run(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_its_graph_says(
    fast: FastNetwork, image: Tensor, mode: type, dtype: torch.dtype
) -> None:
    fast.to(dtype)
    expected = by_the_graph(fast, image.to(dtype))
    with mode():
        for _ in range(2):
            assert torch.equal(fast(image.to(dtype)), expected)
        other = torch.randn(1, 8, 5, 5).to(dtype)
        assert torch.equal(fast(other), by_the_graph(fast, other))
    assert type(fast)._directly is not None, "it took the long way"


def test_gradients_go_through_the_graph(fast: FastNetwork, image: Tensor) -> None:
    image.requires_grad_()
    fast(image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_fast_networks_of_their_own(
    fast: FastNetwork, image: Tensor, copied: type
) -> None:
    with torch.no_grad():
        expected = fast(image)
        other = copied(fast)
        assert isinstance(other, FastNetwork)
        other.get_submodule("gate").bias += 1.0
        assert not torch.equal(other(image), expected)
        assert torch.equal(fast(image), expected)


@torch.no_grad()
def test_changes_of_a_layer_are_seen(fast: FastNetwork, image: Tensor) -> None:
    before = fast(image)
    layer = fast.get_submodule("last")
    assert isinstance(layer, SparseConv2d)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    assert torch.equal(fast(image), before)
    assert len(seen) == 1
    handle.remove()

    state = {name: tensor.clone() for name, tensor in fast.state_dict().items()}
    state["last.packed"] = fast.get_submodule("gate").packed.clone()  # of the same shape
    fast.load_state_dict(state)
    loaded = fast(image)
    assert not torch.equal(loaded, before)
    assert torch.equal(loaded, by_the_graph(fast, image))

    fast.set_submodule("inner.0", nn.Identity())
    assert torch.equal(fast(image), by_the_graph(fast, image))


@torch.no_grad()
def test_transforms_and_tracers_get_the_graph(fast: FastNetwork, image: Tensor) -> None:
    expected = fast(image)
    mapped = torch.func.vmap(fast)(image.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(mapped, expected)
    again = fx.GraphModule(fast, ModulesAsSteps().trace(fast))
    assert len(again.graph.nodes) == len(fast.graph.nodes)
    assert torch.equal(again(image), expected)
    exported = torch.export.export(fast, (image,)).module()
    assert torch.equal(exported(image), expected)


def test_a_layer_with_its_dense_weight_has_no_direct_call() -> None:
    with pytest.raises(RuntimeError, match=r"weight: .*drop_dense_weight"):
        direct_call(SparseConv2d(8, 8, 1))


@torch.no_grad()
def test_the_direct_call_takes_whatever_the_module_takes() -> None:
    for padding, mode in (("same", "zeros"), (1, "reflect"), (1, "zeros")):
        layer = SparseConv2d(8, 8, 3, padding=padding, padding_mode=mode).eval()
        call = direct_call(layer.drop_dense_weight())
        for x in (torch.randn(2, 8, 6, 6), torch.randn(8, 6, 6)):
            assert torch.equal(call(x), layer(x))


class Shortcut(nn.Module):
    """Adds the output of `first` to that of the last convolution; `also` sees it too."""

    def __init__(self, also: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.inner, self.last = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.also = also

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = torch.relu(self.last(self.inner(x)) + x)
        return y if self.also is None else self.also(x, y)


class FirstIsItself(Shortcut):
    """Its residual is the last convolution's input too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.relu(self.last(x) + x)


class ReadByAConvolution(Shortcut):
    """Another convolution takes the residual after the one that adds it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = torch.relu(self.last(self.inner(x)) + x).mean((2, 3), keepdim=True)
        return y + self.inner(x)


class WithAView(Shortcut):
    """A view of the residual is used after it, and one of the input is the residual."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x).flatten(2)
        x = torch.relu(self.last(self.inner(x)) + x)
        return x + rows.view_as(x)


RESIDUAL = 8  # of the operator's arguments


def written_over(fast: FastNetwork, x: Tensor) -> int:
    """How many residuals a call writes over."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as events:
        fast(x)
    into = [e for e in events.events() if e.name == "l1sparse::sparse_conv2d_into"]
    return sum(bool(event.input_shapes[RESIDUAL]) for event in into)


@torch.no_grad()
@pytest.mark.parametrize("but", [(), ("first",)])
@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
def test_an_output_takes_the_place_of_a_residual_that_nothing_reads_again(
    image: Tensor, but: tuple[str, ...], format_: torch.memory_format
) -> None:
    fast = pruned(Shortcut(), but)
    image = image.contiguous(memory_format=format_)
    expected = by_the_graph(fast, image)
    assert torch.equal(fast(image), expected)
    assert torch.equal(fast(image), expected)
    assert written_over(fast, image) == 1


@torch.no_grad()
@pytest.mark.parametrize(
    "model",
    [
        Shortcut(lambda x, y: x + y),
        Shortcut(lambda x, y: y.flatten(1) + x.flatten(1)),
        FirstIsItself(),
        ReadByAConvolution(),
        WithAView(),
    ],
)
def test_a_residual_that_is_read_again_stays(image: Tensor, model: nn.Module) -> None:
    fast = pruned(model)
    before = image.clone()
    expected = by_the_graph(fast, image)
    assert torch.equal(fast(image), expected)
    assert torch.equal(image, before)
    assert written_over(fast, image) == 0


@torch.no_grad()
@pytest.mark.parametrize("layer", ["first", "inner", "last"])
def test_what_a_hook_keeps_stays(image: Tensor, layer: str) -> None:
    fast = pruned(Shortcut())
    expected = fast(image)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensors = [x for x in (*inputs, output) if x is not None]
        kept.extend((tensor, tensor.clone()) for tensor in tensors)

    hook = fast.get_submodule(layer).register_forward_hook(keep)
    assert torch.equal(fast(image), expected)
    assert len(kept) >= 2
    assert all(torch.equal(tensor, then) for tensor, then in kept)
    assert written_over(fast, image) == 0
    hook.remove()
    assert written_over(fast, image) == 1
