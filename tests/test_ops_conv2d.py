# SPDX-License-Identifier: MIT
"""`sparse_conv2d` against dense fp64 convolution, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1sparse import pack, packed_info, reference, sparse_conv2d, unpack
from l1sparse.group_mask import expand_group_mask
from l1sparse.ops import ACTIVATIONS, DTYPES, STRATEGIES

Pair = tuple[int, int]
LAYOUTS = ["contiguous", "channels_last", "sliced", "sliced channels_last", "strided", "permuted"]


CLAMP = (-0.25, 0.75)
ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(*CLAMP),
    "hardswish": F.hardswish,
}


@dataclass(frozen=True)
class Case:
    """Everything that a result depends on but the numbers in the tensors."""

    batch: int
    groups: int
    filters: int
    channels: int
    kernel: Pair
    size: Pair
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    group: Pair = (1, 8)
    density: float = 0.5
    layout: str = "contiguous"
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    dtype: torch.dtype = torch.float32
    strategy: str = "auto"
    threads: int = 1
    batched: bool = True

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.groups * self.filters, self.channels, *self.kernel)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding: Any = draw(
        st.one_of(st.sampled_from(["same", "valid"]), st.tuples(*2 * [st.integers(0, 3)]))
    )
    sides = padding if isinstance(padding, tuple) else (0, 0)
    spans = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, sides, strict=True)]
    size = tuple(max(span, 1) + draw(st.integers(0, 20)) for span in spans)
    stride = (1, 1) if padding == "same" else draw(st.tuples(*2 * [st.integers(1, 3)]))
    batched = draw(st.booleans())
    return Case(
        batch=draw(st.integers(0, 3)) if batched else 1,
        groups=draw(st.sampled_from([1, 1, 2, 3])),
        filters=draw(st.integers(1, 20)),
        channels=draw(st.integers(1, 40)),
        kernel=kernel,
        size=(size[0], size[1]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        group=draw(st.tuples(st.sampled_from([1, 2, 4, 7]), st.sampled_from([1, 4, 5, 8, 16, 24]))),
        density=draw(st.sampled_from([0.0, 0.25, 0.6, 1.0])),
        layout=draw(st.sampled_from(LAYOUTS)),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        dtype=draw(st.sampled_from([torch.float32, torch.float32, *DTYPES])),
        strategy=draw(st.sampled_from(STRATEGIES)),
        threads=draw(st.sampled_from([1, 2])),
        batched=batched,
    )


@pytest.fixture(scope="session")
def check_case(
    pruned_weight: Callable[..., tuple[Tensor, Tensor]],
    masked: Callable[..., Tensor],
    in_layout: Callable[[Tensor, str], Tensor],
) -> Callable[[Case, str], None]:
    """Runs a case on the forced instruction set and compares with dense fp64 convolution."""

    def check(case: Case, isa: str) -> None:
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        weight, mask = pruned_weight(case.weight_shape, case.group, case.density)
        weight = weight.to(case.dtype).float()  # as a layer of this type has it
        kept = masked(weight, mask, case.group).double()
        input = torch.randn(case.batch, case.groups * case.channels, *case.size).to(case.dtype)
        bias = torch.randn(case.weight_shape[0]) if case.bias else None
        geometry = (case.stride, case.padding, case.dilation, case.groups)
        expected = F.conv2d(
            input.double(), kept, None if bias is None else bias.double(), *geometry
        )
        residual = torch.randn(expected.shape).to(case.dtype) if case.residual else None
        if residual is not None:
            expected = expected + residual
        expected = ACTIVATE[case.activation](expected)

        given_input, given_residual = in_layout(input, case.layout), residual
        if residual is not None:
            given_residual = in_layout(residual, "strided")
        if not case.batched:
            given_input, expected = given_input[0], expected[0]
            given_residual = None if given_residual is None else given_residual[0]
        output = sparse_conv2d(
            given_input,
            pack(weight, mask, case.group, case.strategy),
            bias,
            *geometry,
            residual=given_residual,
            activation=case.activation,
            clamp=CLAMP,
        )
        assert output.shape == expected.shape
        assert output.dtype == case.dtype
        # What rounding can do grows with the sum of the absolute products.
        sums = F.conv2d(input.double().abs(), kept.abs(), None, *geometry)
        tolerance = 2e-6 * (sums + 3) if case.batched else 2e-6 * (sums[0] + 3)
        if case.dtype != torch.float32:  # half a unit in the output's last place
            tolerance = tolerance + expected.abs() * torch.finfo(case.dtype).eps / 2 + 2**-25
        assert ((output - expected).abs() <= tolerance).all()
        if output.numel():
            ran = torch.ops.l1sparse._last_conv2d_isa()
            assert ran in (isa, isa.removesuffix("_bf16"))  # see the test of bfloat16 weights

    return check


@pytest.mark.parametrize("group", [(1, 8), (4, 4), (2, 6), (1, 2), (1, 3)])
def test_weights_that_are_bfloat16_numbers_are_multiplied_as_such(group: Pair, isa: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 23, 3, 3)
    input = torch.randn(2, 23, 9, 9).bfloat16()

    def kernels_for(weight: Tensor) -> str:
        output = sparse_conv2d(input, pack(weight, group=group, strategy="pixels"), padding=1)
        expected = F.conv2d(input.double(), weight.double(), padding=1)
        torch.testing.assert_close(output.double(), expected, rtol=2**-8, atol=2**-8)
        return str(torch.ops.l1sparse._last_conv2d_isa())

    assert kernels_for(weight) == isa.removesuffix("_bf16")
    pairs = group[1] % 2 == 0 and group[1] >= 4
    assert kernels_for(weight.bfloat16().float()) == (isa if pairs else isa.removesuffix("_bf16"))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # dense torch has to copy there
@settings(max_examples=150)
@given(case=cases())
def test_equals_dense_fp64_convolution(isa: str, check_case: Any, case: Case) -> None:
    check_case(case, isa)


LARGE = {
    "many bands of rows": Case(1, 1, 24, 64, (3, 3), (56, 56), padding=(1, 1)),
    "bands narrower than a row": Case(1, 1, 8, 512, (3, 3), (6, 64), padding=(1, 1)),
    "several channel blocks": Case(2, 1, 40, 512, (3, 3), (14, 14), padding=(1, 1)),
    "filters split among threads": Case(1, 1, 130, 96, (3, 3), (7, 7), group=(4, 8)),
    "pointwise": Case(1, 1, 64, 256, (1, 1), (14, 14), group=(1, 16)),
    "a large kernel with stride": Case(
        1, 1, 16, 3, (7, 7), (64, 64), stride=(2, 2), padding=(3, 3)
    ),
    "more stride than kernel": Case(1, 1, 8, 16, (1, 2), (30, 31), stride=(3, 4)),
    "dilation far beyond the tile": Case(1, 1, 8, 8, (3, 3), (50, 50), dilation=(20, 23)),
    "depthwise": Case(2, 64, 1, 1, (3, 3), (14, 14), padding=(1, 1), group=(1, 1)),
    "filter groups across convolution groups": Case(1, 4, 3, 8, (3, 3), (9, 9), group=(8, 8)),
    "a group larger than the weight": Case(1, 1, 6, 6, (3, 3), (9, 9), group=(64, 64)),
    "padding beyond the kernel": Case(1, 1, 4, 8, (1, 1), (2, 2), padding=(5, 6)),
}


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("what", LARGE)
def test_large_and_odd_shapes(
    isa: str, check_case: Any, what: str, layout: str, threads: int, strategy: str
) -> None:
    changes = {"layout": layout, "threads": threads, "strategy": strategy}
    check_case(Case(**{**vars(LARGE[what]), **changes}), isa)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("size", [7, 14, 20])
def test_threads_do_not_change_a_bit(isa: str, size: int, strategy: str) -> None:
    mask = torch.rand(192, 8, 3, 3) < 0.3
    packed = pack(torch.randn(192, 64, 3, 3), mask, strategy=strategy)
    input = torch.randn(3, 64, size, size)
    one = sparse_conv2d(input, packed, padding=1)
    torch.set_num_threads(2)
    assert torch.equal(sparse_conv2d(input, packed, padding=1), one)


@pytest.mark.parametrize(
    ("weight_shape", "strategy"),
    [
        ((64, 16, 3, 3), "pixels"),
        ((4, 64, 3, 3), "channels"),
        ((4, 64, 1, 1), "pixels"),
        ((1, 64, 3, 3), "pixels"),
    ],
)
def test_auto_goes_by_filters_and_taps(weight_shape: tuple[int, ...], strategy: str) -> None:
    assert packed_info(pack(torch.randn(weight_shape))).strategy == strategy


@pytest.mark.parametrize(
    ("weight_shape", "group", "density", "strategy"),
    [
        ((64, 64, 3, 3), "4x4", 0.5, "filters"),
        ((64, 64, 3, 3), "4x4", 0.1, "pixels"),
        ((256, 64, 1, 1), "4x4", 0.1, "filters"),
        ((64, 256, 1, 1), "4x4", 0.1, "pixels"),
        ((64, 64, 3, 3), "8x2", 0.5, "filters"),
        ((64, 64, 3, 3), "6x4", 0.5, "pixels"),
        ((64, 64, 3, 3), "4x8", 0.5, "pixels"),
        ((64, 64, 3, 3), "1x4", 0.5, "pixels"),
        ((256, 64, 1, 1), "1x8", 0.5, "filters"),
        ((256, 64, 1, 1), "1x16", 0.25, "filters"),
        ((256, 64, 1, 1), "1x4", 0.25, "pixels"),
        ((256, 64, 1, 1), "1x8", 0.75, "pixels"),
        ((256, 64, 3, 3), "1x8", 0.1, "pixels"),
        ((64, 256, 1, 1), "1x8", 0.1, "pixels"),
    ],
)
def test_auto_goes_by_groups_and_how_many_are_kept(
    weight_shape: tuple[int, ...], group: str, density: float, strategy: str
) -> None:
    filters, channels = (int(size) for size in group.split("x"))
    grid = torch.rand(
        -(-weight_shape[0] // filters), weight_shape[1] // channels, *weight_shape[2:]
    )
    packed = pack(torch.randn(weight_shape), grid <= grid.flatten().quantile(density), group)
    assert packed_info(packed).strategy == strategy


def test_a_strategy_can_be_forced_and_an_unknown_one_is_an_error() -> None:
    weight = torch.randn(8, 16, 1, 1)
    for strategy in STRATEGIES[1:]:
        assert packed_info(pack(weight, strategy=strategy)).strategy == strategy
    with pytest.raises(RuntimeError, match="strategy: got 'fastest', expected one of 'auto'"):
        pack(weight, strategy="fastest")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_pass_through_the_activation(activation: str, dtype: torch.dtype) -> None:
    weight, mask = torch.randn(6, 16, 3, 3), torch.rand(6, 2, 3, 3) < 0.5
    packed = pack(weight.to(dtype), mask)
    kept = unpack(packed).to(dtype)
    sides = [torch.randn(2, 16, 6, 6), torch.randn(6), torch.randn(2, 6, 4, 4)]
    ours = [x.to(dtype).requires_grad_() for x in sides]
    theirs = [x.detach().float().requires_grad_() for x in ours]
    output = sparse_conv2d(
        ours[0], packed, ours[1], residual=ours[2], activation=activation, clamp=CLAMP
    )
    expected = ACTIVATE[activation](F.conv2d(theirs[0], kept.float(), theirs[1]) + theirs[2])
    grad = torch.ones_like(expected)
    output.backward(grad.to(dtype))
    expected.backward(grad)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        if dtype == torch.float32:
            torch.testing.assert_close(mine.grad, other.grad)
        else:  # an activation's bend may be taken on the other side
            assert (mine.grad.float() - other.grad).abs().mean() < 0.05 * other.grad.abs().mean()


@pytest.mark.parametrize("padding", [1, "same", "valid"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
def test_the_output_has_the_memory_format_of_the_input(padding: Any, kernel: Pair) -> None:
    packed = pack(torch.randn(6, 8, *kernel))
    input = torch.randn(2, 8, 9, 9)
    for format_ in (torch.contiguous_format, torch.channels_last):
        given_input = input.contiguous(memory_format=format_)
        residual = sparse_conv2d(input, packed, padding=padding)
        for argument in (None, residual, residual.contiguous(memory_format=torch.channels_last)):
            output = sparse_conv2d(given_input, packed, padding=padding, residual=argument)
            assert output.is_contiguous(memory_format=format_)


def laid_out(residual: Tensor, like: str) -> Tensor:
    if like == "transposed":
        return residual.transpose(2, 3).contiguous().transpose(2, 3)
    if like == "slice":
        return torch.cat([residual, residual], dim=1)[:, : residual.shape[1]]
    return residual.contiguous(memory_format=getattr(torch, like))


@pytest.mark.parametrize("like", ["contiguous_format", "channels_last", "transposed", "slice"])
@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_the_output_can_go_to_a_tensor_of_its_own_or_to_the_residual(
    isa: str, strategy: str, dtype: torch.dtype, format_: torch.memory_format, like: str
) -> None:
    packed = pack(torch.randn(40, 24, 3, 3), torch.rand(40, 3, 3, 3) < 0.5, strategy=strategy)
    input = torch.randn(2, 24, 14, 15).to(dtype).contiguous(memory_format=format_)
    bias, geometry = torch.randn(40), ([2, 1], [1, 1], [1, 1], 1)
    residual = laid_out(torch.randn(2, 40, 7, 15).to(dtype), like)
    own = laid_out(torch.full((2, 40, 7, 15), torch.nan, dtype=dtype), like)
    into = torch.ops.l1sparse.sparse_conv2d_into
    first = (input, packed, [40, 24, 3, 3], bias, *geometry)
    for added, out in ((None, own), (residual, own), (residual, residual)):
        expected = sparse_conv2d(input, packed, bias, *geometry, added, "relu")
        pointer = out.data_ptr()
        into(*first, added, "relu", 0.0, 6.0, out)
        assert out.data_ptr() == pointer
        assert torch.equal(out, expected)


def test_inputs_that_share_memory_with_themselves_are_read_as_they_are(isa: str) -> None:
    weight, input = torch.randn(4, 8, 3, 3), torch.randn(2, 1, 1, 9).expand(2, 8, 7, 9)
    expected = F.conv2d(input.double(), weight.double())
    assert (sparse_conv2d(input, pack(weight)) - expected).abs().max() < 1e-4


def test_with_every_group_pruned_only_bias_and_residual_are_left(isa: str) -> None:
    packed = pack(torch.randn(5, 12, 3, 3), torch.zeros(5, 2, 3, 3, dtype=torch.bool))
    input = torch.full((2, 12, 6, 7), torch.nan)
    bias, residual = torch.randn(5), torch.randn(2, 5, 4, 5)
    assert torch.equal(sparse_conv2d(input, packed), torch.zeros(2, 5, 4, 5))
    expected = bias[:, None, None].expand(2, 5, 4, 5)
    assert torch.equal(sparse_conv2d(input, packed, bias), expected)
    both = sparse_conv2d(input, packed, bias, residual=residual, activation="relu")
    assert torch.equal(both, (expected + residual).relu())


@settings(max_examples=60)
@given(
    group=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 3, 4, 8, 16])),
    channels=st.integers(1, 20),
    activation=st.sampled_from(["none", "relu"]),
    layout=st.sampled_from(["contiguous", "channels_last"]),
    seed=st.integers(0, 2**31),
)
def test_nan_and_infinity_are_as_dense_where_kept_and_nothing_where_pruned(
    isa: str,
    in_layout: Callable[[Tensor, str], Tensor],
    pruned_weight: Callable[..., tuple[Tensor, Tensor]],
    group: Pair,
    channels: int,
    activation: str,
    layout: str,
    seed: int,
) -> None:
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    random = torch.Generator().manual_seed(seed)

    def sprinkle(tensor: Tensor, share: float) -> Tensor:
        chosen = special[torch.randint(4, tensor.shape, generator=random)]
        return torch.where(torch.rand(tensor.shape, generator=random) < share, chosen, tensor)

    weight, mask = pruned_weight((6, channels, 2, 3), group, 0.4, seed)
    full = expand_group_mask(mask, weight.shape, group).flatten(1)
    weight = sprinkle(weight, 0.02)
    input = sprinkle(torch.randn(1, channels, 5, 6, generator=random), 0.05)
    columns = F.unfold(input.double(), (2, 3))  # [1, channels * 6, 16]
    products = weight.double().flatten(1)[:, :, None] * columns
    expected = torch.where(full[:, :, None], products, 0).sum(1).reshape(1, 6, 4, 4)
    if activation == "relu":
        expected = expected.relu()
    packed = pack(weight, mask, group)
    output = sparse_conv2d(in_layout(input, layout), packed, activation=activation)
    torch.testing.assert_close(output.double(), expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_reference_is_dense_convolution_with_a_masked_weight(activation: str) -> None:
    input, weight = torch.randn(2, 6, 7, 7).double(), torch.randn(4, 3, 3, 3).double()
    mask, residual = torch.rand(4, 3, 3, 3) < 0.5, torch.randn(2, 4, 4, 4).double()
    output = reference.sparse_conv2d(
        input, weight, mask, None, (2, 2), (1, 1), (1, 1), 2, residual, activation, CLAMP
    )
    expected = ACTIVATE[activation](F.conv2d(input, weight * mask, None, 2, 1, 1, 2) + residual)
    torch.testing.assert_close(output, expected)
