# SPDX-License-Identifier: MIT
"""A traced network that calls its operators directly computes what its graph says."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, fx, nn

from l1sparse import SparseConv2d
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
    torch.manual_seed(0)
    graph = optimised_graph(Block().eval())
    for name in ("first", "inner.0", "last", "gate"):
        conv = graph.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
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
        SparseConv2d(8, 8, 1).direct_call()


@torch.no_grad()
def test_the_direct_call_takes_whatever_the_module_takes() -> None:
    for padding, mode in (("same", "zeros"), (1, "reflect"), (1, "zeros")):
        layer = SparseConv2d(8, 8, 3, padding=padding, padding_mode=mode).eval()
        call = layer.drop_dense_weight().direct_call()
        for x in (torch.randn(2, 8, 6, 6), torch.randn(8, 6, 6)):
            assert torch.equal(call(x), layer(x))
