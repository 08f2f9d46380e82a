# SPDX-License-Identifier: MIT
"""The changes to a network's structure, apart from how they are chosen.

`accelerate` chooses by measuring, `load` reads the choice from a file; both then call the same
functions, so a network read from a file has the structure of the one that was saved.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY
from torch.nn.utils import parametrize, prune

from l1sparse.convert.fuse import fuse_epilogues
from l1sparse.format import GroupShape
from l1sparse.nn import DenseConv2d, SparseConv2d


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with plain convolutions.

    Parametrizations (companion masks) and the masks of `torch.nn.utils.prune` become part of the
    weights, `SparseConv2d` becomes dense.
    """
    # A weight that torch's pruning computes is no leaf, which torch does not copy.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    result = copy.deepcopy(model, computed).eval()
    for name, module in list(result.named_modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
        if isinstance(module, SparseConv2d) and module.activation == "none" and name:
            result.set_submodule(name, module.to_dense())
        if parametrize.is_parametrized(module):
            _give_own_class(module)
            for tensor in list(module.parametrizations):
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    return result


def traced_and_folded(model: nn.Module) -> fx.GraphModule:
    """Trace `model` and fold each batch norm into the convolution before it.

    Args:
        model: in evaluation mode; it may share modules with the result.

    Raises:
        Exception: whatever `torch.fx` raises where the model can't be traced.
    """
    tracer = _Tracer()
    graph = tracer.trace(model)
    for node in graph.nodes:
        node.type = None  # a postponed annotation is a string, with which fx can't be pickled
    traced = fx.GraphModule(model, graph)
    # A convolution called twice has two outputs to normalise and one weight to fold them into.
    if max(_calls(traced).values(), default=0) > 1:
        return traced
    folded = fuse(traced, inplace=True, no_trace=True)
    assert isinstance(folded, fx.GraphModule)
    return folded


def optimised_graph(model: nn.Module) -> fx.GraphModule:
    """Trace `model`, fold batch norms, and give convolutions their residuals and activations.

    Every convolution of the result is a `DenseConv2d`, under the name it had.

    Args:
        model: in evaluation mode; it may share modules with the result.

    Raises:
        Exception: whatever `torch.fx` raises where the model can't be traced.
    """
    graph = traced_and_folded(model)
    fuse_epilogues(graph)
    return graph


def conv_names(model: nn.Module) -> list[str]:
    """Names of the convolutions that can be replaced."""
    return [name for name, module in model.named_modules() if _is_replaceable(module)]


def remember(model: nn.Module, **attributes: Any) -> None:
    """Set attributes that copies of `model` have too, which a traced network's else have not."""
    for name, value in attributes.items():
        setattr(model, name, value)
    if isinstance(model, fx.GraphModule):
        model.meta.setdefault(_USER_PRESERVED_ATTRIBUTES_KEY, {}).update(attributes)


def conv_inputs(
    model: nn.Module, names: list[str], example_input: Tensor
) -> dict[str, tuple[Any, ...]]:
    """The arguments of each convolution when the network runs on the example."""
    inputs: dict[str, tuple[Any, ...]] = {}

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.setdefault(name, args if args else (kwargs["input"],))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: note(name, args, kwargs),
            with_kwargs=True,
        )
        for name in names
    ]
    try:
        with torch.inference_mode():
            model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def make_sparse(model: nn.Module, name: str, group: GroupShape) -> SparseConv2d:
    """Replace the convolution called `name` by a `SparseConv2d` that has the same epilogue.

    Raises:
        ValueError: if there is no such convolution.
    """
    conv = dict(model.named_modules()).get(name)
    if isinstance(conv, SparseConv2d):
        return conv  # it applies an activation of its own, and so `inference_copy` left it
    if conv is None or not _is_replaceable(conv):
        raise ValueError(f"layer {name!r}: is {type(conv).__name__}, expected nn.Conv2d")
    sparse = sparse_like(conv, group)
    model.set_submodule(name, sparse)
    return sparse


def sparse_like(conv: nn.Module, group: GroupShape) -> SparseConv2d:
    """A `SparseConv2d` that computes what `conv` does, a plain convolution or a `DenseConv2d`."""
    assert isinstance(conv, nn.Conv2d)
    if not isinstance(conv, DenseConv2d):
        return SparseConv2d.from_dense(conv, group)
    sparse = SparseConv2d.from_dense(conv.to_plain(), group)
    sparse.activation, sparse.clamp = conv.activation, conv.clamp
    return sparse


def without_format_conversions(model: fx.GraphModule) -> None:
    """Take the conversions between memory formats out of a traced network; it is changed."""
    for node in list(model.graph.nodes):
        if node.op == "call_method" and node.target == "contiguous":
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
    model.recompile()


def _is_replaceable(module: nn.Module) -> bool:
    return type(module) in (nn.Conv2d, DenseConv2d)


def _give_own_class(module: nn.Module) -> None:
    # A parametrized module has a class made for it, which its copies share: removing the
    # parametrization from one deletes a property of that class, and so breaks the others.
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


class _Tracer(fx.Tracer):
    """Takes a convolution as one step, whatever subclass of `nn.Conv2d` it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def _calls(model: fx.GraphModule) -> Counter[str]:
    modules = dict(model.named_modules())
    return Counter(
        node.target
        for node in model.graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d)
    )
