# SPDX-License-Identifier: MIT
"""The Triton kernels, interpreted, on the whole way from the operator's arguments to its result."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gpu_case import CASES, TRITON_CASES, Case, tensors_of
from torch import Tensor

from l1sparse import GroupShape, pack, reference
from l1sparse.gpu import run
from l1sparse.gpu.backend import resolve
from l1sparse.gpu.problem import Conv2dProblem, is_channels_last
from l1sparse.gpu.weights import weight_of
from l1sparse.group_mask import expand_group_mask
from l1sparse.triton import backend, tune


def convolve(case: Case, tensors: Any = None) -> Tensor:
    tensors = tensors or tensors_of(case)
    return run.sparse_conv2d(**tensors.arguments(), backend=f"triton/{case.layout}")


# Triton's interpreter multiplies bfloat16 matrices wrongly, and rounds to bfloat16 by cutting off.
INTERPRETED = [name for name, case in TRITON_CASES.items() if case.dtype != torch.bfloat16]


@pytest.mark.parametrize("name", INTERPRETED)
def test_equals_the_reference_in_float64(name: str) -> None:
    tensors = tensors_of(CASES[name])
    output = convolve(tensors.case, tensors)
    tensors.check(output)
    assert is_channels_last(output) == is_channels_last(tensors.input)
    assert output.is_contiguous() or is_channels_last(output)


def test_the_dispatchers_cuda_key_leads_here() -> None:
    tensors = tensors_of(CASES["half"])
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    ops = torch.ops.l1sparse
    output = ops.sparse_conv2d.default.redispatch(
        cuda, *tensors.arguments().values(), "triton/tensor_core"
    )
    tensors.check(output)
    shape = list(tensors.case.weight_shape)
    assert torch.equal(
        ops.unpack.default.redispatch(cuda, tensors.packed, shape),
        ops.unpack(tensors.packed, shape),
    )
    info = ops.packed_info.default.redispatch(cuda, tensors.packed)
    assert info == ops.packed_info(tensors.packed)
    mask = tensors.mask[::16, ::16]
    packed = ops.pack.default.redispatch(cuda, tensors.weight, mask, [16, 16])
    assert torch.equal(packed, tensors.packed)


def test_auto_takes_a_layout_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("half", "tensor_core"), ("simt odd", "simt")):
        tensors = tensors_of(CASES[name])
        output = run.sparse_conv2d(**tensors.arguments(), backend="triton")
        tensors.check(output)
        (plan,) = weight_of(tensors.packed)._plans.values()
        assert plan.layout == kind


def test_filters_are_permuted_where_that_saves_tiles_and_put_back() -> None:
    # Even filters keep the first half of the channels, odd ones the second.
    case = CASES["half"].but(group="1x16", filters=64, residual=True)
    mask = torch.zeros(64, 2, 3, 3, dtype=torch.bool)
    mask[::2, 0] = mask[1::2, 1] = True
    tensors = tensors_of(case)
    full = expand_group_mask(mask, case.weight_shape, case.group)
    packed = pack(tensors.weight, mask, case.group)
    tensors = dataclasses.replace(tensors, mask=full, packed=packed)
    tensors.check(convolve(case, tensors))
    (plan,) = weight_of(tensors.packed)._plans.values()
    assert plan.filter_order is not None
    assert plan.fill_in == 1


@pytest.mark.parametrize("name", ["everything at once", "everything at once, tf32"])
def test_every_dot_configuration_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # That they differ in no bit holds for mma.sync, not for the matrix products of numpy.
    tensors = tensors_of(CASES[name])
    for config in tune.CONV2D_DOT:
        monkeypatch.setattr(backend._conv2d_dot, "configs", (config,))
        tensors.check(convolve(tensors.case, tensors))


def test_simt_configurations_differ_in_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_of(CASES["simt everything at once"])
    first = convolve(tensors.case, tensors)
    for config in tune.CONV2D_SIMT[1:]:
        monkeypatch.setattr(backend._conv2d_simt, "configs", (config,))
        assert torch.equal(convolve(tensors.case, tensors), first)


@pytest.mark.parametrize("name", ["everything at once", "simt everything at once", "simt slice"])
def test_places_in_64_bits_differ_in_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = convolve(CASES[name])
    monkeypatch.setattr(Conv2dProblem, "is_wide", True)
    assert torch.equal(convolve(CASES[name]), narrow)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("group", ["1x8", "4x4", "3x5", "1x1", "16x16"])
def test_nan_and_infinity_are_as_dense_where_kept_and_nothing_where_pruned(group: str) -> None:
    case = Case(16, 16, (2, 3), (5, 6), group, "simt", density=0.4, bias=False)
    tensors = tensors_of(case)
    if group == "16x16":
        case = case.but(layout="tensor_core", dtype=torch.float16)
        tensors = tensors_of(case)
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    for tensor, share in ((tensors.weight, 0.02), (tensors.input, 0.05)):
        chosen = special[torch.randint(4, tensor.shape)].to(tensor.dtype)
        tensor.copy_(torch.where(torch.rand(tensor.shape) < share, chosen, tensor))
    grid_mask = tensors.mask[:: GroupShape.of(group).filters, :: GroupShape.of(group).channels]
    packed = pack(tensors.weight, grid_mask, group)
    arguments = {**tensors.arguments(), "packed": packed}
    output = run.sparse_conv2d(**arguments, backend=f"triton/{case.layout}")
    columns = F.unfold(tensors.input.double(), case.kernel)
    products = tensors.weight.double().flatten(1)[:, :, None] * columns
    kept = tensors.mask.flatten(1)[:, :, None]
    expected = torch.where(kept, products, 0).sum(1).reshape(output.shape)
    assert expected.isnan().any()
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-4} if case.layout == "simt" else {"rtol": 0.01, "atol": 0.1}
    )
    torch.testing.assert_close(output.double(), expected, equal_nan=True, **tolerance)


def test_a_short_last_group_reads_nothing_of_the_next_convolution_group() -> None:
    tensors = tensors_of(CASES["simt"].but(groups=2, channels=12, filters=8))
    alone = convolve(tensors.case, tensors)[:, :8]
    tensors.input[:, 12:] = torch.nan
    output = convolve(tensors.case, tensors)
    assert torch.equal(output[:, :8], alone)
    assert output[:, 8:].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bias_of_another_type_and_with_gaps_is_read_as_it_is(dtype: torch.dtype) -> None:
    tensors = tensors_of(CASES["simt"])
    bias = torch.full((len(tensors.bias), 3), torch.nan, dtype=dtype)
    bias[:, 1] = tensors.bias
    output = convolve(tensors.case, dataclasses.replace(tensors, bias=bias[:, 1]))
    dataclasses.replace(tensors, bias=bias[:, 1].float()).check(output)


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "clamp", "hardswish"])
def test_nan_passes_through_the_activation(activation: str) -> None:
    case = CASES["simt"].but(activation=activation, kernel=(1, 1), padding=(0, 0))
    tensors = tensors_of(case)
    tensors.bias.fill_(torch.nan)
    assert convolve(case, tensors).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", ["1x8", "4x4", "3x5", "16x16", "1x70", "100x100"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_group_l1_norm_equals_the_reference_in_float64(
    monkeypatch: pytest.MonkeyPatch, group: str, kernel: Any, dtype: torch.dtype
) -> None:
    # Also where the package was built with its CUDA kernels, which come first.
    monkeypatch.setattr(run, "resolve", lambda _: resolve("triton"))
    weight = torch.randn(21, 75, *kernel).to(dtype)
    shape = GroupShape.of(group)
    norms = run.group_l1_norm(weight, shape.as_list())
    expected = reference.group_l1_norm(weight.double(), group)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms.double(), expected, rtol=2e-6, atol=0)
    permuted = weight.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(run.group_l1_norm(permuted, shape.as_list()), norms)


@pytest.mark.parametrize("tuned", [backend._conv2d_dot, backend._conv2d_simt])
def test_kernels_are_tuned_by_arguments_that_they_have(tuned: tune.Tuned) -> None:
    names = set(inspect.signature(tuned.kernel.fn).parameters)
    assert set(tuned.key) <= names
    assert all(set(config.kwargs) <= names for config in tuned.configs)
    assert 1 < len(tuned.configs) < 8


def test_a_shape_that_is_new_can_not_be_timed_while_a_graph_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[dict[str, Any]] = []

    class Tuner:
        """In place of Triton's, which times kernels on a GPU."""

        def __getitem__(self, grid: Any) -> Any:
            return lambda **arguments: launched.append(arguments)

    tuned = tune.Tuned(None, tune.CONV2D_SIMT, ("pixels",))
    tuned._tuner = Tuner()
    cpu = torch.device("cpu")

    def launch(pixels: int, dtype: torch.dtype = torch.float16) -> None:
        tuned.launch(cpu, dtype, lambda _: (1,), {"pixels": pixels, "other": 3})

    launch(10)
    monkeypatch.setattr(tune, "is_capturing", lambda _: True)
    launch(10)
    assert len(launched) == 2
    for pixels, dtype in ((11, torch.float16), (10, torch.float32)):
        with pytest.raises(RuntimeError, match=r"^input: this shape is new to Triton"):
            launch(pixels, dtype)
    assert len(launched) == 2


def test_more_programs_than_a_grid_has_are_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"^input: needs 2147483648 programs on the GPU"):
        backend._programs(2**31 * 64, 64, 1)
