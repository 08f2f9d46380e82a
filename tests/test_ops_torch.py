# SPDX-License-Identifier: MIT
"""The operators as torch sees them: `opcheck`, gradients, fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import group_l1_norm, pack, reference, sparse_conv2d, unpack
from l1sparse.group_mask import expand_group_mask
from l1sparse.ops import conv2d_gradients

OPS = torch.ops.l1sparse
GRID_MASK = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
FULL_MASK = expand_group_mask(GRID_MASK, (6, 10, 3, 3), (1, 8))
GEOMETRY = ([2, 1], [1, 0], [1, 2], 2)  # stride, padding, dilation, groups


def weight() -> Tensor:
    return torch.randn(6, 10, 3, 3)


def conv_arguments(grad: bool) -> tuple[Any, ...]:
    input = torch.randn(2, 20, 9, 9, requires_grad=grad)
    bias = torch.randn(6, requires_grad=grad)
    residual = torch.randn(2, 6, 5, 5, requires_grad=grad)
    return (input, pack(weight(), GRID_MASK), [6, 10, 3, 3], bias, *GEOMETRY, residual)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("group", [[1, 8], [4, 3]])
def test_opcheck_group_l1_norm(group: list[int], grad: bool) -> None:
    torch.library.opcheck(OPS.group_l1_norm, (weight().requires_grad_(grad), group))


@pytest.mark.parametrize("mask", [GRID_MASK, FULL_MASK])
def test_opcheck_pack(mask: Tensor) -> None:
    torch.library.opcheck(OPS.pack, (weight(), mask, [1, 8]))


def test_opcheck_unpack() -> None:
    torch.library.opcheck(OPS.unpack, (pack(weight(), GRID_MASK), [6, 10, 3, 3]))


def test_opcheck_packed_info() -> None:
    # Its result is in the bytes and no tensor, so there is nothing to trace.
    checks = ("test_schema", "test_autograd_registration")
    torch.library.opcheck(OPS.packed_info, (pack(weight()),), test_utils=checks)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_opcheck_sparse_conv2d(activation: str, grad: bool) -> None:
    torch.library.opcheck(OPS.sparse_conv2d.default, (*conv_arguments(grad), activation))


def test_opcheck_sparse_conv2d_on_channels_last_without_bias_and_residual() -> None:
    input = torch.randn(2, 10, 9, 9).contiguous(memory_format=torch.channels_last)
    packed = pack(weight(), GRID_MASK)
    torch.library.opcheck(
        OPS.sparse_conv2d.default, (input.requires_grad_(), packed, [6, 10, 3, 3])
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("residual", [None, "own", "out"])
def test_opcheck_sparse_conv2d_into(channels_last: bool, residual: str | None) -> None:
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    input = torch.randn(2, 10, 9, 9).contiguous(memory_format=format_)
    out, other = (torch.randn(2, 6, 7, 7).contiguous(memory_format=format_) for _ in range(2))
    geometry = [1, 1], [0, 0], [1, 1], 1
    arguments = input, pack(weight(), GRID_MASK), [6, 10, 3, 3], torch.randn(6), *geometry
    added = {None: None, "own": other, "out": out}[residual]
    torch.library.opcheck(
        OPS.sparse_conv2d_into.default, (*arguments, added, "relu", 0.0, 6.0, out)
    )


def test_results_without_data_have_the_shape_dtype_and_strides_of_real_ones() -> None:
    packed = pack(weight(), GRID_MASK)
    for format_ in (torch.contiguous_format, torch.channels_last):
        input = torch.randn(2, 10, 8, 9).contiguous(memory_format=format_)
        real = OPS.sparse_conv2d(input, packed, [6, 10, 3, 3])
        fake = OPS.sparse_conv2d(input.to("meta"), packed.to("meta"), [6, 10, 3, 3])
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@settings(max_examples=40)
@given(
    stride=st.tuples(*2 * [st.integers(1, 3)]),
    padding=st.tuples(*2 * [st.integers(0, 2)]),
    dilation=st.tuples(*2 * [st.integers(1, 2)]),
    groups=st.sampled_from([1, 2, 3]),
    activation=st.sampled_from(["none", "relu"]),
    channels_last=st.booleans(),
)
def test_gradients_for_input_bias_and_residual_equal_the_fp64_references(
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    activation: str,
    channels_last: bool,
) -> None:
    torch.manual_seed(0)
    geometry = (stride, padding, dilation, groups)
    dense = weight()
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    input = torch.randn(2, 10 * groups, 8, 7).contiguous(memory_format=format_)
    bias = torch.randn(6)
    packed = pack(dense, GRID_MASK)
    residual = torch.randn_like(sparse_conv2d(input, packed, bias, *geometry))
    leaves = [t.requires_grad_() for t in (input, bias, residual)]
    output = sparse_conv2d(input, packed, bias, *geometry, residual, activation)
    grad_output = torch.randn_like(output)

    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected_output = reference.sparse_conv2d(
        exact[0], dense.double(), FULL_MASK, exact[1], *geometry, exact[2], activation
    )
    expected = torch.autograd.grad(expected_output, exact, grad_output.double())
    for actual, wanted in zip(
        torch.autograd.grad(output, leaves, grad_output), expected, strict=True
    ):
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_each_gradient_alone(wanted: int) -> None:
    arguments = conv_arguments(grad=False)
    position = (0, 3, 8)[wanted]
    arguments[position].requires_grad_()
    OPS.sparse_conv2d(*arguments, "relu").sum().backward()
    assert arguments[position].grad.shape == arguments[position].shape


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_unbatched_input_and_uneven_same_padding_have_gradients() -> None:
    dense = torch.randn(4, 8, 2, 4)
    input = torch.randn(8, 6, 7, requires_grad=True)
    sparse_conv2d(input, pack(dense), padding="same").square().sum().backward()
    exact = input.detach().double().requires_grad_()
    torch.conv2d(exact, dense.double(), padding="same").square().sum().backward()
    torch.testing.assert_close(input.grad.double(), exact.grad, rtol=1e-5, atol=1e-4)


def fp64(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_gradcheck_of_the_reference(activation: str) -> None:
    mask = FULL_MASK[:4, :3]

    def run(input: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return reference.sparse_conv2d(
            input, weight, mask, bias, *GEOMETRY, residual=residual, activation=activation
        )

    arguments = (fp64(1, 6, 6, 6), fp64(4, 3, 3, 3), fp64(4), fp64(1, 4, 3, 2))
    assert torch.autograd.gradcheck(run, arguments)


class Fp64Conv(torch.autograd.Function):
    """The reference forward, and the backward that the native operator uses, in any dtype."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, bias: Tensor, residual: Tensor, act: str) -> Tensor:
        dense = torch.linspace(-1, 1, 108, dtype=torch.float64).reshape(4, 3, 3, 3)
        ones = torch.ones_like(dense, dtype=torch.bool)
        output = reference.sparse_conv2d(input, dense, ones, bias, *GEOMETRY, residual, act)
        ctx.save_for_backward(dense, output if act == "relu" else None)
        ctx.input_shape = input.shape
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        dense, output = ctx.saved_tensors
        grad_input, grad = conv2d_gradients(grad, dense, ctx.input_shape, GEOMETRY, output)
        return grad_input, grad.sum((0, 2, 3)), grad, None


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_gradcheck_of_the_operators_backward(activation: str) -> None:
    arguments = (fp64(1, 6, 6, 6), fp64(4), fp64(1, 4, 3, 2), activation)
    assert torch.autograd.gradcheck(Fp64Conv.apply, arguments)
    assert torch.autograd.gradgradcheck(Fp64Conv.apply, arguments)


