# SPDX-License-Identifier: MIT
"""A linear layer for few images, whose time is that of reading its weight from memory.

Torch's matrix products read a weight at half of the speed that memory has. The average pooling
before a classifier runs in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from l1sparse.convert.direct_call import hooks_of
from l1sparse.convert.measure import fastest_at_first
from l1sparse.convert.steps import input_for_one, module_of


def merge_linear(model: fx.GraphModule, graph: fx.Graph) -> dict[fx.Node, Sequence[nn.Module]]:
    """Compute linear layers in the faster of two ways, with the average pooling before them.

    Args:
        model: holds the modules.
        graph: of `model`; it is changed.

    Returns:
        The nodes that do so, with the modules that they run.
    """
    merged: dict[fx.Node, Sequence[nn.Module]] = {}
    for node in list(graph.nodes):
        linear = module_of(model, node)
        if type(linear) is not nn.Linear or len(node.args) != 1 or node.kwargs:
            continue
        flatten = input_for_one(node)
        modules: Sequence[nn.Module] = [linear]
        replaced, source = [node], node.args[0]
        if flatten is not None and _flattens(model, flatten):
            average = input_for_one(flatten)
            pool = module_of(model, average)
            if average is not None and _averages_all(pool) and len(average.args) == 1:
                flattening = module_of(model, flatten)
                modules = [m for m in (pool, flattening, linear) if m is not None]
                replaced, source = [node, flatten, average], average.args[0]
        with graph.inserting_before(node):
            new = graph.call_function(linear_call(modules), (source,))
        node.replace_all_uses_with(new)
        for old in replaced:
            graph.erase_node(old)
        merged[new] = modules
    return merged


def linear_call(modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """A function for inference below autograd that computes what these modules do.

    Its first call measures which way is faster: the modules, or the native operator. With hooks,
    and for anything but float32 on the CPU, it is the modules.

    Args:
        modules: a linear layer alone, or after an average pooling to 1x1, with or without an
            `nn.Flatten` between them; what the pooling gives is flattened either way.
    """
    linear = modules[-1]
    assert isinstance(linear, nn.Linear)
    hooks = hooks_of(modules)
    dims = 2 if len(modules) == 1 else 4

    def by_modules(input: Tensor) -> Tensor:
        for module in modules[:-1]:
            input = module(input)
        output: Tensor = linear(input.flatten(1) if dims == 4 else input)
        return output

    def native(input: Tensor) -> Tensor:
        output: Tensor = torch.ops.l1sparse.linear(input, linear.weight, linear.bias)
        return output

    def can_be_native(input: Tensor) -> bool:
        weight = linear.weight
        return (
            input.dim() == dims
            and input.numel() > 0
            and input.dtype == weight.dtype == torch.float32
            and input.is_cpu
            and weight.is_cpu
            and not torch.is_autocast_enabled("cpu")
        )

    fastest = fastest_at_first({"modules": by_modules, "native": native})

    def call(input: Tensor) -> Tensor:
        if any(hooks) or not can_be_native(input):
            return by_modules(input)
        return fastest(input)

    return call


def _averages_all(pool: nn.Module | None) -> bool:
    return type(pool) is nn.AdaptiveAvgPool2d and pool.output_size in (1, (1, 1))


def _flattens(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` makes ``[N, C]`` of ``[N, C, 1, 1]``."""
    if node.op == "call_module":
        flatten = module_of(model, node)
        return isinstance(flatten, nn.Flatten) and (flatten.start_dim, flatten.end_dim) == (1, -1)
    by_function = node.op == "call_function" and node.target is torch.flatten
    by_method = node.op == "call_method" and node.target == "flatten"
    arguments = node.args[1:], dict(node.kwargs)
    return (by_function or by_method) and arguments in (((1,), {}), ((), {"start_dim": 1}))
