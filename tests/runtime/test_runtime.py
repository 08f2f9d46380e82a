# SPDX-License-Identifier: MIT
"""l1sparse.runtime computes on NumPy arrays what the torch operators compute on tensors."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import l1sparse
from l1sparse import _runtime, runtime

RANDOM = np.random.default_rng(0)


def floats(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(dtype)


def packed_of(shape: tuple[int, ...], group: Any = (1, 8)) -> np.ndarray[Any, Any]:
    mask = RANDOM.random(l1sparse.GroupShape.of(group).grid(shape)) < 0.5
    return runtime.pack(floats(*shape) / 8, mask, group)


def unaligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert array.itemsize == 1 or not view.flags.aligned
    return view


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "backwards": lambda x: x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "every second": lambda x: np.repeat(x, 2, 3)[..., ::2],
    "unaligned": unaligned,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "fields": lambda x: np.rec.fromarrays([x, x.astype(np.int8)])["f0"],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("last", [False, True])
def test_convolution_is_the_torch_operators(layout: str, dtype: Any, last: bool) -> None:
    input, packed = floats(2, 16, 9, 7, dtype=dtype), packed_of((6, 8, 3, 3), "1x4")
    bias, residual = floats(6), floats(2, 6, 4, 5, dtype=dtype)
    for activation in l1sparse.ops.ACTIVATIONS:
        arguments: dict[str, Any] = {
            "stride": (2, 1),
            "padding": (0, 1),
            "dilation": (1, 2),
            "groups": 2,
            "activation": activation,
            "clamp": (-0.5, 0.75),
        }
        output = runtime.conv2d(
            LAYOUTS[layout](input), packed, bias, residual=residual, channels_last=last, **arguments
        )
        expected = l1sparse.sparse_conv2d(
            torch.from_numpy(input),
            torch.from_numpy(packed.copy()).clone(),
            torch.from_numpy(bias),
            residual=torch.from_numpy(residual),
            **arguments,
        ).numpy()
        assert output.dtype == dtype
        assert output.shape == expected.shape
        assert output.transpose(0, 2, 3, 1).flags.c_contiguous is last
        tolerance = 1e-5 if dtype == np.float32 else 2e-3
        np.testing.assert_allclose(output, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("axes", [(1, 1, 1, 1), (1, 8, 1, 1), (1, 1, 1, 5), (2, 8, 5, 1)])
def test_elements_may_lie_in_one_place(axes: tuple[int, ...]) -> None:
    packed, values = packed_of((6, 8, 3, 3)), floats(*axes)
    input = np.broadcast_to(values, (2, 8, 5, 5))
    expected = runtime.conv2d(np.ascontiguousarray(input), packed)
    np.testing.assert_array_equal(runtime.conv2d(input, packed), expected)


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_padding_has_words(padding: Any) -> None:
    input, packed = floats(1, 8, 6, 6), packed_of((4, 8, 2, 4))
    expected = l1sparse.sparse_conv2d(
        torch.from_numpy(input), torch.from_numpy(packed.copy()).clone(), padding=padding
    )
    output = runtime.conv2d(input, runtime.Weight(packed), padding=padding)
    np.testing.assert_allclose(output, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_packing_and_norms_are_the_torch_operators() -> None:
    weight = floats(6, 10, 3, 3)
    mask = RANDOM.random((3, 3, 3, 3)) < 0.5
    tensors = torch.from_numpy(weight), torch.from_numpy(mask)
    for strategy in ("auto", "channels", "pixels", "filters"):
        packed = runtime.pack(weight.astype(np.float64), mask, "2x4", strategy)
        assert packed.tobytes() == l1sparse.pack(*tensors, (2, 4), strategy).numpy().tobytes()
    dense = runtime.unpack(unaligned(packed))
    np.testing.assert_array_equal(dense, l1sparse.unpack(l1sparse.pack(*tensors, (2, 4))).numpy())
    norms = runtime.group_l1_norm(weight[:, ::-1][:, ::-1], (2, 4))
    np.testing.assert_allclose(norms, l1sparse.group_l1_norm(tensors[0], (2, 4)), rtol=1e-6)
    assert runtime.Weight(packed).shape == (6, 10, 3, 3)
    assert str(runtime.Weight(packed).group) == "2x4"


def test_a_weight_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, input = packed_of((4, 8, 3, 3)).copy(), floats(1, 8, 6, 6)
    weight = runtime.Weight(packed)
    expected = runtime.conv2d(input, weight)
    packed[:] = 255
    np.testing.assert_array_equal(runtime.conv2d(input, weight), expected)


GOOD = packed_of((4, 8, 3, 3))
X = floats(1, 8, 6, 6)
WRONG: list[tuple[Any, str]] = [
    (lambda: runtime.conv2d(X[0], GOOD), r"input: is float32 of shape \[8, 6, 6\]"),
    (lambda: runtime.conv2d(X.astype(int), GOOD), "input: is int64"),
    (lambda: runtime.conv2d(X[:, :7], GOOD), "input: has 7 channels, expected 8"),
    (lambda: runtime.conv2d(X, GOOD, floats(3)), "bias: has 3 values, expected 4"),
    (lambda: runtime.conv2d(X, GOOD, stride=0), "stride: 0"),
    (lambda: runtime.conv2d(X, GOOD, stride="2"), "stride: got '2'"),
    (lambda: runtime.conv2d(X, GOOD, padding=-1), "padding: -1"),
    (lambda: runtime.conv2d(X, GOOD, padding="most"), "padding: got 'most'"),
    (lambda: runtime.conv2d(X, GOOD, dilation=9), "output would have a size of 0"),
    (lambda: runtime.conv2d(X, GOOD, groups=3), "groups: 3 does not divide"),
    (lambda: runtime.conv2d(X, GOOD, activation="tanh"), "activation: got 'tanh'"),
    (lambda: runtime.conv2d(X, GOOD, activation="clamp", clamp=(1, 0)), "low: is above high"),
    (lambda: runtime.conv2d(X, GOOD, residual=X), "residual: is float32 of shape"),
    (lambda: runtime.conv2d(X, GOOD[:-1]), "bytes, expected the"),
    (lambda: runtime.conv2d(X, GOOD.astype(np.int8)), "packed: has dtype int8"),
    (lambda: runtime.unpack(np.r_[GOOD[:-1], GOOD[-1] ^ 1]), "checksum"),
    (lambda: runtime.pack(floats(2, 8, 1, 1), np.ones((2, 2, 1, 1), bool)), "mask: is bool of"),
    (lambda: runtime.pack(floats(2, 8, 1, 1), np.ones((2, 1, 1, 1))), "mask: is float64"),
    (lambda: runtime.pack(floats(2, 8), np.ones((2, 1), bool)), "weight: has shape"),
    (lambda: runtime.pack(floats(2, 8, 1, 1), np.ones((2, 1, 1, 1), bool), "1x8", "x"), "strategy"),
    (lambda: runtime.group_l1_norm(floats(2, 0, 1, 1), "1x8"), "none of them 0"),
]


@pytest.mark.parametrize(("call", "text"), WRONG, ids=[text for _, text in WRONG])
def test_wrong_arguments_are_named(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (np.empty((1, 4, 4, 3), np.float32), ValueError),
        (np.empty((1, 4, 4, 8), np.float32)[..., ::2], ValueError),
        (np.empty((1, 4, 4, 4), np.float32)[..., ::-1], ValueError),
        (np.empty((1, 4, 4, 4), np.float16), TypeError),
        (np.frombuffer(bytes(256), np.float32).reshape(1, 4, 4, 4), (ValueError, BufferError)),
        (None, TypeError),
    ],
)
def test_the_native_module_checks_memory_itself(output: Any, error: Any) -> None:
    weight = _runtime.open_weight(GOOD)
    numbers = ((1, 1), (0, 0, 0, 0), (1, 1), 1, 0, 0.0, 6.0, False)
    with pytest.raises(error):
        _runtime.conv2d(X, weight, None, None, output, *numbers)
    one_place = np.broadcast_to(X[:1, :1, :1, :1], X.shape)
    with pytest.raises(ValueError, match=r"input: lies .* all in one place"):
        _runtime.conv2d(one_place, weight, None, None, X, *numbers)
    with pytest.raises((TypeError, ValueError)):
        _runtime.conv2d(X, object(), None, None, X, *numbers)


def test_the_lock_is_released() -> None:
    """While a convolution runs another thread goes on; with the lock held it could not."""
    weight, input = runtime.Weight(packed_of((256, 256, 3, 3))), floats(8, 256, 56, 56)
    begun, ended = threading.Event(), threading.Event()

    def convolve() -> None:
        begun.set()
        runtime.conv2d(input, weight, padding=1)
        ended.set()

    thread = threading.Thread(target=convolve)
    interval = sys.getswitchinterval()
    # So long that only a released lock lets this thread on.
    sys.setswitchinterval(60.0)
    try:
        thread.start()
        begun.wait()
        time.sleep(0.01)
        went_on = not ended.is_set()
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert went_on


def test_a_compressed_files_tensors_are_read(tmp_path: Path) -> None:
    network = nn.Sequential(l1sparse.SparseConv2d(8, 4, 3), nn.Conv2d(4, 2, 1)).eval()
    l1sparse.save(network, tmp_path / "network.l1s")
    tensors = runtime.load(tmp_path / "network.l1s")
    assert set(tensors) == {"0.packed", "0.bias", "1.weight", "1.bias"}
    assert tensors["0.packed"].tobytes() == network[0].packed_weight().numpy().tobytes()
    np.testing.assert_array_equal(tensors["1.weight"], network[1].weight.detach().numpy())
    output = runtime.conv2d(X, tensors["0.packed"], tensors["0.bias"])
    with torch.no_grad():
        expected = network[0](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    network = nn.Sequential(l1sparse.SparseConv2d(8, 4, 3)).eval()
    l1sparse.save(network, tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    size = int.from_bytes(good[:8], "little")
    damages = [
        good[:4],
        good[:-1],
        b"\xff" * 8 + good[8:],
        good.replace(b'"U8"', b'"X8"'),
        good.replace(b"l1sparse", b"l2sparse", 1),
        good[:8] + b"[" + good[9:],
        good[:8] + b"\x80" * size + good[8 + size :],
        good[:8] + b"7".ljust(size) + good[8 + size :],
    ]
    for content in damages:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or foreign"):
            runtime.load(tmp_path / "bad")
    with pytest.raises(FileNotFoundError):
        runtime.load(tmp_path / "none")
