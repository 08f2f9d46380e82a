# SPDX-License-Identifier: MIT
"""The convolutions that are timed on a GPU, and how nearly they have to be right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from candidates import LAYOUTS, Call, Candidate, eager
from l1sparse.gpu.weights import weight_of
from suites import Layer

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""``float32`` keeps to float32 arithmetic; ``tf32`` may round to TF32, dense and ours."""

DENSE_SUMS = {"float32": 2.0**-14, "tf32": 2.0**-9, "bfloat16": 2.0**-8, "float16": 2.0**-10}
"""What dense sums may be off by, of their magnitude: cuDNN may take Winograd's algorithm."""
OUR_SUMS = {"float32": 2.0**-20, "tf32": 2.0**-9, "bfloat16": 2.0**-16, "float16": 2.0**-16}
"""Tensor cores cut bits off when they add; TF32 rounds inputs and weights by 2^-11 each."""


def dense_candidates(layer: Layer, input: Tensor, weight: Tensor) -> list[Candidate]:
    """CuDNN through `F.conv2d` (see `cudnn_benchmark`), NCHW and channels_last.

    Args:
        layer: what to compute.
        input: ``[N, C, H, W]``, on the GPU.
        weight: ``[O, C, kH, kW]``, of the same dtype.
    """
    size = input.nbytes + weight.nbytes
    return [
        Candidate(f"cuDNN {layout}", partial(eager, layer, input, weight, layout), size)
        for layout in LAYOUTS
    ]


def our_candidates(
    layer: Layer, input: Tensor, packed: Tensor, layouts: Sequence[str], backend: str
) -> list[Candidate]:
    """`sparse_conv2d` on an input in each of `layouts`, its output in the same.

    Args:
        layer: what to compute.
        input: ``[N, C, H, W]``, on the GPU.
        packed: the packed weight, there as well; all candidates share it and its plans.
        layouts: of `LAYOUTS`; the candidates have these names.
        backend: see `l1sparse.sparse_conv2d`.
    """
    size = input.nbytes + packed.nbytes
    return [
        Candidate(layout, partial(_ours, layer, input, packed, layout, backend), size)
        for layout in layouts
    ]


def layouts_of(packed: Tensor) -> str:
    """The kernels' layouts that a packed weight was brought to, as ``tensor_core``."""
    return ", ".join(weight_of(packed).layouts)


def sparse_conv2d(input: Tensor, packed: Tensor, layer: Layer, backend: str) -> Tensor:
    """The operator itself, without the Python around it, as a compiled network would call it."""
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    operator = torch.ops.l1sparse.sparse_conv2d.default
    arguments = (input, packed, layer.weight_shape, None, stride, padding)
    return cast(Tensor, operator(*arguments, backend=backend))


def _ours(layer: Layer, input: Tensor, packed: Tensor, layout: str, backend: str) -> Call:
    copy = input.clone(memory_format=LAYOUTS[layout])
    return partial(sparse_conv2d, copy, packed, layer, backend)
