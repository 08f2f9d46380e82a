# SPDX-License-Identifier: MIT
"""The packed convolution with a gradient for the dense weight it was packed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from l1sparse.ops import call_sparse_conv2d, conv2d_gradients


class PackedConv2dFunction(torch.autograd.Function):
    """Forward through the packed weight, backward as `nn.Conv2d`'s with a masked weight gradient.

    So a module in evaluation mode is fast without ``torch.no_grad()`` and still trains as
    `nn.Conv2d` does there (fine-tuning with frozen batch-norm statistics, for example).
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor,
        packed: Tensor,
        geometry: Sequence[Any],
        activation: str,
    ) -> Tensor:
        """Run `sparse_conv2d`; `mask` is bool, of the weight's shape."""
        output = call_sparse_conv2d(
            input, packed, weight.shape, bias, geometry, activation=activation
        )
        saved_output = output if activation == "relu" else None
        ctx.save_for_backward(input, weight, mask, saved_output)
        ctx.geometry = geometry
        ctx.has_bias = bias is not None
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for input, weight (0 where pruned) and bias."""
        input, weight, mask, output = ctx.saved_tensors
        masked = torch.where(mask, weight, torch.zeros_like(weight))
        input_shape = input.shape if ctx.needs_input_grad[0] else None
        grad_input, grad = conv2d_gradients(grads[0], masked, input_shape, ctx.geometry, output)
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            dense = conv2d_weight(input, list(weight.shape), grad, *ctx.geometry)
            grad_weight = torch.where(mask, dense, torch.zeros_like(dense))
        if ctx.has_bias:
            grad_bias = grad.sum((0, 2, 3))
        return grad_input, grad_weight, grad_bias, None, None, None, None
