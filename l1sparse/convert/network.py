# SPDX-License-Identifier: MIT
"""`FastNetwork`: a traced network that calls its sparse convolutions with next to no Python.

A kernel of a tenth of a millisecond leaves little of Python's own memory in the caches, so that
what `torch.nn.Module` does around a call costs as much as a good part of the kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch._C._functorch import maybe_current_level
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from l1sparse.convert.pooled import merge_pooling
from l1sparse.convert.rewrite import remember
from l1sparse.nn import DenseConv2d, SparseConv2d


class FastNetwork(fx.GraphModule):
    """A graph module whose inference calls the operators of its sparse convolutions directly.

    It is used like any `fx.GraphModule`, which it is: its graph says what it computes, and where
    gradients are wanted or something traces it, that is what runs.

    Args:
        root: holds the modules that `graph` calls.
        graph: of a network for inference.
        class_name: what it calls itself.
    """

    # Both belong to one instance: fx makes a class for each.
    _by_the_graph: ClassVar[Callable[..., Any]]
    _directly: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def of(cls, model: fx.GraphModule) -> FastNetwork:
        """`model` as a fast network; they share their modules."""
        network = cls(model, model.graph, type(model).__name__)
        remember(network, **_remembered(model))
        return network

    def recompile(self) -> Any:
        """As `fx.GraphModule.recompile`."""
        code = super().recompile()
        cls = type(self)
        cls._by_the_graph, cls._directly = cls.__call__, None
        cls.__call__ = _call  # type: ignore[method-assign]
        return code

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        """As `torch.nn.Module.set_submodule`."""
        super().set_submodule(target, module, strict)
        type(self)._directly = None

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments = super().__reduce__()
        return _unpickled, (make, arguments, _remembered(self))


def _call(self: FastNetwork, *args: Any, **kwargs: Any) -> Any:
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or maybe_current_level() is not None  # inside of a transform of torch.func
        or self._forward_hooks
        or self._forward_pre_hooks
        or kwargs
        or not all(type(x) is Tensor for x in args)
    ):
        return self._by_the_graph(*args, **kwargs)
    cls = type(self)
    if cls._directly is None:
        cls._directly = _direct(self)
    # Autograd's layers are Python for our operator, and have nothing to do.
    with torch._C._AutoDispatchBelowAutograd():
        return cls._directly(self, *args)


def _direct(model: FastNetwork) -> Callable[..., Any]:
    """A function that computes what the graph says."""
    graph = copy.deepcopy(model.graph)
    merge_pooling(model, graph)
    calls: dict[fx.Node, Callable[..., Any]] = {}
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        module = model.get_submodule(node.target)
        if isinstance(module, SparseConv2d) and module.weight is None:
            calls[node] = module.direct_call(_last_to_see_its_residual(model, node))
    for node, call in calls.items():
        node.op, node.target = "call_function", call
    code = graph.python_code(root_module="self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<fast network>", "exec"), namespace)
    return namespace["forward"]  # type: ignore[no-any-return]


def _last_to_see_its_residual(model: fx.GraphModule, node: fx.Node) -> list[nn.Module] | None:
    """The other convolutions that see the residual of `node`, if they all come before it.

    Between convolutions it is known that no output shares memory with an input. None where
    anything else sees the residual, or something does later.
    """
    input, residual = (*node.args, None)[:2]
    if not isinstance(residual, fx.Node) or residual is input:
        return None
    others = [residual, *(user for user in residual.users if user is not node)]
    modules = [
        model.get_submodule(other.target)
        for other in others
        if other.op == "call_module" and isinstance(other.target, str)
    ]
    convolutions = all(isinstance(module, (SparseConv2d, DenseConv2d)) for module in modules)
    before = all(other < node for other in others)
    return modules if len(modules) == len(others) and convolutions and before else None


def _remembered(model: fx.GraphModule) -> dict[str, Any]:
    attributes: dict[str, Any] = model.meta.get(_USER_PRESERVED_ATTRIBUTES_KEY, {})
    return attributes


def _unpickled(
    make: Callable[..., fx.GraphModule], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> FastNetwork:
    network = FastNetwork.of(make(*arguments))
    remember(network, **attributes)
    return network
