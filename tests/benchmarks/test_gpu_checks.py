# SPDX-License-Identifier: MIT
"""What `make gpu-check` asks of a GPU, asked of the CPU: it passes, and notices what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gpu_checks
import l1sparse
from gpu_cases import DTYPES, SHAPES, Case, table
from gpu_checks import CHECKS, Tensors, precision
from gpu_worker import run_case

CPU = torch.device("cpu")
ONLY_CUDA = {"out of memory", "large tensors"}


def test_all_of_the_table_passes_on_the_cpu() -> None:
    cases = table(["cuda"])
    results = [run_case(case, CPU) for case in cases]
    bad = [f"{r.case}: {r.message}" for r in results if r.is_bad]
    assert bad == []
    assert {r.case.check for r in results if r.status == "skipped"} == ONLY_CUDA
    assert all(0 <= r.worst <= 1 for r in results if r.status == "passed")
    assert {case.check for case in cases} == set(CHECKS)


def test_the_table_names_each_case_and_has_every_kind() -> None:
    cases = table(["cuda", "triton"])
    assert len({str(case) for case in cases}) == len(cases)
    assert len({case.seed for case in cases}) == len(cases)
    convolutions = [case for case in cases if case.check == "conv"]
    for backend in ("cuda", "triton", "cuda/simt"):
        assert {c.dtype for c in convolutions if c.backend == backend} == set(DTYPES)
    for backend in ("cuda/tensor_core", "cuda/compressed", "triton/tensor_core"):
        rounding = {c.dtype for c in convolutions if c.backend == backend}
        assert rounding == {*DTYPES} - {"float32"}, "a forced layout rounds float32 to TF32"
    for group in ("16x16", "16x8", "1x8", "4x4"):
        assert {c.kernel for c in convolutions if c.group == group} >= {(1, 1), (3, 3), (1, 7)}
    assert {c.memory for c in convolutions} == {"channels_last", "contiguous", "sliced"}
    assert {c.density for c in convolutions} >= {0.0, 0.25, 1.0}
    assert {c.activation for c in convolutions} == {"none", "relu", "relu6", "clamp", "hardswish"}


def test_cases_go_through_json() -> None:
    for case in (
        Case("conv", stride=(2, 1), density=0.5),
        SHAPES["odd"],
        Case("norm", group="3x5"),
    ):
        assert Case.from_dict(case.to_dict()) == case
    text = str(Case("conv", backend="cuda/simt", dtype="tf32", seed=7))
    assert text == "conv backend=cuda/simt dtype=tf32 seed=7"


def test_a_case_is_the_same_each_time() -> None:
    case = Case("conv", dtype="float16", residual=True, seed=3)
    one, two = Tensors.of(case), Tensors.of(case)
    for name in ("input", "weight", "mask", "packed", "bias", "residual"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.input, Tensors.of(replace(case, seed=4)).input)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_have_no_bits_to_round_away(dtype: str) -> None:
    weight = Tensors.of(Case("conv", dtype=dtype)).weight
    if dtype == "tf32":
        from l1sparse.gpu.plan import round_to_tf32

        assert torch.equal(round_to_tf32(weight), weight)
    else:
        assert torch.equal(weight.to(gpu_checks.TORCH_DTYPES[dtype]).float(), weight)


def test_what_must_not_be_read_is_nan() -> None:
    case = Case("conv", memory="sliced", dtype="float16", residual=True)
    there = Tensors.of(case).to(CPU)
    assert not there.input.is_contiguous()
    around = there.input.as_strided((2,), (1,), 0)
    assert around.isnan().all()
    assert there.input.isfinite().all()


def test_float32_keeps_to_float32_unless_it_may_not() -> None:
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision
    for dtype, expected in (("float32", "ieee"), ("float16", "ieee"), ("tf32", "tf32")):
        with precision(dtype):
            assert cudnn.conv.fp32_precision == expected
        assert cudnn.conv.fp32_precision == before


# ---- what is wrong is noticed -------------------------------------------------------------------


Operator = Callable[..., Tensor]


def off_by_little(right: Operator) -> Operator:
    def wrong(*given: Any, **named: Any) -> Tensor:
        output = right(*given, **named)
        return output * (1 + 2.0**-6)

    return wrong


def one_value_nan(right: Operator) -> Operator:
    def wrong(*given: Any, **named: Any) -> Tensor:
        output = right(*given, **named).clone()
        output[-1, -1, -1, -1] = torch.nan
        return output

    return wrong


def no_bias(right: Operator) -> Operator:
    def wrong(input: Tensor, packed: Tensor, bias: Any = None, *given: Any, **named: Any) -> Tensor:
        return right(input, packed, None, *given, **named)

    return wrong


def other_bits(right: Operator) -> Operator:
    calls = iter(range(100))

    def wrong(*given: Any, **named: Any) -> Tensor:
        output = right(*given, **named)
        return output * (1 + 2.0**-23 * next(calls))

    return wrong


def remembered(right: Operator) -> Operator:
    first: list[Tensor] = []

    def wrong(*given: Any, **named: Any) -> Tensor:
        first[:] = first or [right(*given, **named)]
        return first[0]

    return wrong


def other_layout(right: Operator) -> Operator:
    def wrong(*given: Any, **named: Any) -> Tensor:
        return right(*given, **named).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    return wrong


def other_dtype(right: Operator) -> Operator:
    def wrong(*given: Any, **named: Any) -> Tensor:
        return right(*given, **named).double()

    return wrong


def half_gradient(right: Operator) -> Operator:
    def wrong(input: Tensor, *given: Any, **named: Any) -> Tensor:
        return right(0.5 * input + 0.5 * input.detach(), *given, **named)

    return wrong


@pytest.mark.parametrize(
    ("check", "bug", "says"),
    [
        ("conv", off_by_little, "expected"),
        ("conv", one_value_nan, r"nan at \[1, 63, 13, 13\]"),
        ("conv", no_bias, "values are off"),
        ("conv", other_layout, "strides"),
        ("conv", other_dtype, "dtype"),
        ("gradients", half_gradient, "gradient of input"),
        ("stream", other_bits, "on another stream"),
        ("graph", remembered, "output of other inputs"),
        ("repeat", other_bits, "at another call"),
        ("second device", off_by_little, "values are off"),
        ("new weights", remembered, "values are off"),
    ],
)
def test_a_wrong_convolution_is_noticed(
    check: str, bug: Callable[[Operator], Operator], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(check)
    assert run_case(case, CPU).status == "passed"
    monkeypatch.setattr(l1sparse, "sparse_conv2d", bug(l1sparse.sparse_conv2d))
    result = run_case(case, CPU)
    assert result.status == "failed"
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(result.message)
    if "off" in says:
        assert result.worst is not None
        assert result.worst > 1


def test_a_wrong_norm_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("norm", group="1x8")
    right = l1sparse.group_l1_norm
    monkeypatch.setattr(l1sparse, "group_l1_norm", lambda *given: right(*given) * 1.0001)
    assert "the norm is" in run_case(case, CPU).message
    monkeypatch.setattr(l1sparse, "group_l1_norm", off_by_turns(right))
    assert "other bits at another call" in run_case(case, CPU).message


def off_by_turns(right: Operator) -> Operator:
    calls = iter(range(100))
    return lambda *given: right(*given) * (1 + 2.0**-23 * next(calls))


def test_a_wrong_module_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("module")
    right = l1sparse.SparseConv2d.forward

    def wrong(self: Any, input: Tensor) -> Tensor:
        return right(self, input) + 0.01

    monkeypatch.setattr(l1sparse.SparseConv2d, "forward", wrong)
    assert "values are off" in run_case(case, CPU).message


@pytest.mark.parametrize(
    ("hidden", "says"),
    [
        (RuntimeError("something"), "the error does not name"),
        (None, "was taken"),
    ],
)
def test_errors_that_do_not_come_are_noticed(
    hidden: Exception | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lenient:
        @staticmethod
        def default(*given: Any, **named: Any) -> None:
            if hidden is not None:
                raise hidden

    real = torch.ops.l1sparse

    class Operators:
        sparse_conv2d = Lenient

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    operators = Operators()
    run = Tensors.run

    def with_the_real_one(tensors: Tensors) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.ops, "l1sparse", real)
            return run(tensors)

    monkeypatch.setattr(Tensors, "run", with_the_real_one)
    monkeypatch.setattr(torch.ops, "l1sparse", operators)
    result = run_case(Case("errors"), CPU)
    assert result.status == "failed"
    assert says in result.message
