# SPDX-License-Identifier: MIT
"""The samples that torch tests its own convolution with; `test_torch_samples.py` runs them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1sparse import SparseConv2d, pack, sparse_conv2d

pytest.importorskip("expecttest")  # torch's own tests need it
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
module_db = pytest.importorskip("torch.testing._internal.common_modules").module_db

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def run_sample(weight: Tensor, args: tuple[Any, ...], kwargs: Any, input: Tensor) -> Tensor:
    names = ("stride", "padding", "dilation", "groups")
    bias, *rest = (*args, None)[: max(len(args), 1)]
    options = {**dict(zip(names, rest, strict=False)), **kwargs}
    bias = options.pop("bias", bias)
    return sparse_conv2d(input, pack(weight), bias, **options)


def test_opinfo_samples_of_conv2d() -> None:
    (info,) = (op for op in op_db if op.name == "nn.functional.conv2d")
    ran = 0
    for sample in info.sample_inputs("cpu", torch.float32):
        weight, *args = sample.args
        expected = F.conv2d(sample.input, weight, *args, **sample.kwargs)
        actual = run_sample(weight, tuple(args), sample.kwargs, sample.input)
        torch.testing.assert_close(actual, expected, **CLOSE)
        ran += 1
    assert ran >= 8
    for error in info.error_inputs("cpu"):
        sample = error.sample_input
        weight, *args = sample.args
        with pytest.raises((RuntimeError, ValueError)):
            F.conv2d(sample.input, weight, *args, **sample.kwargs)
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            run_sample(weight, tuple(args), sample.kwargs, sample.input)


@pytest.mark.parametrize("mode", ["train", "eval", "train_sparse"])
def test_moduleinfo_samples_of_conv2d(mode: str) -> None:
    (info,) = (module for module in module_db if module.module_cls is nn.Conv2d)
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=mode != "eval"
    )
    assert samples
    for sample in samples:
        made = sample.constructor_input
        layer = SparseConv2d(*made.args, **made.kwargs).train(mode != "eval")
        layer.train_sparse(mode == "train_sparse")
        conv = nn.Conv2d(*made.args, **made.kwargs)
        conv.load_state_dict(layer.state_dict(), strict=True)
        given = sample.forward_input
        output = layer(*given.args, **given.kwargs)
        expected = conv(*given.args, **given.kwargs)
        torch.testing.assert_close(output, expected, **CLOSE)
        grads = torch.autograd.grad(output.square().sum(), list(layer.parameters()))
        wanted = torch.autograd.grad(expected.square().sum(), list(conv.parameters()))
        for one, other in zip(grads, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