def test_double_backward_through_the_operator() -> None:
    dense, input = weight(), torch.randn(1, 10, 6, 6, requires_grad=True)
    exact = input.detach().double().requires_grad_()

    def penalty(output: Tensor, leaf: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(output.pow(3).sum(), leaf, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), leaf)[0]

    actual = penalty(sparse_conv2d(input, pack(dense, GRID_MASK)), input)
    kept = torch.where(FULL_MASK, dense, 0.0).double()
    expected = penalty(torch.conv2d(exact, kept), exact)
    torch.testing.assert_close(
        actual.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max()
    )


@pytest.mark.parametrize("group", [(1, 8), (4, 3), (100, 100)])
def test_the_gradient_of_group_l1_norm_equals_the_fp64_references(group: tuple[int, int]) -> None:
    dense = weight().requires_grad_()
    norms = group_l1_norm(dense, group)
    grad_output = torch.randn_like(norms)
    norms.backward(grad_output)
    exact = dense.detach().double().requires_grad_()
    reference.group_l1_norm(exact, group).backward(grad_output.double())
    torch.testing.assert_close(dense.grad.double(), exact.grad, rtol=1e-6, atol=1e-7)


def test_gradcheck_of_the_group_l1_norms_reference() -> None:
    assert torch.autograd.gradcheck(lambda w: reference.group_l1_norm(w, (2, 3)), fp64(3, 4, 2, 2))


def test_pack_and_unpack_have_no_gradient() -> None:
    assert not unpack(pack(weight().requires_grad_())).requires_grad
