# SPDX-License-Identifier: MIT
"""The CUDA kernels' own PTX, run by the interpreter and held against the reference.

From the operator's arguments down to the launch everything is the product's: plans, backend,
binding and launchers. What is forced here are the shapes of thread blocks and the splits.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cuda_kernels import Extension, Gpu
from gpu_case import Case, Tensors, tensors_of
from torch import Tensor

from l1sparse import GroupShape, reference
from l1sparse.gpu import backend
from l1sparse.gpu.plan import simt_channels, simt_plan, tensor_core_plan
from l1sparse.gpu.problem import conv2d_problem

HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32


@dataclass
class Runner:
    """Runs cases on the CUDA backend over the interpreter."""

    extension: Extension
    module: Any
    monkeypatch: pytest.MonkeyPatch

    def conv2d(
        self,
        tensors: Tensors,
        strips: int = 4,
        pixels: int = 64,
        splits: int = 1,
        order: Tensor | None = None,
    ) -> Tensor:
        """A case's output."""
        case = tensors.case
        arguments = tensors.arguments()
        problem = conv2d_problem(
            tuple(tensors.input.shape), case.weight_shape, case.stride, case.padding,
            case.dilation, case.groups, case.activation, arguments["clamp_min"],
            arguments["clamp_max"],
        )  # fmt: skip
        if case.layout == "simt":
            channels = simt_channels(GroupShape.of(case.group).channels)
            plan = simt_plan(
                tensors.weight, tensors.mask, case.groups, channels=channels, step=16 // channels
            )
        else:
            plan = tensor_core_plan(
                tensors.weight, tensors.mask, case.groups, case.dtype, strips=strips,
                filter_order=order, taps_together=True,
            )  # fmt: skip
        # The backend takes 128 pixels where they make enough thread blocks.
        chip = SimpleNamespace(multiprocessors=0 if pixels == 128 else 10**6)
        self.monkeypatch.setattr(self.module, "describe", lambda device: chip)
        self.monkeypatch.setattr(self.module, "splits_for", lambda *_: splits)
        output: Tensor = self.module.BACKEND.conv2d(
            problem, plan, tensors.input, tensors.bias, tensors.residual
        )
        return output

    @property
    def last(self) -> Any:
        return self.extension.calls[-1]


@pytest.fixture
def runner(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    extension = Extension(gpu)
    monkeypatch.setitem(sys.modules, "l1sparse._cuda", extension)
    monkeypatch.setattr("l1sparse._cuda", extension, raising=False)
    monkeypatch.delitem(sys.modules, "l1sparse.gpu.cuda", raising=False)
    backend.resolve.cache_clear()
    module = importlib.import_module("l1sparse.gpu.cuda")
    monkeypatch.setattr(
        module,
        "_target",
        lambda tensor: {"device": 3, "stream": 7, "dtype": str(tensor.dtype)[len("torch.") :]},
    )
    yield Runner(extension, module, monkeypatch)
    backend.resolve.cache_clear()
    sys.modules.pop("l1sparse.gpu.cuda", None)


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


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT, HALF])
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
    shape: tuple[int, ...], group: str, dtype: torch.dtype, runner: Runner
) -> None:
    weight = torch.randn(shape).to(dtype)
    norms = runner.module.BACKEND.group_l1_norm(weight, GroupShape.of(group))
    expected = reference.group_l1_norm(weight.double(), group)
    # Each sum of n numbers is off by n roundings at most.
    most = GroupShape.of(group).filters * GroupShape.of(group).channels
    assert ((norms - expected).abs() <= (min(most, weight.numel()) + 2) * 2**-24 * expected).all()
