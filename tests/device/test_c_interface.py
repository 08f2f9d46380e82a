# SPDX-License-Identifier: MIT
"""The C interface computes what the torch operator does, and says what is wrong with arguments."""

from __future__ import annotations

import ctypes as c
import itertools
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from c_build import SMALL_ISA
from c_library import (
    ACTIVATIONS,
    DTYPES,
    RUN,
    Library,
    Shape,
    Sizes,
    StatusError,
    Tensors,
    Threads,
    Weight,
)
from torch import Tensor

import l1sparse
from l1sparse.build import force_arch, force_arch_from_environment

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
# Name: weight shape, group, strides, padding, dilation, groups.
GEOMETRIES: dict[str, tuple[Any, ...]] = {
    "3x3": ((9, 16, 3, 3), (1, 8), (1, 1), (1, 1), (1, 1), 1),
    "1x1": ((12, 20, 1, 1), (4, 4), (1, 1), (0, 0), (1, 1), 1),
    "stride, short groups": ((7, 10, 3, 5), (2, 4), (2, 3), (1, 2), (1, 1), 1),
    "dilation": ((4, 8, 3, 3), (1, 8), (1, 1), (2, 2), (2, 2), 1),
    "convolution groups": ((8, 6, 3, 3), (1, 4), (1, 1), (1, 1), (1, 1), 2),
}


@pytest.fixture(scope="module", params=["installed", "small"])
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.getfixturevalue(request.param))


def packed_of(shape: tuple[int, ...], group: tuple[int, int], strategy: str = "auto") -> Tensor:
    weight = torch.randn(shape) / 8
    mask = torch.rand(l1sparse.GroupShape(*group).grid(shape)) < 0.5
    return torch.ops.l1sparse.pack(weight, mask, list(group), strategy)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "sliced"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_is_the_torch_operators(
    library: Library,
    geometry: str,
    layout: str,
    dtype: torch.dtype,
    in_layout: Callable[[Tensor, str], Tensor],
) -> None:
    shape, group, stride, padding, dilation, groups = GEOMETRIES[geometry]
    input = in_layout(torch.randn(2, shape[1] * groups, 9, 11).to(dtype), layout)
    last = layout == "channels_last"
    for strategy, activation, with_bias, with_residual in itertools.product(
        ("channels", "pixels", "filters"),
        ("none", "relu", "clamp", "hardswish"),
        (True, False),
        (True, False),
    ):
        packed = packed_of(shape, group, strategy)
        bias = torch.randn(shape[0]) if with_bias else None
        arguments = (stride, padding, dilation, groups)
        plain = l1sparse.sparse_conv2d(input, packed, None, *arguments)
        residual = torch.randn_like(plain) if with_residual else None
        expected = l1sparse.sparse_conv2d(
            input, packed, bias, *arguments, residual, activation, clamp=(-0.5, 0.75)
        )
        options = library.options(
            *input.shape,
            input_strides=input.stride(),
            stride_h=stride[0],
            stride_w=stride[1],
            pad_top=padding[0],
            pad_bottom=padding[0],
            pad_left=padding[1],
            pad_right=padding[1],
            dilation_h=dilation[0],
            dilation_w=dilation[1],
            groups=groups,
            dtype=DTYPES[dtype],
            format=int(last),
            activation=ACTIVATIONS[activation],
            low=-0.5,
            high=0.75,
        )
        output = library.conv2d(input, library.open(packed), options, bias, residual)
        torch.testing.assert_close(output, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("last", [False, True])
def test_an_input_without_strides_lies_dense(library: Library, last: bool) -> None:
    packed = packed_of((6, 8, 3, 3), (1, 8))
    memory_format = torch.channels_last if last else torch.contiguous_format
    input = torch.randn(2, 8, 6, 5).contiguous(memory_format=memory_format)
    output = library.conv2d(
        input, library.open(packed), library.options(2, 8, 6, 5, format=int(last))
    )
    torch.testing.assert_close(output, l1sparse.sparse_conv2d(input, packed))


def test_zeros_at_each_side_may_differ(library: Library) -> None:
    packed, input = packed_of((6, 8, 2, 4), (1, 8)), torch.randn(1, 8, 7, 7)
    options = library.options(1, 8, 7, 7, pad_bottom=1, pad_left=1, pad_right=2)
    output = library.conv2d(input, library.open(packed), options)
    torch.testing.assert_close(output, l1sparse.sparse_conv2d(input, packed, padding="same"))


def test_threads_are_the_callers(library: Library) -> None:
    calls: list[int] = []

    def run(pool: Any, count: int, body: Any, context: Any) -> None:
        calls.append(count)
        assert pool == 77
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda i: body(context, i), range(count)))

    packed, input = packed_of((64, 8, 3, 3), (1, 8)), torch.randn(2, 8, 40, 40)
    threads = Threads(RUN(run), 77, 3)
    output = library.conv2d(
        input, library.open(packed), library.options(2, 8, 40, 40), threads=threads
    )
    torch.testing.assert_close(output, l1sparse.sparse_conv2d(input, packed))
    assert calls == [3]


