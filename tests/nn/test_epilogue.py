# SPDX-License-Identifier: MIT
"""`SparseConv2d` with a residual and each activation: outputs and gradients, in every mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l1sparse import SparseConv2d
from l1sparse.ops import ACTIVATIONS
from l1sparse.reference import activate

LIMITS = (-0.25, 0.5)


def layer(activation: str) -> SparseConv2d:
    made = SparseConv2d(16, 8, 3, padding=1, activation=activation, clamp=LIMITS)
    made.mask = torch.rand(made.mask.shape) < 0.5
    return made


def expected(made: SparseConv2d, x: Tensor, residual: Tensor | None) -> Tensor:
    output = torch.nn.functional.conv2d(x, made.masked_weight(), made.bias, padding=1)
    return activate(output if residual is None else output + residual, made.activation, *LIMITS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [None, (2, 8, 5, 4), (8, 1, 1)])
def test_outputs_and_gradients_are_those_of_torch(
    activation: str, shape: tuple[int, ...] | None
) -> None:
    made = layer(activation)
    x = torch.randn(2, 16, 5, 4, requires_grad=True)
    residual = None if shape is None else torch.randn(shape, requires_grad=True)
    inputs = [t for t in (x, residual, made.weight, made.bias) if t is not None]
    reference = expected(made, x, residual)
    weights = torch.randn_like(reference)
    wanted = torch.autograd.grad((reference * weights).sum(), inputs)
    for training in (True, False):
        output = made.train(training)(x, residual)
        torch.testing.assert_close(output, reference, rtol=0, atol=1e-5)
        found = torch.autograd.grad((output * weights).sum(), inputs)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    with torch.inference_mode():
        output = made.drop_dense_weight()(x, residual)
        torch.testing.assert_close(output, reference, rtol=0, atol=1e-5)


def test_an_image_without_a_batch_takes_a_residual_without_one() -> None:
    made, x, residual = layer("relu").eval(), torch.randn(16, 5, 4), torch.randn(8, 5, 4)
    torch.testing.assert_close(made(x, residual), expected(made, x, residual), rtol=0, atol=1e-5)


def test_the_limits_of_clamp_are_checked_and_shown() -> None:
    with pytest.raises(ValueError, match=r"clamp: got \(2.0, 1.0\)"):
        SparseConv2d(8, 8, 3, activation="clamp", clamp=(2.0, 1.0))
    assert "activation=clamp, clamp=(-0.25, 0.5)" in repr(layer("clamp"))
