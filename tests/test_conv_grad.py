# SPDX-License-Identifier: MIT
"""Gradients on the pattern: against dense convolution, finite differences, hostile arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import GroupShape, pack, unpack
from l1sparse.conv_grad import gather_values, scatter_values, values_conv2d, values_shape
from l1sparse.group_mask import expand_group_mask

OPS = torch.ops.l1sparse
SHAPE = [6, 10, 3, 3]
GEOMETRY = ([2, 1], [1, 0], [1, 2], 2)  # stride, padding, dilation, groups

# A sum of n products is off by at most n units of 2^-24 of the sum of their absolute values; these
# have at most a few thousand terms of size 1, and errors mostly cancel.
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


def pattern_of(weight: Tensor, group: tuple[int, int], strategy: str = "auto") -> Any:
    grid = torch.rand(GroupShape(*group).grid(weight.shape)) < 0.5
    return pack(weight, grid, group, strategy), expand_group_mask(grid, weight.shape, group)


def arguments(grad: bool = False) -> tuple[Any, ...]:
    """Of values_conv2d, with bias and residual."""
    weight = torch.randn(SHAPE)
    pattern, _ = pattern_of(weight, (1, 8))
    tensors = [torch.randn(2, 20, 9, 9), gather_values(weight, pattern)]
    tensors += [torch.randn(6), torch.randn(2, 6, 5, 5)]
    input, values, bias, residual = (t.requires_grad_(grad) for t in tensors)
    return input, values, pattern, SHAPE, bias, *GEOMETRY, residual


@settings(max_examples=60)
@given(
    stride=st.tuples(*2 * [st.integers(1, 3)]),
    padding=st.tuples(*2 * [st.integers(0, 3)]),
    dilation=st.tuples(*2 * [st.integers(1, 3)]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 4)]),
    groups=st.sampled_from([1, 1, 2, 3]),
    group=st.sampled_from([(1, 8), (4, 4), (2, 3), (1, 1), (8, 1), (1, 16)]),
    strategy=st.sampled_from(["pixels", "channels", "filters"]),
    activation=st.sampled_from(["none", "relu"]),
    channels_last=st.booleans(),
    size=st.tuples(*2 * [st.integers(7, 20)]),
)
def test_all_gradients_are_those_of_the_dense_convolution(
    isa: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    kernel: tuple[int, int],
    groups: int,
    group: tuple[int, int],
    strategy: str,
    activation: str,
    channels_last: bool,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    room = [s + d * (k - 1) for s, d, k in zip(size, dilation, kernel, strict=True)]
    weight = torch.randn(6, 11, *kernel)
    pattern, kept = pattern_of(weight, group, strategy)
    input = torch.randn(2, 11 * groups, *room).contiguous(memory_format=format_)
    geometry = (stride, padding, dilation, groups)
    bias = torch.randn(6)
    residual = torch.randn_like(F.conv2d(input, weight, None, *geometry))
    leaves = [t.requires_grad_() for t in (input, weight, bias, residual)]
    values = gather_values(weight, pattern)
    shape = list(weight.shape)
    output = values_conv2d(input, values, pattern, shape, bias, *geometry, residual, activation)
    assert OPS._last_conv2d_isa() == isa.removesuffix("_bf16")  # which adds nothing here
    grad_output = torch.randn_like(output)
    actual = torch.autograd.grad(output, leaves, grad_output)
    assert OPS._last_conv2d_isa() == isa.removesuffix("_bf16")  # which adds nothing here
    assert actual[0].stride() == input.stride()
    assert (actual[1][~kept].view(torch.int32) == 0).all()

    exact = [t.detach().double().requires_grad_() for t in leaves]
    dense = F.conv2d(exact[0], exact[1] * kept, exact[2], *geometry) + exact[3]
    # Where an output is nearly 0, the two may see it on different sides.
    dense = dense * (output.detach() > 0) if activation == "relu" else dense
    for one, other in zip(
        actual, torch.autograd.grad(dense, exact, grad_output.double()), strict=True
    ):
        torch.testing.assert_close(one.double(), other, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_16_bit_gradients_are_the_fp32_ones_rounded(
    isa: str, dtype: torch.dtype, channels_last: bool
) -> None:
    weight = torch.randn(6, 12, 3, 3).to(dtype)
    pattern, _ = pattern_of(weight, (1, 8))
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    input = torch.randn(2, 12, 9, 7).to(dtype).contiguous(memory_format=format_)
    grads = []
    grad_output = torch.randn(2, 6, 9, 7).to(dtype)
    for kind in (dtype, torch.float32):
        leaves = [t.detach().to(kind).requires_grad_() for t in (input, weight)]
        values = gather_values(leaves[1], pattern)
        output = values_conv2d(leaves[0], values, pattern, weight.shape, padding=(1, 1))
        grads.append(torch.autograd.grad(output, leaves, grad_output.to(kind)))
    for ours, exact in zip(*grads, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_zero_images_give_zero_gradients_and_nothing_kept_gives_none() -> None:
    weight = torch.randn(4, 8, 3, 3).requires_grad_()
    for mask in (torch.ones(4, 1, 3, 3, dtype=torch.bool), torch.zeros(4, 1, 3, 3).bool()):
        pattern = pack(weight.detach(), mask)
        for batch in (0, 2):
            input = torch.randn(batch, 8, 5, 5, requires_grad=True)
            output = values_conv2d(input, gather_values(weight, pattern), pattern, weight.shape)
            one, other = torch.autograd.grad(output.sum(), [input, weight])
            assert one.shape == input.shape
            assert bool((other == 0).all()) == (batch == 0 or not mask.any())
            assert bool((one == 0).all()) == (batch == 0 or not mask.any())


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    weight = torch.randn(40, 48, 3, 3)
    pattern, _ = pattern_of(weight, (1, 8))
    input, values = torch.randn(3, 48, 14, 14), gather_values(weight, pattern)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        leaves = [t.detach().requires_grad_() for t in (input, values)]
        output = values_conv2d(*leaves, pattern, weight.shape, padding=(1, 1))
        results.append(torch.autograd.grad(output.square().sum(), leaves))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_pruned_weight_takes_no_part_of_an_infinite_gradient() -> None:
    weight = torch.randn(2, 8, 1, 1)
    pattern = pack(weight, torch.tensor([True, False]).reshape(2, 1, 1, 1))
    grad = torch.ones(1, 2, 3, 3)
    grad[:, 1] = torch.inf
    layout = (3, 3, False)
    result = OPS.conv2d_input_grad(
        grad, None, pattern, [2, 8, 1, 1], *layout, [1, 1], [0, 0], [1, 1], 1
    )
    torch.testing.assert_close(result, weight[:1].reshape(1, 8, 1, 1).expand(1, 8, 3, 3))


def test_gather_and_scatter_are_the_two_ways_between_weight_and_values() -> None:
    weight = torch.randn(7, 11, 3, 2)
    for group in ((1, 8), (4, 3), (100, 100)):
        for strategy in ("pixels", "channels", "filters"):
            pattern, kept = pattern_of(weight, group, strategy)
            values = gather_values(weight, pattern)
            assert list(values.shape) == values_shape(pattern)
            assert torch.equal(scatter_values(values, pattern, weight.shape), unpack(pattern))
            assert torch.equal(unpack(pattern), weight * kept)


# ---- torch's own checks -------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_opcheck_values_conv2d(activation: str, grad: bool) -> None:
    torch.library.opcheck(OPS.values_conv2d, (*arguments(grad), activation))


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck_of_the_gradients_and_of_gather_and_scatter(grad: bool) -> None:
    input, values, pattern, shape, _, *geometry, residual = arguments(grad)
    weight = torch.randn(SHAPE, requires_grad=grad)
    sizes = list(values.shape)
    layout = (9, 9, False)
    for given_values in (values, None):
        torch.library.opcheck(
            OPS.conv2d_input_grad, (residual, given_values, pattern, shape, *layout, *geometry)
        )
    torch.library.opcheck(
        OPS.conv2d_values_grad, (residual, input, pattern, shape, sizes, *geometry)
    )
    torch.library.opcheck(OPS.gather_values, (weight, pattern, sizes))
    torch.library.opcheck(OPS.scatter_values, (values, pattern, shape))


def small() -> tuple[Callable[..., Tensor], list[Tensor]]:
    weight = torch.randn(4, 3, 2, 2)
    pattern, _ = pattern_of(weight, (1, 2))
    values = gather_values(weight, pattern)

    def run(input: Tensor, values: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        geometry = ((2, 1), (1, 0), (1, 1), 2)
        return values_conv2d(input, values, pattern, weight.shape, bias, *geometry, residual)

    leaves = [torch.randn(1, 6, 4, 3), values, torch.randn(4), torch.randn(1, 4, 3, 2)]
    return run, [leaf.detach().requires_grad_() for leaf in leaves]


# The function is linear in each argument, so a large step has no error of its own; what is left is
# rounding, 2^-24 of sums of size 10, over the step.
STEP: dict[str, Any] = {"eps": 0.5, "atol": 1e-4, "rtol": 1e-3, "nondet_tol": 0.0}


@pytest.mark.filterwarnings("ignore:Input #")
def test_gradcheck_and_double_backward() -> None:
    run, leaves = small()
    assert torch.autograd.gradcheck(run, leaves, **STEP)
    assert torch.autograd.gradgradcheck(run, leaves, **STEP)


# ---- arguments that don't fit --------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_named() -> None:
    input, values, pattern, shape, bias, *geometry, residual = arguments()
    grad = torch.randn(2, 6, 5, 5)

    def conv(**changed: Any) -> Tensor:
        given = {"input": input, "values": values, "pattern": pattern, "shape": shape, **changed}
        return OPS.values_conv2d(*given.values(), bias, *geometry, residual, "none")

    def input_grad(grad: Tensor, in_h: int = 9, in_w: int = 9, groups: int = 2) -> Tensor:
        where = (in_h, in_w, False, *geometry[:3], groups)
        return OPS.conv2d_input_grad(grad, values, pattern, shape, *where)

    def values_grad(grad: Tensor, input: Tensor, sizes: list[int]) -> Tensor:
        return OPS.conv2d_values_grad(grad, input, pattern, shape, sizes, *geometry)

    sizes = list(values.shape)
    for call, named in (
        (lambda: conv(values=values[1:]), r"values: has shape .*pattern's"),
        (lambda: conv(values=values.double()), "values: has dtype float64"),
        (lambda: conv(shape=[6, 10, 3, 2]), "weight_shape: got"),
        (lambda: conv(input=input[:, 1:]), "input"),
        (lambda: OPS.values_conv2d(*arguments(), "hardswish"), "activation: got 'hardswish'"),
        (lambda: input_grad(grad[:, 1:]), "grad: has shape"),
        (lambda: input_grad(grad, in_h=12), "grad: has shape"),
        (lambda: input_grad(grad, in_h=-1), "in_h"),
        (lambda: input_grad(grad, groups=0), "groups"),
        (lambda: input_grad(grad, groups=2**62), "groups"),
        (lambda: input_grad(grad.double()), "grad: has dtype float64"),
        (lambda: values_grad(grad[1:], input, sizes), "grad: has shape"),
        (lambda: values_grad(grad, input[:, 1:], sizes), "input"),
        (lambda: values_grad(grad, input, [1, *sizes[1:]]), "values_shape: got"),
        (lambda: OPS.gather_values(torch.randn(6, 9, 3, 3), pattern, sizes), "weight: has shape"),
        (lambda: OPS.gather_values(torch.randn(SHAPE), pattern, sizes[1:]), "values_shape: got"),
        (lambda: OPS.scatter_values(values[1:], pattern, shape), "values: has shape"),
        (lambda: OPS.scatter_values(values, pattern, [2**40] * 4), "weight_shape: got"),
    ):
        with pytest.raises(RuntimeError, match=named):
            call()


def test_damaged_patterns_are_refused_or_harmless() -> None:
    """Two bits of every byte of header, offsets and entries.

    The checksum is looked at when a buffer is first seen, and one may come to lie where a sound one
    lay; what is not refused then still reads and writes nothing that it must not.
    """
    input, values, pattern, shape, _, *geometry, residual = arguments()
    sizes = list(values.shape)
    head = pattern.numel() - values.numel() * 4
    errors = []
    for at in range(head):
        for flip in (0x01, 0x80):
            bad = pattern.clone()
            bad[at] ^= flip
            for call, size in (
                (lambda bad=bad: OPS.gather_values(torch.randn(SHAPE), bad, sizes), sizes),
                (lambda bad=bad: OPS.scatter_values(values, bad, shape), shape),
                (
                    lambda bad=bad: OPS.conv2d_input_grad(
                        residual, values, bad, shape, 9, 9, False, *geometry
                    ),
                    list(input.shape),
                ),
                (
                    lambda bad=bad: OPS.conv2d_values_grad(
                        residual, input, bad, shape, sizes, *geometry
                    ),
                    sizes,
                ),
            ):
                try:
                    assert list(call().shape) == size
                except RuntimeError as error:
                    errors.append(str(error))
    assert len(errors) > head * 4
    assert all("packed" in error or "shape" in error for error in errors)