def test_packing_norms_and_unpacking(library: Library) -> None:
    weight = torch.randn(6, 10, 3, 3)
    shape = Shape(6, 10, 3, 3, 2, 4)
    grid = (c.c_int64 * 4)()
    library.check(library.c.l1sparse_grid(c.byref(shape), grid))
    mask = torch.rand(*grid) < 0.5
    expected = l1sparse.pack(weight, mask, (2, 4))
    size = c.c_size_t()
    at = c.c_void_p
    arguments = (c.byref(shape), at(weight.data_ptr()))
    library.check(
        library.c.l1sparse_pack_bytes(c.byref(shape), at(mask.data_ptr()), 0, c.byref(size))
    )
    packed = torch.empty(size.value, dtype=torch.uint8)
    library.check(
        library.c.l1sparse_pack(
            *arguments, at(mask.data_ptr()), 0, at(packed.data_ptr()), c.c_size_t(size.value)
        )
    )
    assert torch.equal(packed, expected)
    dense = torch.empty_like(weight)
    opened = library.open(packed)
    library.check(library.c.l1sparse_unpack(c.byref(opened), at(dense.data_ptr())))
    assert torch.equal(dense, l1sparse.unpack(expected))
    norms = torch.empty(*grid)
    library.check(library.c.l1sparse_group_l1_norm(*arguments, None, at(norms.data_ptr())))
    torch.testing.assert_close(norms, l1sparse.group_l1_norm(weight, (2, 4)))


WRONG_OPTIONS: list[tuple[dict[str, Any], int, str]] = [
    ({"struct_size": 8}, 101, "options: a struct_size of 8"),
    ({"batch": -1}, 102, "batch: -1 is not usable, expected at least 0"),
    ({"in_h": 0}, 102, "in_h: 0"),
    ({"in_w": 1 << 40}, 102, "in_w: 1099511627776 is not usable, expected at most"),
    ({"in_channels": 9}, 16, "input: has 9 channels, expected 8"),
    ({"dtype": 3}, 102, "dtype: 3"),
    ({"format": 2}, 102, "format: 2"),
    ({"activation": 4}, 102, "activation: 4"),
    ({"activation": 2, "low": 1.0, "high": 0.0}, 103, "low: is above high"),
    ({"activation": 2, "low": float("nan")}, 103, "low"),
    ({"stride_h": 0}, 18, "stride: 0"),
    ({"pad_top": -1}, 19, "padding: -1"),
    ({"pad_right": -2}, 19, "padding: -2"),
    ({"dilation_w": 0}, 20, "dilation: 0"),
    ({"groups": 0}, 21, "groups: 0"),
    ({"groups": 4}, 17, "groups: 4 does not divide"),
    ({"in_h": 2}, 22, "output would have a size of 0"),
    ({"batch": (1 << 30) - 1, "in_h": 1 << 29, "in_w": 1 << 29}, 4, "size"),
]


