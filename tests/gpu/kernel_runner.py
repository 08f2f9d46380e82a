# SPDX-License-Identifier: MIT
"""Cases run on the CUDA backend, its kernels by the interpreter.

From the operator's arguments down to the launch everything is the product's: plans, backend,
binding and launchers. What is forced here are the shapes of thread blocks and the splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_kernels import Extension, Gpu
from cuda_over import cuda_over
from gpu_case import Tensors
from torch import Tensor

from l1sparse import GroupShape
from l1sparse.gpu.plan import compressed_plan, simt_channels, simt_plan, tensor_core_plan
from l1sparse.gpu.problem import conv2d_problem


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
        elif case.layout == "compressed":
            plan = compressed_plan(
                tensors.weight, tensors.mask, case.groups, case.dtype, filter_order=order
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


@contextmanager
def running(gpu: Gpu) -> Iterator[Runner]:
    """A runner over `gpu`, with the CUDA backend imported over it meanwhile."""
    extension = Extension(gpu)
    with cuda_over(extension, device=3) as (module, monkeypatch):
        yield Runner(extension, module, monkeypatch)
