# SPDX-License-Identifier: MIT
"""A sparse convolution as a function, for networks whose layers take a tenth of a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l1sparse.nn import SparseConv2d


def hooks_of(modules: Iterable[nn.Module]) -> list[Mapping[int, Any]]:
    """Where `modules` keep the hooks of their forward pass; what is registered later is seen."""
    return [
        hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]


def direct_call(
    conv: SparseConv2d, residual_seen_by: Collection[nn.Module] | None = None
) -> Callable[..., Tensor]:
    """A function that computes what `conv` does, with the least Python around the operator.

    It takes input, residual (or None) and ``out``: None, or a contiguous tensor of the output's
    shape, dtype and memory format, for the output.

    It is for inference without gradients, after ``drop_dense_weight()``; the caller has to exclude
    autograd's dispatch keys. It sees hooks, and new tensors under ``packed`` and ``bias``, but
    no other change of the module's attributes.

    Args:
        conv: the module.
        residual_seen_by: where nothing reads the residual after the call, the other modules
            that return or take it: the output is then written over it, unless one of them has
            hooks, which may have kept it. None: the residual stays as it is.

    Raises:
        RuntimeError: if the module still has its dense weight.
    """
    if conv.weight is not None:
        raise RuntimeError("weight: is not None, call drop_dense_weight() first")
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return lambda x, residual=None, out=None: conv(x, residual)
    operator = torch.ops.l1sparse.sparse_conv2d.default._op
    operator_into = torch.ops.l1sparse.sparse_conv2d_into.default._op
    overwrites = residual_seen_by is not None
    hooks_on_residual = hooks_of(residual_seen_by or ())
    buffers, parameters = conv._buffers, conv._parameters
    hooks = hooks_of([conv])
    filters, shape = conv.out_channels, list(conv.weight_shape)
    stride, padding, dilation = list(conv.stride), list(conv.padding), list(conv.dilation)
    groups, activation, (least, greatest) = conv.groups, conv.activation, conv.clamp
    step_y, step_x = stride
    more_y, more_x = (
        2 * p - d * (k - 1) - 1 for p, d, k in zip(padding, dilation, conv.kernel_size, strict=True)
    )

    def call(input: Tensor, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        plain = input.dim() == 4 and not any(hooks)
        if plain and residual is not None:
            n, _, height, width = input.shape
            size = n, filters, (height + more_y) // step_y + 1, (width + more_x) // step_x + 1
            plain = residual.shape == size and residual.dtype == input.dtype
        if not plain:
            return conv(input, residual)
        arguments = (
            input,
            buffers["packed"],
            shape,
            parameters["bias"],
            stride,
            padding,
            dilation,
            groups,
            residual,
            activation,
            least,
            greatest,
        )
        if (
            overwrites
            and residual is not None
            and residual.is_cpu
            and residual.is_contiguous() == input.is_contiguous()  # else it has to be copied
            and not any(hooks_on_residual)
        ):
            out = residual
        if out is None:
            return operator(*arguments, "auto")
        operator_into(*arguments, out)
        return out

    return call