@pytest.mark.parametrize(("changes", "code", "text"), WRONG_OPTIONS)
def test_wrong_options_give_a_status_and_a_text(
    library: Library, changes: dict[str, Any], code: int, text: str
) -> None:
    weight, sizes, tensors = library.open(packed_of((6, 8, 3, 3), (1, 8))), Sizes(), Tensors()
    options = library.options(1, 8, 5, 5, **changes)
    queried = library.c.l1sparse_conv2d_query(
        c.byref(weight), c.byref(options), c.c_int64(1), c.byref(sizes)
    )
    ran = library.c.l1sparse_conv2d(
        c.byref(weight), c.byref(options), c.byref(tensors), None, None, c.c_size_t(0)
    )
    for status in (queried, ran):
        assert status.code == code
        assert text in library.text(status)
    assert sizes.workspace_bytes == 0


def test_wrong_memory_gives_a_status_and_a_text(library: Library) -> None:
    weight, options = library.open(packed_of((6, 8, 3, 3), (1, 8))), library.options(1, 8, 5, 5)
    sizes, memory = Sizes(), torch.zeros(1 << 20, dtype=torch.uint8)
    library.check(
        library.c.l1sparse_conv2d_query(
            c.byref(weight), c.byref(options), c.c_int64(1), c.byref(sizes)
        )
    )
    needed, start = sizes.workspace_bytes, memory.data_ptr() + -memory.data_ptr() % 64
    full = Tensors(start, None, None, start + 65536)

    def ran(tensors: Tensors | None, workspace: int | None, size: int) -> str:
        status = library.c.l1sparse_conv2d(
            c.byref(weight),
            c.byref(options),
            None if tensors is None else c.byref(tensors),
            None,
            c.c_void_p(workspace),
            c.c_size_t(size),
        )
        assert status.code >= 100
        return library.text(status)

    scratch = start + 131072
    assert "tensors: is a null pointer" in ran(None, scratch, needed)
    assert "input: is a null pointer" in ran(Tensors(None, None, None, start), scratch, needed)
    assert "output: is a null pointer" in ran(Tensors(start, None, None, None), scratch, needed)
    assert f"has {needed - 1} bytes, expected at least {needed}" in ran(full, scratch, needed - 1)
    assert "workspace: is a null pointer" in ran(full, None, needed)
    assert "workspace: starts 4 bytes past" in ran(full, scratch + 4, needed)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda packed: packed[:32], "32 bytes are too few"),
        (lambda packed: packed[:-4].clone(), "bytes, expected the"),
        (lambda packed: torch.cat([packed[:1] * 0, packed[1:]]), "L1SPARSE"),
        (lambda packed: torch.cat([packed[:-1], packed[-1:] ^ 1]), "checksum"),
        (lambda packed: torch.cat([packed[:1], packed])[1:], "1 bytes past a multiple of 8"),
    ],
)
def test_a_damaged_weight_is_not_opened(
    library: Library, damage: Callable[[Tensor], Tensor], text: str
) -> None:
    packed = damage(packed_of((6, 8, 3, 3), (1, 8)))
    with pytest.raises(StatusError, match=text):
        library.open(packed)


def test_memory_that_is_no_weight_is_told(library: Library) -> None:
    with pytest.raises(StatusError, match="l1sparse_weight_open"):
        library.conv2d(torch.zeros(1), Weight(), library.options(1, 1, 1, 1))


def test_version_features_and_instruction_sets(installed: Path, small: Path) -> None:
    whole, one = Library(installed), Library(small)
    assert whole.c.l1sparse_version() == 100
    names = ("avx512_bf16", "avx512", "avx2", "neon", "scalar")
    compiled = [name for name in names if whole.c.l1sparse_has(name.encode())]
    assert compiled == l1sparse.build_info()["compiled"]
    alone = SMALL_ISA[platform.machine()]
    assert [name for name in names if one.c.l1sparse_has(name.encode())] == [alone]
    assert one.c.l1sparse_isa().decode() == alone
    assert one.c.l1sparse_has(b"float16") == 1
    assert one.c.l1sparse_has(b"telepathy") == 0
    with pytest.raises(StatusError, match="no instruction set"):
        one.check(one.c.l1sparse_select_isa(b"scalar"))
    whole.check(whole.c.l1sparse_select_isa(b"scalar"))
    assert whole.c.l1sparse_isa() == b"scalar"
    whole.check(whole.c.l1sparse_select_isa(b""))
    force_arch("")
    try:
        assert whole.c.l1sparse_isa().decode() == l1sparse.build_info()["chosen"]
    finally:
        force_arch_from_environment()
