# SPDX-License-Identifier: MIT
"""The changes to a network's structure, apart from how they are chosen.

`accelerate` chooses by measuring, `load` reads the choice from a file; both then call the same
functions, so a network read from a file has the structure of the one that was saved.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrize

from l1sparse.format import GroupShape
from l1sparse.nn import SparseConv2d

_RELU_FUNCTIONS = (torch.relu, torch.relu_, F.relu, F.relu_)
_RELU_METHODS = ("relu", "relu_")


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with plain convolutions.

    Parametrizations (companion masks) become part of the weights, `SparseConv2d` becomes dense.
    """
    result = copy.deepcopy(model).eval()
    for name, module in list(result.named_modules()):
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
    traced = fx.GraphModule(model, graph)
    # A convolution called twice has two outputs to normalise and one weight to fold them into.
    if max(_calls(traced).values(), default=0) > 1:
        return traced
    folded = fuse(traced, inplace=True, no_trace=True)
    assert isinstance(folded, fx.GraphModule)
    return folded


def conv_names(model: nn.Module) -> list[str]:
    """Names of the modules that are plain `nn.Conv2d`, and so can be replaced."""
    return [name for name, module in model.named_modules() if type(module) is nn.Conv2d]


def following_relu(model: fx.GraphModule, name: str) -> fx.Node | None:
    """The ReLU that is the only user of the module called `name`, if there is one."""
    calls = [n for n in model.graph.nodes if n.op == "call_module" and n.target == name]
    if len(calls) != 1 or len(calls[0].users) != 1:
        return None
    (user,) = calls[0].users
    is_relu = (
        (user.op == "call_module" and type(model.get_submodule(user.target)) is nn.ReLU)
        or (user.op == "call_function" and user.target in _RELU_FUNCTIONS)
        or (user.op == "call_method" and user.target in _RELU_METHODS)
    )
    return user if is_relu else None


def make_sparse(model: nn.Module, name: str, group: GroupShape, fuse_relu: bool) -> SparseConv2d:
    """Replace the convolution called `name` by a `SparseConv2d`, ReLU fused if wanted.

    Raises:
        ValueError: if there is no such convolution, or no ReLU to fuse.
    """
    conv = dict(model.named_modules()).get(name)
    if isinstance(conv, SparseConv2d) and (conv.activation == "relu") == fuse_relu:
        return conv  # it applies its own ReLU, and so `inference_copy` left it as it was
    if conv is None or type(conv) is not nn.Conv2d:
        raise ValueError(f"layer {name!r}: is {type(conv).__name__}, expected nn.Conv2d")
    sparse = SparseConv2d.from_dense(conv, group)
    if fuse_relu:
        relu = following_relu(model, name) if isinstance(model, fx.GraphModule) else None
        if relu is None:
            raise ValueError(f"layer {name!r}: is not followed by a ReLU, expected one to fuse")
        sparse.activation = "relu"
        relu.replace_all_uses_with(relu.all_input_nodes[0])
        model.graph.erase_node(relu)  # type: ignore[union-attr, operator]
        model.recompile()  # type: ignore[operator]
        model.delete_all_unused_submodules()  # type: ignore[operator]
    model.set_submodule(name, sparse)
    return sparse


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
