# SPDX-License-Identifier: MIT
"""Bad input to `sparse_conv2d`: an error names the argument, its value and what would be right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from l1sparse import pack, sparse_conv2d

INPUT = torch.randn(2, 12, 7, 7)
PACKED = pack(torch.randn(6, 12, 3, 3))
SHAPE = [6, 12, 3, 3]
OUTPUT = [2, 6, 5, 5]

# What is changed in a call that is right, and what the message has to say.
WRONG = [
    ({"input": INPUT.double()}, ["input", "float64", "float32"]),
    ({"input": INPUT.to(torch.int32)}, ["input", "float32"]),
    ({"input": INPUT[:, :8]}, ["input", "8 channels", "expected 12"]),
    ({"input": INPUT.to("meta")}, ["packed", "cpu", "meta"]),
    ({"input": INPUT[:, :, :2]}, ["input", "output", "size of 0", "at least 1"]),
    ({"input": INPUT[:0, :, :, :2]}, ["input", "output", "size of 0", "at least 1"]),
    ({"packed": torch.randn(6, 12, 3, 3)}, ["packed", "uint8"]),
    ({"packed": PACKED.to("meta")}, ["packed", "meta"]),
    ({"packed": PACKED[:100]}, ["packed", "100 bytes"]),
    ({"bias": torch.randn(4)}, ["bias", "4 values", "expected 6"]),
    ({"bias": torch.randn(1, 6)}, ["bias", "[1, 6]", "1 dimension"]),
    ({"bias": torch.randn(6).double()}, ["bias", "float32"]),
    ({"bias": torch.randn(6, device="meta")}, ["bias", "meta", "cpu"]),
    ({"residual": torch.randn(2, 6, 5, 4)}, ["residual", "[2, 6, 5, 4]", "[2, 6, 5, 5]"]),
    ({"residual": torch.randn(1, 6, 5, 5)}, ["residual", "[1, 6, 5, 5]", "[2, 6, 5, 5]"]),
    ({"residual": torch.randn(6, 5, 5)}, ["residual", "[6, 5, 5]", "4 dimensions"]),
    ({"residual": torch.zeros(OUTPUT).half()}, ["residual", "float16", "float32"]),
    ({"residual": torch.zeros(OUTPUT, device="meta")}, ["residual", "meta", "cpu"]),
    ({"stride": [0, 1]}, ["stride", "0", "at least 1"]),
    ({"stride": [1, -2]}, ["stride", "-2", "at least 1"]),
    ({"padding": [-1, 0]}, ["padding", "-1", "at least 0"]),
    ({"padding": [0, 2**62]}, ["padding", str(2**62)]),
    ({"dilation": [1, 0]}, ["dilation", "0", "at least 1"]),
    ({"dilation": [2**62, 1]}, ["dilation", str(2**62)]),
    ({"groups": 0}, ["groups", "0", "at least 1"]),
    ({"groups": -3}, ["groups", "-3", "at least 1"]),
    ({"groups": 4}, ["groups", "4", "6 output channels"]),
    ({"groups": 2}, ["input", "12 channels", "expected 24"]),
    ({"groups": 1.5}, ["groups", "int", "float"]),
    ({"activation": "gelu"}, ["activation", "'gelu'", "'none'", "'relu'"]),
    ({"activation": ""}, ["activation", "''", "'none'", "'relu'"]),
]
IDS = [f"{name}-{i}" for i, (change, _) in enumerate(WRONG) for name in change]


def arguments(change: dict[str, Any]) -> dict[str, Any]:
    return {"input": INPUT, "packed": PACKED, **change}


@pytest.mark.parametrize(("change", "parts"), WRONG, ids=IDS)
def test_the_wrapper_reports(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)) as error:
        sparse_conv2d(**arguments(change))
    assert all(part in str(error.value).lower() for part in map(str.lower, parts)), error.value


@pytest.mark.parametrize(("change", "parts"), WRONG, ids=IDS)
def test_a_direct_call_reports(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(RuntimeError) as error:
        torch.ops.l1sparse.sparse_conv2d(**arguments(change), weight_shape=SHAPE)
    assert all(part in str(error.value) for part in parts), error.value


def arguments_into(change: dict[str, Any]) -> dict[str, Any]:
    rest = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": None}
    rest |= {"residual": None, "activation": "none", "clamp_min": 0.0, "clamp_max": 6.0}
    return {**rest, **arguments({}), "out": torch.zeros(OUTPUT), "weight_shape": SHAPE, **change}


def convolve_into(**change: Any) -> None:
    torch.ops.l1sparse.sparse_conv2d_into(**arguments_into(change))


@pytest.mark.parametrize(("change", "parts"), WRONG, ids=IDS)
def test_a_call_that_writes_into_a_tensor_reports(change: dict[str, Any], parts: list[str]) -> None:
    if "size of 0" in parts:
        parts = ["out", str(OUTPUT), "expected the output's"]
    with pytest.raises(RuntimeError) as error:
        convolve_into(**change)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (torch.zeros(OUTPUT).double(), "out: has dtype float64, expected float32, the input's"),
        (torch.zeros(OUTPUT[1:]), f"out: has shape {OUTPUT[1:]}, expected 4 dimensions"),
        (torch.zeros(*OUTPUT[:3], 9), f"expected the output's {OUTPUT}"),
    ],
)
def test_a_tensor_that_does_not_fit_the_output_is_an_error(out: Tensor, text: str) -> None:
    before = out.clone()
    with pytest.raises(RuntimeError) as error:
        convolve_into(out=out)
    assert text in str(error.value)
    assert torch.equal(out, before)


def test_the_output_is_not_written_over_what_is_still_read() -> None:
    memory = torch.zeros(4096)
    out = memory[:300].view(OUTPUT)
    for name, value in {
        "input": memory[299 : 299 + INPUT.numel()].view_as(INPUT),
        "bias": memory[294:300],
        "packed": memory[: PACKED.numel() // 4].view(torch.uint8).copy_(PACKED),
        "residual": memory[1:301].view(OUTPUT),
    }.items():
        before = memory.clone()
        with pytest.raises(RuntimeError, match=r"^out: shares memory with .*") as error:
            convolve_into(out=out, **{name: value})
        assert name in str(error.value)
        assert torch.equal(memory.view(torch.int32), before.view(torch.int32))
    convolve_into(out=out, input=memory[300 : 300 + INPUT.numel()].view_as(INPUT))
    convolve_into(out=out, residual=out)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [(1, 1, 1), (1,), (), 1.5, (1, 1.5), None])
def test_what_is_no_pair_of_whole_numbers_is_an_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .* a whole number or a pair") as error:
        sparse_conv2d(INPUT, PACKED, **{name: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("shape", [(7, 7), (12,), (1, 2, 12, 7, 7)])
def test_an_input_of_other_than_three_or_four_dimensions_is_an_error(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"^input: has shape .* \[N, C, H, W\] or 3") as error:
        sparse_conv2d(torch.zeros(shape), PACKED)
    assert str(list(shape)) in str(error.value)


def test_a_direct_call_takes_four_dimensions_only() -> None:
    with pytest.raises(RuntimeError, match=r"^input: has shape \[12, 7, 7\], expected 4"):
        torch.ops.l1sparse.sparse_conv2d(INPUT[0], PACKED, SHAPE)


@pytest.mark.parametrize("value", ["full", "SAME", ""])
def test_an_unknown_padding_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match=rf"^padding: got '{value}', .*'same' or 'valid'"):
        sparse_conv2d(INPUT, PACKED, padding=value)


def test_same_padding_with_a_stride_is_an_error_as_in_nn_conv2d() -> None:
    with pytest.raises(ValueError, match=r"^stride: got \[2, 2\], expected 1"):
        sparse_conv2d(INPUT, PACKED, stride=2, padding="same")


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [[], [1], [1, 1, 1]])
def test_a_direct_call_takes_pairs_only(name: str, value: list[int]) -> None:
    with pytest.raises(RuntimeError, match=rf"^{name}: has {len(value)} numbers, expected 2"):
        torch.ops.l1sparse.sparse_conv2d(INPUT, PACKED, SHAPE, **{name: value})


@pytest.mark.parametrize("shape", [[], [6, 12, 3], [6, 12, 3, 4], [12, 6, 3, 3], [-6, 12, 3, 3]])
@pytest.mark.parametrize("use", [sparse_conv2d, torch.ops.l1sparse.sparse_conv2d])
def test_the_weight_shape_is_held_against_the_buffer(use: Any, shape: list[int]) -> None:
    with pytest.raises(RuntimeError, match=r"^weight_shape: ") as error:
        use(INPUT, PACKED, weight_shape=shape)
    assert str(shape) in str(error.value)
    assert str(SHAPE) in str(error.value)


def test_an_error_leaves_the_operator_usable() -> None:
    with pytest.raises(RuntimeError):
        sparse_conv2d(INPUT, PACKED[:100])
    assert sparse_conv2d(INPUT, PACKED).shape == torch.Size(OUTPUT)
