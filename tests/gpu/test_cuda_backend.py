# SPDX-License-Identifier: MIT
"""What the CUDA backend passes to its launchers, held against a launcher in plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fake_cuda
import pytest
import torch
from cuda_over import cuda_over
from gpu_case import CASES, tensors_of

from l1sparse import GroupShape, reference
from l1sparse.gpu import run
from l1sparse.gpu.device import Device
from l1sparse.gpu.layout import choose
from l1sparse.gpu.problem import conv2d_problem, is_channels_last
from l1sparse.gpu.weights import weight_of


@pytest.fixture(autouse=True)
def cuda() -> Iterator[Any]:
    """The CUDA backend, with `fake_cuda` for an extension, on tensors of the CPU."""
    fake_cuda.launches.clear()
    with cuda_over(fake_cuda, device=0) as (module, _):
        yield module


@pytest.mark.parametrize("name", CASES)
def test_a_launch_has_all_that_the_result_depends_on(name: str) -> None:
    tensors = tensors_of(CASES[name])
    output = run.sparse_conv2d(**tensors.arguments(), backend=f"cuda/{tensors.case.layout}")
    tensors.check(output)
    assert len(fake_cuda.launches) == 1
    assert is_channels_last(output) == is_channels_last(tensors.input)


def test_auto_prefers_the_extension() -> None:
    tensors = tensors_of(CASES["half"])
    tensors.check(run.sparse_conv2d(**tensors.arguments()))
    assert len(fake_cuda.launches) == 1


@pytest.mark.parametrize("group", ["1x8", "4x4", "3x5", "100x100"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_l1_norm(group: str, dtype: torch.dtype) -> None:
    weight = torch.randn(13, 20, 3, 2).to(dtype)
    shape = [int(side) for side in group.split("x")]
    norms = run.group_l1_norm(weight, shape)
    torch.testing.assert_close(norms, reference.group_l1_norm(weight.float(), group))
    assert len(fake_cuda.launches) == 1


def test_a_misaligned_input_is_copied() -> None:
    tensors = tensors_of(CASES["1x1"])
    memory = torch.empty(tensors.input.numel() + 1, dtype=torch.float16)
    n, c, h, w = tensors.input.shape
    shifted = memory[1:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(tensors.input)
    assert shifted.data_ptr() % 16 != 0
    arguments = {**tensors.arguments(), "input": shifted}
    tensors.check(run.sparse_conv2d(**arguments, backend="cuda/tensor_core"))


@pytest.mark.parametrize(
    ("thread_blocks", "columns", "multiprocessors", "splits"),
    [
        (1000, 500, 108, 1),  # enough without
        (216, 500, 108, 1),
        (108, 500, 108, 2),
        (50, 500, 108, 4),
        (1, 500, 108, 16),  # never more than 16
        (1, 40, 108, 2),  # never less than 16 columns a split
        (1, 0, 108, 1),
    ],
)
def test_splits_fill_the_gpu_and_keep_a_share_of_columns(
    cuda: Any, thread_blocks: int, columns: int, multiprocessors: int, splits: int
) -> None:
    assert cuda.splits_for(thread_blocks, columns, multiprocessors) == splits


def test_small_maps_are_split_over_channels() -> None:
    case = CASES["half"].but(channels=128, size=(4, 4))
    tensors = tensors_of(case)
    tensors.check(run.sparse_conv2d(**tensors.arguments(), backend="cuda/tensor_core"))
    assert fake_cuda.launches[0]["splits"] > 1


def test_deep_layers_of_few_pixels_have_their_weights_compressed(cuda: Any) -> None:
    case = CASES["compressed"].but(
        filters=256, channels=512, size=(4, 4), kernel=(1, 1), padding=(0, 0), density=0.1
    )
    tensors = tensors_of(case)
    tensors.check(run.sparse_conv2d(**tensors.arguments(), backend="cuda"))
    (plan,) = weight_of(tensors.packed)._plans.values()
    assert plan.layout == "compressed"
    device = Device("A100", (8, 0), 108)
    problem = conv2d_problem(
        (1, 512, 4, 4), case.weight_shape, (1, 1), (0, 0), (1, 1), 1, "none", 0.0, 0.0
    )
    arguments = (problem, tensors.mask, GroupShape.of(case.group), case.dtype, device, None)
    assert choose(*arguments, cuda.BACKEND.layouts).kind == "compressed"
    assert choose(*arguments, ("tensor_core", "simt")).kind != "compressed"  # as of Triton


def test_a_failed_launch_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("CUDA error 700: an illegal memory access was encountered")

    monkeypatch.setattr(fake_cuda, "simt_conv2d", fail)
    with pytest.raises(RuntimeError, match="CUDA error 700: an illegal memory access"):
        run.sparse_conv2d(**tensors_of(CASES["simt"]).arguments(), backend="cuda/simt")
