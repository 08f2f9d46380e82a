# SPDX-License-Identifier: MIT
"""A convolution and the max pooling after it in one pass.

What the convolution gives is pooled strip by strip while it is in the caches, instead of being
written to memory and read again; and torch pools NCHW slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.utils import _pair

from l1sparse.convert.direct_call import hooks_of
from l1sparse.convert.measure import fastest_at_first
from l1sparse.convert.steps import input_for_one, module_of
from l1sparse.nn import DenseConv2d, SparseConv2d
from l1sparse.ops import packed_info


def merge_pooling(model: fx.GraphModule, graph: fx.Graph) -> dict[fx.Node, Sequence[nn.Module]]:
    """Compute convolutions together with the max pooling that alone reads them.

    Args:
        model: holds the modules.
        graph: of `model`; it is changed.

    Returns:
        The nodes that do so, with the modules that they run.
    """
    merged: dict[fx.Node, Sequence[nn.Module]] = {}
    for node in list(graph.nodes):
        pool, before = module_of(model, node), input_for_one(node)
        if not _is_plain(pool) or len(node.args) != 1 or node.kwargs or before is None:
            continue
        conv = module_of(model, before)
        if len(before.args) != 1 or before.kwargs or not _is_native(conv):
            continue
        with graph.inserting_before(node):
            new = graph.call_function(pooled_call(conv, pool), before.args)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        graph.erase_node(before)
        merged[new] = [conv, pool]
    return merged


def pooled_call(conv: DenseConv2d | SparseConv2d, pool: nn.MaxPool2d) -> Callable[[Tensor], Tensor]:
    """A function that computes ``pool(conv(input))``, for inference below autograd.

    Its first call measures which way is faster: the modules one after the other, or the native
    operator, which gives NCHW. With hooks, other memory formats, and where the native operator
    can't run it, it is the modules.
    """
    hooks = hooks_of([conv, pool])
    kernel, padding = list(_pair(pool.kernel_size)), list(_pair(pool.padding))
    step = list(_pair(pool.stride))
    shape = [conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size]

    def by_modules(input: Tensor) -> Tensor:
        output: Tensor = pool(conv(input))
        return output

    def native(input: Tensor) -> Tensor:
        packed = conv.packed_weight() if isinstance(conv, DenseConv2d) else conv.packed
        output: Tensor = torch.ops.l1sparse.sparse_conv2d_max_pool(
            input,
            packed,
            shape,
            conv.bias,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.activation,
            *conv.clamp,
            kernel,
            step,
            padding,
        )
        return output

    fastest = fastest_at_first({"modules": by_modules, "native": native})

    def call(input: Tensor) -> Tensor:
        if any(hooks) or not _can_be_native(conv, input):
            return by_modules(input)
        return fastest(input)

    return call


def _can_be_native(conv: DenseConv2d | SparseConv2d, input: Tensor) -> bool:
    plain = input.dim() == 4 and input.is_contiguous() and input.is_cpu
    return plain and (isinstance(conv, SparseConv2d) or conv.can_be_prepacked(input))


def _is_native(conv: nn.Module | None) -> TypeGuard[DenseConv2d | SparseConv2d]:
    """Whether the native operator has this convolution."""
    if isinstance(conv, DenseConv2d):
        return conv.way == "prepacked" and not isinstance(conv.padding, str)
    if not isinstance(conv, SparseConv2d) or conv.weight is not None:
        return False
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and packed_info(conv.packed).strategy != "channels"


def _is_plain(pool: nn.Module | None) -> TypeGuard[nn.MaxPool2d]:
    """Whether the native operator has this pooling."""
    if not isinstance(pool, nn.MaxPool2d) or pool.return_indices or pool.ceil_mode:
        return False
    return pool.dilation in (1, (1, 1))
