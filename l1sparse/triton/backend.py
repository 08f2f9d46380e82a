# SPDX-License-Identifier: MIT
"""The operators on Triton. Importing this module fails where triton is not installed."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.gpu.layout import Layout
from l1sparse.gpu.plan import Plan, simt_plan, tensor_core_plan
from l1sparse.gpu.problem import Conv2dProblem, is_channels_last
from l1sparse.triton.kernels.conv2d_dot import conv2d_dot_kernel
from l1sparse.triton.kernels.conv2d_simt import BLOCK_FILTERS, conv2d_simt_kernel
from l1sparse.triton.kernels.group_l1 import group_l1_kernel
from l1sparse.triton.tune import CONV2D_DOT, CONV2D_SIMT, Tuned

_SHAPE = ("pixels", "in_h", "in_w", "out_w", "group_filters", "stride_h", "stride_w")
_conv2d_dot = Tuned(conv2d_dot_kernel, CONV2D_DOT, (*_SHAPE, "in_channels", "strips"))
_conv2d_simt = Tuned(conv2d_simt_kernel, CONV2D_SIMT, (*_SHAPE, "blocks", "in_c"))
_MOST_PROGRAMS = 2**31 - 1


class TritonBackend:
    """Launches the kernels of ``l1sparse/triton/kernels``."""

    name = "triton"
    layouts = ("tensor_core", "simt")

    def plan(
        self, layout: Layout, weight: Tensor, mask: Tensor, groups: int, dtype: torch.dtype
    ) -> Plan:
        """See `Backend.plan`; a program has one strip, or 8 filters."""
        if layout.kind == "simt":
            return simt_plan(
                weight, mask, groups, channels=layout.channels, block_filters=BLOCK_FILTERS
            )
        return tensor_core_plan(
            weight, mask, groups, dtype, fragments=False, strips=1, filter_order=layout.order
        )

    def conv2d(
        self,
        problem: Conv2dProblem,
        plan: Plan,
        input: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        """See `Backend.conv2d`."""
        format_ = torch.channels_last if is_channels_last(input) else torch.contiguous_format
        output = torch.empty(
            problem.output_shape, dtype=input.dtype, device=input.device, memory_format=format_
        )
        if residual is not None:
            residual = residual.contiguous(memory_format=format_)
        arguments = common_arguments(problem, plan, output, bias, residual)
        if plan.layout == "tensor_core":
            tuned = _conv2d_dot
            arguments |= dot_arguments(problem, plan, input)
        else:
            tuned = _conv2d_simt
            arguments |= simt_arguments(problem, plan, input)

        def grid(values: dict[str, Any]) -> tuple[int]:
            return (_programs(problem.pixels, values["PIXELS"], plan.blocks),)

        tuned.launch(input.device, input.dtype, grid, arguments)
        return output

    def group_l1_norm(self, weight: Tensor, group: GroupShape) -> Tensor:
        """See `Backend.group_l1_norm`."""
        norms = weight.new_empty(group.grid(weight.shape), dtype=torch.float32)
        arguments, grid = group_l1_arguments(weight, norms, group)
        group_l1_kernel[grid](**arguments)
        return norms


def common_arguments(
    problem: Conv2dProblem,
    plan: Plan,
    output: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
) -> dict[str, Any]:
    """What both convolution kernels are given; `output` is NCHW or channels_last."""
    place = problem.out_h * problem.out_w
    last = is_channels_last(output)
    return {
        "block_offsets": plan.block_offsets,
        "columns": plan.columns,
        "bias": bias,
        "residual": residual,
        "output": output,
        "pixels": problem.pixels,
        "in_h": problem.in_h,
        "in_w": problem.in_w,
        "out_h": problem.out_h,
        "out_w": problem.out_w,
        "group_filters": problem.out_channels // problem.groups,
        "stride_h": problem.stride_h,
        "stride_w": problem.stride_w,
        "pad_h": problem.pad_h,
        "pad_w": problem.pad_w,
        "dilation_h": problem.dilation_h,
        "dilation_w": problem.dilation_w,
        "image_stride": place * problem.out_channels,
        "filter_stride": 1 if last else place,
        "pixel_stride": problem.out_channels if last else 1,
        "low": problem.activation.low,
        "high": problem.activation.high,
        "ACTIVATION": problem.activation.kind,
        "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": residual is not None,
        "WIDE": problem.is_wide,
    }


def dot_arguments(problem: Conv2dProblem, plan: Plan, input: Tensor) -> dict[str, Any]:
    """What only the tensor-core kernel is given."""
    dense = input.contiguous(memory_format=torch.channels_last)
    return {
        "input": dense if dense.data_ptr() % 16 == 0 else dense.clone(),
        "tiles": plan.values,
        "filter_order": plan.filter_order,
        "in_channels": problem.in_channels,
        "strips": plan.blocks,
        "strips_per_group": plan.blocks_per_group,
        "TILE_CHANNELS": plan.tile_channels,
        "HAS_ORDER": plan.filter_order is not None,
    }


def simt_arguments(problem: Conv2dProblem, plan: Plan, input: Tensor) -> dict[str, Any]:
    """What only the other kernel is given. Its lanes are pixels, which should lie side by side."""
    spread = sum((n - 1) * s for n, s in zip(input.shape, input.stride(), strict=True))
    if input.stride(3) != 1 or spread >= 2 * input.numel():
        input = input.contiguous()
    in_n, in_c, in_y, in_x = input.stride()
    return {
        "input": input,
        "values": plan.values,
        "masks": plan.masks,
        "tile_offsets": plan.tile_offsets,
        "blocks": plan.blocks,
        "blocks_per_group": plan.blocks_per_group,
        "in_n": in_n,
        "in_c": in_c,
        "in_y": in_y,
        "in_x": in_x,
        "CHANNELS": plan.tile_channels,
    }


def group_l1_arguments(
    weight: Tensor, norms: Tensor, group: GroupShape
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments and grid of the norms' kernel, for a contiguous weight."""
    taps = weight.shape[2] * weight.shape[3]
    # By the group's size only, because the order of the additions depends on it.
    channels = min(triton.next_power_of_2(group.channels), 32)
    arguments = {
        "weight": weight,
        "norms": norms,
        "filters": weight.shape[0],
        "channels": weight.shape[1],
        "taps": taps,
        "group_filters": min(group.filters, weight.shape[0]),
        "group_channels": min(group.channels, weight.shape[1]),
        "channel_groups": norms.shape[1],
        "filter_stride": weight.shape[1] * taps,
        "NORMS": 1024 // channels,
        "CHANNELS": channels,
    }
    return arguments, (-(-norms.shape[1] * taps // (1024 // channels)), norms.shape[0])


def _programs(pixels: int, of_a_tile: int, blocks: int) -> int:
    programs = -(-pixels // of_a_tile) * blocks
    if programs > _MOST_PROGRAMS:
        raise RuntimeError(
            f"input: needs {programs} programs on the GPU, expected at most {_MOST_PROGRAMS}"
        )
    return programs


BACKEND = TritonBackend()
