# SPDX-License-Identifier: MIT
"""A dense convolution and the max pooling after it, in oneDNN's own memory format in between.

Torch pools channels_last slowly and NCHW far slower; oneDNN does neither, and what it pooled
becomes NCHW at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from l1sparse.convert.direct_call import hooks_of
from l1sparse.convert.measure import alternate
from l1sparse.nn import DenseConv2d

# Activations that ascend, so that they may as well come after the pooling, on fewer numbers, with
# their least and greatest value (None: the convolution's). Without one of them a NaN could be seen,
# which oneDNN's pooling passes over as its activations do.
_LIMITS: dict[str, tuple[float | None, float | None] | None] = {
    "relu": (0.0, None),
    "relu6": (0.0, 6.0),
    "clamp": None,
}


def merge_pooling(model: fx.GraphModule, graph: fx.Graph) -> None:
    """Compute a convolution together with the pooling that alone reads it and gives NCHW.

    Args:
        model: holds the modules.
        graph: of `model`; it is changed.
    """
    for node in list(graph.nodes):
        is_nchw = node.kwargs.get("memory_format") == torch.contiguous_format
        if node.op != "call_method" or node.target != "contiguous" or not is_nchw:
            continue
        pool = node.args[0]
        pool_module = _module_for_one(model, pool)
        if pool_module is None or len(pool.args) != 1:
            continue
        conv = pool.args[0]
        conv_module = _module_for_one(model, conv)
        if len(conv.args) != 1 or not _is_prepacked(conv_module) or not _is_plain(pool_module):
            continue
        with graph.inserting_before(node):
            merged = graph.call_function(pooled_call(conv_module, pool_module), conv.args)
        node.replace_all_uses_with(merged)
        for replaced in (node, pool, conv):
            graph.erase_node(replaced)


def pooled_call(conv: DenseConv2d, pool: nn.MaxPool2d) -> Callable[[Tensor], Tensor]:
    """A function that computes ``pool(conv(input))`` as NCHW, for inference.

    Its first call measures which way is faster: the modules one after the other, or oneDNN's own
    memory format in between. With hooks, and where oneDNN can't run it, it is the modules.
    """
    hooks = hooks_of([conv, pool])
    fastest: Callable[[Tensor], Tensor] | None = None

    def by_modules(input: Tensor) -> Tensor:
        output: Tensor = pool(conv(input))
        return output.contiguous()

    def by_onednn(input: Tensor) -> Tensor:
        weight = conv.reordered_weight(input)
        assert not isinstance(conv.padding, str)
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        convolved = F.conv2d(input.to_mkldnn(), weight, None, *geometry)
        output: Tensor = pool(convolved).to_dense()
        if conv.bias is not None:
            output.add_(conv.bias[:, None, None])
        return output.clamp_(*(_LIMITS[conv.activation] or conv.clamp))

    def call(input: Tensor) -> Tensor:
        nonlocal fastest
        if any(hooks) or not conv.can_be_prepacked(input):
            return by_modules(input)
        if fastest is None:
            ways = {"modules": by_modules, "oneDNN": by_onednn}
            times = alternate({name: partial(way, input) for name, way in ways.items()}, rounds=7)
            fastest = ways[min(times, key=lambda name: times[name].median)]
        return fastest(input)

    return call


def _module_for_one(model: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that `node` calls, if one other node alone reads what it returns."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) != 1:
        return None
    return model.get_submodule(str(node.target))


def _is_prepacked(conv: nn.Module | None) -> TypeGuard[DenseConv2d]:
    return isinstance(conv, DenseConv2d) and conv.way == "prepacked" and conv.activation in _LIMITS


def _is_plain(pool: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    """Whether oneDNN has this pooling."""
    plain = isinstance(pool, nn.MaxPool2d) and not pool.return_indices
    return plain and pool.dilation in (1, (1, 1))
