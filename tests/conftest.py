# SPDX-License-Identifier: MIT
"""What several test files share: forced instruction sets, pruned weights, memory layouts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from gpu_code import find_tool
from l1sparse import GroupShape, build_info
from l1sparse.build import force_arch, force_arch_from_environment
from l1sparse.group_mask import expand_group_mask

settings.register_profile("l1sparse", deadline=None)
settings.load_profile("l1sparse")


@pytest.fixture(autouse=True)
def seeded_on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=build_info()["usable"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this machine runs, in turn; kernels are forced to it."""
    force_arch(request.param)
    yield request.param
    force_arch_from_environment()


@pytest.fixture(scope="session")
def nvcc() -> str:
    """The CUDA compiler; where there is none tests are skipped, unless it is demanded."""
    try:
        return find_tool("nvcc")
    except RuntimeError as error:
        if os.environ.get("L1SPARSE_REQUIRE_NVCC") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def pruned_weight() -> Callable[..., tuple[Tensor, Tensor]]:
    """Makes ``(weight, grid_mask)``: a random weight, not masked, and a random group mask."""

    def make(
        shape: tuple[int, int, int, int], group: object, density: float = 0.5, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        grid = GroupShape.of(group).grid(shape)  # type: ignore[arg-type]
        weight = torch.randn(shape, generator=random)
        return weight, torch.rand(grid, generator=random) < density

    return make


@pytest.fixture(scope="session")
def masked() -> Callable[..., Tensor]:
    """Sets the weights of pruned groups to 0."""

    def mask_weight(weight: Tensor, grid_mask: Tensor, group: object) -> Tensor:
        full = expand_group_mask(grid_mask, weight.shape, group)  # type: ignore[arg-type]
        return torch.where(full, weight, torch.zeros_like(weight))

    return mask_weight


@pytest.fixture(scope="session")
def in_layout() -> Callable[[Tensor, str], Tensor]:
    """Copies a 4-D tensor into a memory layout; NaN lies wherever the copy must not be read.

    Layouts: contiguous, channels_last, sliced, sliced channels_last, strided, permuted.
    """

    def copy(tensor: Tensor, layout: str) -> Tensor:
        if layout == "permuted":
            return tensor.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        n, c, h, w = tensor.shape
        if layout.startswith("sliced"):
            around = torch.full((n + 1, c + 3, h + 2, w + 3), torch.nan, dtype=tensor.dtype)
            if layout == "sliced channels_last":
                around = around.contiguous(memory_format=torch.channels_last)
            view = around[1:, 1 : c + 1, 1 : h + 1, 2 : w + 2]
        elif layout == "strided":
            around = torch.full((n, 2 * c, 2 * h, 3 * w), torch.nan, dtype=tensor.dtype)
            view = around[:, ::2, 1::2, 2::3]
        else:
            last = layout == "channels_last"
            memory_format = torch.channels_last if last else torch.contiguous_format
            view = torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=memory_format)
        return view.copy_(tensor)

    return copy
