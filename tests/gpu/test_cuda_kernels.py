# SPDX-License-Identifier: MIT
"""The CUDA kernels' own PTX, run by the interpreter and held against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gpu_case import Case, tensors_of
from kernel_runner import Runner
from torch import Tensor

from l1sparse import GroupShape, reference

HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32

TC = Case(80, 32, (3, 3), (6, 7), "16x16", "tensor_core", HALF, padding=(1, 1), density=0.4)
SIMT = Case(70, 24, (3, 3), (6, 7), "1x8", "simt", HALF, padding=(1, 1), density=0.3)

TENSOR_CORE = {
    "half": (TC, {}),
    "bfloat16": (TC.but(dtype=BFLOAT), {}),
    "tf32": (TC.but(dtype=FLOAT, group="16x8", channels=24), {}),
    "128 pixels": (TC.but(size=(11, 12), residual=True, activation="relu"), {"pixels": 128}),
    "128 pixels, tf32": (TC.but(dtype=FLOAT, group="16x8", channels=16, size=(12, 11)),
                         {"pixels": 128}),
    "8 strips": (TC.but(filters=144, size=(12, 11), residual=True), {"strips": 8}),
    "8 strips, bfloat16": (TC.but(filters=144, dtype=BFLOAT, activation="relu"), {"strips": 8}),
    "8 strips, tf32": (TC.but(filters=130, dtype=FLOAT, group="16x8"), {"strips": 8}),
    "stride": (TC.but(stride=(2, 3), size=(9, 11), batch=2), {}),
    "dilation": (TC.but(dilation=(2, 3), padding=(2, 1), size=(8, 9)), {}),
    "no padding, 1x1": (TC.but(kernel=(1, 1), padding=(0, 0), batch=2), {}),
    "padding beyond the input": (TC.but(kernel=(1, 1), padding=(3, 2), size=(2, 2)), {}),
    "5x2 kernel": (TC.but(kernel=(5, 2), padding=(2, 0)), {}),
    "conv groups": (TC.but(groups=3, filters=20, channels=16), {}),
    "conv groups, odd filters": (TC.but(groups=2, filters=17, channels=16, residual=True), {}),
    "odd filters": (TC.but(filters=37, residual=True, activation="hardswish"), {}),
    "few filters": (TC.but(filters=3, bias=False), {}),
    "nothing kept": (TC.but(density=0.0, residual=True, activation="clamp"), {}),
    "everything kept": (TC.but(density=1.0, filters=64), {}),
    "sparse": (TC.but(density=0.06), {}),
    "fill-in": (TC.but(group="1x16", density=0.1, filters=32), {}),
    "one pixel": (TC.but(size=(1, 1), kernel=(1, 1), padding=(0, 0)), {}),
    "splits": (TC.but(channels=64, residual=True, activation="relu"), {"splits": 3}),
    "splits, 8 strips": (TC.but(channels=32, filters=144, dtype=BFLOAT), {"strips": 8,
                                                                         "splits": 2}),
    "splits, tf32, odd": (TC.but(dtype=FLOAT, group="16x8", filters=21, groups=2), {"splits": 4}),
    "more splits than columns": (TC.but(density=0.05, kernel=(1, 1), padding=(0, 0)),
                                 {"splits": 9}),
    "everything at once": (TC.but(batch=2, filters=24, groups=2, stride=(2, 1), padding=(2, 3),
                                  dilation=(1, 2), residual=True, activation="hardswish",
                                  size=(9, 8)), {"splits": 2}),
}  # fmt: skip

CP = TC.but(group="1x8", layout="compressed", density=0.2)

COMPRESSED = {
    "1x8": (CP, {}),
    "1x8, bfloat16": (CP.but(dtype=BFLOAT, residual=True, activation="relu"), {}),
    "1x8, tf32": (CP.but(dtype=FLOAT, channels=24), {}),
    "1x16": (CP.but(group="1x16", channels=48), {}),
    "1x16, bfloat16": (CP.but(group="1x16", dtype=BFLOAT), {}),
    "4x4, fill-in": (CP.but(group="4x4", density=0.1), {}),
    "16x16": (CP.but(group="16x16", density=0.5), {}),
    "one weight of a piece": (CP.but(group="1x1", density=0.01), {}),
    "two tiles of pixels": (CP.but(size=(9, 11), residual=True, activation="hardswish"), {}),
    "1x1": (CP.but(kernel=(1, 1), padding=(0, 0), batch=2, channels=80), {}),
    "one column": (CP.but(kernel=(1, 1), padding=(0, 0), channels=16), {}),
    "one pixel": (CP.but(kernel=(1, 1), padding=(0, 0), size=(1, 1)), {}),
    "stride": (CP.but(stride=(2, 3), size=(9, 11), batch=2), {}),
    "dilation": (CP.but(dilation=(2, 3), padding=(2, 1), size=(8, 9)), {}),
    "conv groups, odd filters": (CP.but(groups=2, filters=17, channels=16, residual=True), {}),
    "odd filters": (CP.but(filters=37, residual=True, activation="clamp"), {}),
    "few filters": (CP.but(filters=3, bias=False), {}),
    "two blocks": (CP.but(filters=131, channels=16), {}),
    "padding beyond the input": (CP.but(kernel=(1, 1), padding=(3, 2), size=(2, 2)), {}),
    "nothing kept": (CP.but(density=0.0, residual=True, activation="clamp"), {}),
    "everything kept": (CP.but(density=1.0, filters=64), {}),
    "few kept": (CP.but(density=0.02), {}),
    "splits": (CP.but(channels=64, residual=True, activation="relu"), {"splits": 3}),
    "splits, tf32, odd": (CP.but(dtype=FLOAT, filters=21, groups=2), {"splits": 4}),
    "more splits than columns": (CP.but(density=0.05, kernel=(1, 1), padding=(0, 0)),
                                 {"splits": 9}),
    "everything at once": (CP.but(batch=2, filters=24, groups=2, stride=(2, 1), padding=(2, 3),
                                  dilation=(1, 2), residual=True, activation="hardswish",
                                  size=(9, 8)), {"splits": 2}),
}  # fmt: skip

WIDE_SIMT = SIMT.but(size=(12, 11))
SIMT_CASES = {
    "half": (SIMT, {}),
    "bfloat16": (SIMT.but(dtype=BFLOAT, residual=True, activation="relu"), {}),
    "float": (SIMT.but(dtype=FLOAT, residual=True, activation="clamp"), {}),
    "two tiles of pixels": (WIDE_SIMT.but(dtype=FLOAT), {}),
    "4x4": (SIMT.but(group="4x4", channels=20, dtype=FLOAT), {}),
    "4x4, half": (SIMT.but(group="4x4", channels=20), {}),
    "4x4, bfloat16": (SIMT.but(group="4x4", channels=12, dtype=BFLOAT), {}),
    "3x5": (SIMT.but(group="3x5", channels=7, filters=13), {}),
    "1x1": (SIMT.but(group="1x1", channels=18, filters=9, dtype=FLOAT), {}),
    "1x1, bfloat16": (SIMT.but(group="1x1", channels=18, filters=9, dtype=BFLOAT), {}),
    "channels in no whole vector": (SIMT.but(channels=13), {}),
    "channels in no whole vector, float": (SIMT.but(channels=13, dtype=FLOAT), {}),
    "channels in no whole vector, bfloat16": (SIMT.but(channels=13, dtype=BFLOAT), {}),
    "channels in no whole vector, 4x4": (SIMT.but(channels=13, group="4x4"), {}),
    "channels in no whole vector, 4x4, float": (SIMT.but(channels=13, group="4x4", dtype=FLOAT),
                                                {}),
    "channels in no whole vector, 4x4, bfloat16": (SIMT.but(channels=5, group="4x4",
                                                            dtype=BFLOAT), {}),
    "a tail of channels": (SIMT.but(channels=20, dtype=FLOAT), {}),
    "depthwise": (SIMT.but(group="1x1", channels=1, filters=1, groups=5, stride=(2, 2)), {}),
    "stride": (SIMT.but(stride=(2, 3), size=(9, 11), batch=2), {}),
    "dilation": (SIMT.but(dilation=(2, 3), padding=(2, 1), size=(8, 9)), {}),
    "conv groups": (SIMT.but(groups=3, filters=9, channels=8, residual=True), {}),
    "nothing kept": (SIMT.but(density=0.0, residual=True), {}),
    "everything kept": (SIMT.but(density=1.0), {}),
    "sparse": (SIMT.but(density=0.05, filters=130), {}),
    "splits": (SIMT.but(channels=32, residual=True, activation="hardswish"), {"splits": 3}),
    "splits, float": (SIMT.but(dtype=FLOAT, filters=30), {"splits": 2}),
    "everything at once": (SIMT.but(batch=2, filters=9, groups=2, stride=(2, 1), padding=(2, 3),
                                    dilation=(1, 2), residual=True, activation="hardswish",
                                    size=(9, 8), group="1x16"), {"splits": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSOR_CORE)
def test_tensor_core(name: str, runner: Runner) -> None:
    case, how = TENSOR_CORE[name]
    tensors = tensors_of(case)
    tensors.check(runner.conv2d(tensors, **how), tf32_activations=True)
    wanted = (
        f"Li{how.get('strips', 4)}ELi{128 if how.get('strips') == 8 else how.get('pixels', 64)}E"
    )
    assert wanted in runner.last.launches[0].kernel
    assert len(runner.last.launches) == (2 if how.get("splits", 1) > 1 else 1)


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed(name: str, runner: Runner) -> None:
    case, how = COMPRESSED[name]
    tensors = tensors_of(case)
    tensors.check(runner.conv2d(tensors, **how), tf32_activations=True)
    assert "compressed_conv2d" in runner.last.launches[0].kernel
    assert len(runner.last.launches) == (2 if how.get("splits", 1) > 1 else 1)


@pytest.mark.parametrize("name", SIMT_CASES)
def test_simt(name: str, runner: Runner) -> None:
    case, how = SIMT_CASES[name]
    tensors = tensors_of(case)
    tensors.check(runner.conv2d(tensors, **how))


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT, HALF])
@pytest.mark.parametrize("splits", [1, 2])
def test_filters_in_another_order(dtype: torch.dtype, splits: int, runner: Runner) -> None:
    group = "16x8" if dtype == FLOAT else "16x16"
    tensors = tensors_of(TC.but(dtype=dtype, group=group, filters=24, groups=2, residual=True))
    order = torch.cat([torch.randperm(24), 24 + torch.randperm(24)])
    tensors.check(runner.conv2d(tensors, order=order, splits=splits), tf32_activations=True)
    assert runner.last.given["filter_order"]


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_filters_of_compressed_weights_in_another_order(dtype: torch.dtype, runner: Runner) -> None:
    tensors = tensors_of(CP.but(dtype=dtype, filters=24, groups=2, residual=True))
    order = torch.cat([torch.randperm(24), 24 + torch.randperm(24)])
    tensors.check(runner.conv2d(tensors, order=order), tf32_activations=True)
    assert runner.last.given["filter_order"]


@pytest.mark.parametrize("case", [TC, SIMT, CP])
@pytest.mark.parametrize("name", ["input", "bias", "residual"])
def test_tensors_that_begin_anywhere(name: str, case: Case, runner: Runner) -> None:
    tensors = tensors_of(case.but(filters=64, residual=True))
    tensors = replace(tensors, **{name: one_number_behind_a_boundary(getattr(tensors, name))})
    tensors.check(runner.conv2d(tensors), tf32_activations=True)


def one_number_behind_a_boundary(tensor: Tensor) -> Tensor:
    storage = tensor.new_empty(tensor.numel() + 1)
    copy = storage.as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)
    assert copy.data_ptr() % 16 == tensor.element_size()
    return copy


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT, HALF])
@pytest.mark.parametrize("begins_anywhere", [False, True])
@pytest.mark.parametrize(
    ("shape", "group"),
    [
        ((6, 40, 3, 3), "1x8"),
        ((3, 300, 1, 1), "1x8"),
        ((3, 2056, 1, 1), "1x8"),  # several thread blocks a row
        ((9, 20, 3, 2), "4x4"),
        ((33, 48, 1, 1), "16x16"),
        ((7, 13, 3, 3), "3x5"),  # tails, and rows that begin anywhere
        ((5, 6, 1, 1), "1x1"),
        ((4, 2500, 1, 1), "2x2500"),  # a group in several stretches
        ((2, 30, 11, 11), "1x30"),
        ((3, 5, 17, 16), "2x3"),  # more taps than threads
        ((2, 9, 5, 7), "100x100"),
    ],
)
def test_group_l1_norm(
    shape: tuple[int, ...], group: str, begins_anywhere: bool, dtype: torch.dtype, runner: Runner
) -> None:
    weight = torch.randn(shape).to(dtype)
    if begins_anywhere:
        weight = one_number_behind_a_boundary(weight)
    norms = runner.module.BACKEND.group_l1_norm(weight, GroupShape.of(group))
    expected = reference.group_l1_norm(weight.double(), group)
    # Each sum of n numbers is off by n roundings at most.
    most = GroupShape.of(group).filters * GroupShape.of(group).channels
    assert ((norms - expected).abs() <= (min(most, weight.numel()) + 2) * 2**-24 * expected).all()
