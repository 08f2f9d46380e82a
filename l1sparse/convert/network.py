# SPDX-License-Identifier: MIT
"""`FastNetwork`: a traced network that calls its sparse convolutions with next to no Python.

A kernel of a tenth of a millisecond leaves little of Python's own memory in the caches, so that
what `torch.nn.Module` does around a call costs as much as a good part of the kernel.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, fx, nn
from torch._C._functorch import maybe_current_level
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from l1sparse.convert.direct_call import direct_call, hooks_of
from l1sparse.convert.linear import merge_linear
from l1sparse.convert.output_memory import Life, OutputMemory
from l1sparse.convert.pooled import merge_pooling
from l1sparse.convert.rewrite import remember
from l1sparse.convert.sequence import PlannedConv, merge_sequences
from l1sparse.nn import DenseConv2d, SparseConv2d

_POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


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
    # One attribute, so that no thread sees a function with the memory of another.
    _directly: ClassVar[tuple[Callable[..., Any], OutputMemory] | None] = None

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
    ready = cls._directly
    if ready is None:
        ready = cls._directly = _direct(self)
    directly, memory = ready
    outs = memory.take(args)
    if outs is None:
        return memory.plan(self, args)
    try:
        # Autograd's layers are Python for our operator, and have nothing to do.
        with torch._C._AutoDispatchBelowAutograd():
            return directly(self, outs, *args)
    finally:
        memory.give_back(outs)


def _direct(model: FastNetwork) -> tuple[Callable[..., Any], OutputMemory]:
    """A function that computes what the graph says, and the memory that is its first argument."""
    graph = copy.deepcopy(model.graph)
    merged = merge_pooling(model, graph) | merge_linear(model, graph)
    new = _new_tensors(model, graph) | {node: steps[-1] for node, steps in merged.items()}
    over_residual = {
        node: _last_to_see_its_residual(new, node)
        for node, module in new.items()
        if isinstance(module, SparseConv2d) and module.weight is None
    }
    calls = {
        node: direct_call(cast(SparseConv2d, new[node]), seen_by)
        for node, seen_by in over_residual.items()
    }
    held = _never_shared(new, over_residual)
    position = {node: i for i, node in enumerate(graph.nodes)}
    lives = []
    modules = [module for steps in merged.values() for module in steps]
    for first, nodes in held.items():
        touching = [other for node in nodes for other in (node, *node.users)]
        last = max(position[node] for node in touching)
        lives.append(Life(first.name, position[first], last))
        modules += [new[node] for node in touching]
    memory = OutputMemory(lives, hooks_of(modules))
    with graph.inserting_before(next(iter(graph.nodes))):
        outs = graph.placeholder("outs")
    for i, node in enumerate(held):
        with graph.inserting_before(node):
            node.kwargs = {"out": graph.call_function(operator.getitem, (outs, i))}
    for node, call in calls.items():
        node.op, node.target = "call_function", call
    merge_sequences(graph, outs, _planned(held, cast("dict[fx.Node, SparseConv2d]", new), calls))
    code = graph.python_code(root_module="self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<fast network>", "exec"), namespace)
    return namespace["forward"], memory


def _makes_new_tensor(module: nn.Module) -> bool:
    """Whether what `module` returns is known to share no memory with what it reads."""
    return isinstance(module, (SparseConv2d, DenseConv2d)) or type(module) in _POOLINGS


def _new_tensors(model: fx.GraphModule, graph: fx.Graph) -> dict[fx.Node, nn.Module]:
    """The nodes whose outputs are known to share no memory with their inputs, and their modules."""
    modules = {
        node: model.get_submodule(str(node.target))
        for node in graph.nodes
        if node.op == "call_module"
    }
    return {node: module for node, module in modules.items() if _makes_new_tensor(module)}


def _last_to_see_its_residual(
    new: Mapping[fx.Node, nn.Module], node: fx.Node
) -> list[nn.Module] | None:
    """The other modules that see the residual of `node`, if they all come before it.

    None where something sees it later, or it is not known to share no memory with anything else.
    `new` is what `_new_tensors` returns.
    """
    input, residual = (*node.args, None)[:2]
    if not isinstance(residual, fx.Node) or residual is input:
        return None
    others = [residual, *(user for user in residual.users if user is not node)]
    if not all(other in new and other < node for other in others):
        return None
    return [new[other] for other in others]


def _never_shared(
    new: Mapping[fx.Node, nn.Module], over_residual: Mapping[fx.Node, object | None]
) -> dict[fx.Node, list[fx.Node]]:
    """The sparse convolutions whose outputs nothing reads that may return a view of them.

    Args:
        new: what `_new_tensors` returns.
        over_residual: the sparse convolutions; not None for those that may write over their
            residual.

    Returns:
        Of each, the nodes whose outputs may lie in its output's memory: itself, one that writes
        over it, one that writes over that, and so on. Only the first may need memory of its own.
    """
    held: dict[fx.Node, list[fx.Node]] = {}
    for node, seen_by in over_residual.items():
        if seen_by is None:
            held[node] = [node]
            continue
        for nodes in held.values():
            if node.args[1] is nodes[-1]:
                nodes.append(node)
    return {
        first: nodes
        for first, nodes in held.items()
        if all(user in new for node in nodes for user in node.users)
    }


def _planned(
    held: Mapping[fx.Node, Sequence[fx.Node]],
    convs: Mapping[fx.Node, SparseConv2d],
    calls: Mapping[fx.Node, Callable[..., Tensor]],
) -> dict[fx.Node, PlannedConv]:
    """The convolutions that write to the outs, each by itself or over its residual."""
    return {
        node: PlannedConv(convs[node], calls[node], place, node is nodes[0])
        for place, nodes in enumerate(held.values())
        for node in nodes
    }


def _remembered(model: fx.GraphModule) -> dict[str, Any]:
    attributes: dict[str, Any] = model.meta.get(_USER_PRESERVED_ATTRIBUTES_KEY, {})
    return attributes


def _unpickled(
    make: Callable[..., fx.GraphModule], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> FastNetwork:
    network = FastNetwork.of(make(*arguments))
    remember(network, **attributes)
    return network
