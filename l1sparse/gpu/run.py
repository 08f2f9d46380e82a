# SPDX-License-Identifier: MIT
"""The operators on a GPU, from arguments as torch gives them to a backend's launch.

Nothing here asks for tensors to be on a GPU: with Triton's interpreter all of it runs on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.gpu.backend import Backend, resolve
from l1sparse.gpu.device import check_capability, check_tensor_cores, describe, guard
from l1sparse.gpu.layout import choose, may_round_to_tf32
from l1sparse.gpu.plan import Plan
from l1sparse.gpu.problem import (
    Conv2dProblem,
    check_float,
    check_sides,
    check_tensors,
    check_weight_shape,
    conv2d_problem,
    is_channels_last,
)
from l1sparse.gpu.weights import GpuWeight, weight_of

_LARGEST_SIDE = 2**31 - 1


def sparse_conv2d(
    input: Tensor,
    packed: Tensor,
    weight_shape: Sequence[int],
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    residual: Tensor | None = None,
    activation: str = "none",
    clamp_min: float = 0.0,
    clamp_max: float = 6.0,
    backend: str = "auto",
) -> Tensor:
    """``l1sparse::sparse_conv2d``; see `l1sparse.sparse_conv2d` and `resolve`.

    Raises:
        RuntimeError: if anything does not fit, before anything is launched.
    """
    runner, forced = resolve(backend)
    check_tensors(input, packed, bias, residual)
    check_capability("input", input.device)
    if forced not in (None, "simt"):
        check_tensor_cores(input.device, backend)
    with guard(input.device):
        weight = weight_of(packed)
        check_weight_shape(weight_shape, weight.info.weight_shape)
        problem = conv2d_problem(
            tuple(input.shape),
            weight.info.weight_shape,
            tuple(stride),
            tuple(padding),
            tuple(dilation),
            groups,
            activation,
            clamp_min,
            clamp_max,
        )
        check_sides(problem, bias, residual)
        if problem.pixels == 0:
            last = is_channels_last(input)
            return input.new_empty(problem.output_shape).contiguous(
                memory_format=torch.channels_last if last else torch.contiguous_format
            )
        plan = plan_for(runner, forced, weight, problem, input.dtype)
        if bias is not None:
            bias = bias.to(torch.float32).contiguous()
        return runner.conv2d(problem, plan, input, bias, residual)


def plan_for(
    runner: Backend,
    forced: str | None,
    weight: GpuWeight,
    problem: Conv2dProblem,
    dtype: torch.dtype,
) -> Plan:
    """The plan that `runner` reads for `problem`, made if there is none yet."""

    def build(weight: GpuWeight) -> Plan:
        dense, mask = weight.dense_on_host()
        device = describe(weight.device)
        layout = choose(problem, mask, weight.info.group, dtype, device, forced, runner.layouts)
        return runner.plan(layout, dense, mask, problem.groups, dtype)

    rounds = dtype == torch.float32 and may_round_to_tf32()
    return weight.plan((runner.name, forced, dtype, problem.groups, rounds), build)


def group_l1_norm(weight: Tensor, group: Sequence[int]) -> Tensor:
    """``l1sparse::group_l1_norm``; see `l1sparse.group_l1_norm`.

    Raises:
        RuntimeError: if anything does not fit, before anything is launched.
    """
    runner, _ = resolve("auto")
    check_float("weight", weight, 4)
    if len(group) != 2:
        raise RuntimeError(f"group: has {len(group)} numbers, expected 2")
    for name, what, sizes in (("group", "side", group), ("weight", "dimension", weight.shape)):
        for size in sizes:
            if not 1 <= size <= _LARGEST_SIDE:
                raise RuntimeError(
                    f"{name}: a {what} of {size} is not usable, expected 1 to {_LARGEST_SIDE}"
                )
    check_capability("weight", weight.device)
    with guard(weight.device):
        return runner.group_l1_norm(weight.contiguous(), GroupShape(*group))


def pack(weight: Tensor, mask: Tensor, group: Sequence[int], strategy: str = "auto") -> Tensor:
    """``l1sparse::pack``, on the host: the bytes are the CPU's.

    Raises:
        RuntimeError: as on the CPU; also if `mask` is on another device.
    """
    if mask.device != weight.device:
        raise RuntimeError(f"mask: is on {mask.device}, expected {weight.device}, where weight is")
    packed: Tensor = torch.ops.l1sparse.pack(weight.cpu(), mask.cpu(), list(group), strategy)
    return packed.to(weight.device)


def unpack(packed: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """``l1sparse::unpack``; waits for the GPU only if `packed` is new or has changed.

    Raises:
        RuntimeError: as on the CPU.
    """
    with guard(packed.device):
        weight = weight_of(packed)
        check_weight_shape(weight_shape, weight.info.weight_shape)
        return weight.dense()


def packed_info(packed: Tensor) -> list[int]:
    """``l1sparse::packed_info``; waits for the GPU only if `packed` is new or has changed.

    Raises:
        RuntimeError: as on the CPU.
    """
    with guard(packed.device):
        return weight_of(packed).numbers
