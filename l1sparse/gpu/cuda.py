# SPDX-License-Identifier: MIT
"""The operators on the CUDA extension. Importing this module fails where it was not built."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l1sparse import _cuda
from l1sparse.format import GroupShape
from l1sparse.gpu.device import describe
from l1sparse.gpu.layout import LAYOUTS, Layout
from l1sparse.gpu.plan import STRIP, Plan, compressed_plan, simt_plan, tensor_core_plan
from l1sparse.gpu.problem import Conv2dProblem, dtype_text, is_channels_last

_MOST_SPLITS = 16
# Columns that a split must have, so that its pipeline is worth filling.
_LEAST_COLUMNS = 16
# Output pixels of a thread block.
_COMPRESSED_PIXELS = 64
_SIMT_PIXELS = 128
# Channels that its kernel takes at a time.
_SIMT_STEP = 16


def splits_for(thread_blocks: int, columns: int, multiprocessors: int) -> int:
    """Into how many shares the columns of a block of filters are split.

    Where the outputs are too few to give every multiprocessor two blocks of threads, as on small
    maps, their sums are split; never into shares of less than `_LEAST_COLUMNS` columns.

    Args:
        thread_blocks: without splitting.
        columns: of a block of filters, on average.
        multiprocessors: of the GPU.
    """
    wanted = 2 * multiprocessors // max(thread_blocks, 1)
    return max(1, min(wanted, columns // _LEAST_COLUMNS, _MOST_SPLITS))


class CudaBackend:
    """Launches the kernels of ``csrc/kernels/*/*.cu``."""

    name = "cuda"
    layouts = LAYOUTS

    def plan(
        self, layout: Layout, weight: Tensor, mask: Tensor, groups: int, dtype: torch.dtype
    ) -> Plan:
        """See `Backend.plan`."""
        if layout.kind == "simt":
            step = _SIMT_STEP // layout.channels
            return simt_plan(weight, mask, groups, channels=layout.channels, step=step)
        if layout.kind == "compressed":
            return compressed_plan(weight, mask, groups, dtype, filter_order=layout.order)
        return tensor_core_plan(
            weight,
            mask,
            groups,
            dtype,
            strips=layout.strips,
            filter_order=layout.order,
            taps_together=True,
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
        channels_last = is_channels_last(input)
        activations = _dense_pixels(input)
        side = None if residual is None else _dense_pixels(residual)
        bias = None if bias is None else _aligned(bias)
        output = torch.empty(
            problem.output_shape,
            dtype=input.dtype,
            device=input.device,
            memory_format=torch.channels_last,
        )
        pixels = _COMPRESSED_PIXELS if plan.layout == "compressed" else _SIMT_PIXELS
        multiprocessors = describe(input.device).multiprocessors
        if plan.layout == "tensor_core":
            strips = plan.block_filters // STRIP
            enough = -(-problem.pixels // 128) * plan.blocks >= 2 * multiprocessors
            pixels = 128 if strips == 8 or enough else 64
        splits = splits_for(
            -(-problem.pixels // pixels) * plan.blocks,
            plan.columns_per_block,
            multiprocessors,
        )
        partial = None
        if splits > 1:
            filters = plan.blocks * plan.block_filters
            partial = input.new_empty((splits, problem.pixels, filters), dtype=torch.float32)
        arguments: dict[str, Any] = {
            **_target(input),
            "input": activations.data_ptr(),
            "output": output.data_ptr(),
            "bias": _address(bias),
            "residual": _address(side),
            "filter_order": _address(plan.filter_order),
            "block_offsets": plan.block_offsets.data_ptr(),
            "columns": plan.columns.data_ptr(),
            "tile_offsets": plan.tile_offsets.data_ptr(),
            "tiles": plan.values.data_ptr(),
            "partial": _address(partial),
            "blocks": plan.blocks,
            "splits": splits,
            "input_shape": (problem.batch, problem.in_channels, problem.in_h, problem.in_w),
            "output_shape": problem.output_shape,
            "stride": (problem.stride_h, problem.stride_w),
            "padding": (problem.pad_h, problem.pad_w),
            "dilation": (problem.dilation_h, problem.dilation_w),
            "groups": problem.groups,
            "activation": problem.activation.kind,
            "clamp": (problem.activation.low, problem.activation.high),
        }
        if plan.layout == "tensor_core":
            _cuda.tensor_core_conv2d(**arguments, strips=strips, pixels=pixels)
        elif plan.layout == "compressed":
            _cuda.compressed_conv2d(**arguments, piece_masks=plan.masks.data_ptr())
        else:
            _cuda.simt_conv2d(
                **arguments,
                chunk=plan.tile_channels,
                filter_masks=plan.masks.data_ptr(),
                block_order=plan.block_order.data_ptr(),
            )
        return output if channels_last else output.contiguous()

    def group_l1_norm(self, weight: Tensor, group: GroupShape) -> Tensor:
        """See `Backend.group_l1_norm`."""
        norms = weight.new_empty(group.grid(weight.shape), dtype=torch.float32)
        _cuda.group_l1_norm(
            **_target(weight),
            weight=weight.data_ptr(),
            norms=norms.data_ptr(),
            shape=(weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]),
            group=(group.filters, group.channels),
        )
        return norms


def _target(tensor: Tensor) -> dict[str, Any]:
    """Where to launch, and for which dtype."""
    device = tensor.device
    return {
        "device": device.index,
        "stream": torch.cuda.current_stream(device).cuda_stream,
        "dtype": dtype_text(tensor.dtype),
    }


def _dense_pixels(tensor: Tensor) -> Tensor:
    """The same in channels_last, at an address of which 16-byte loads can be made."""
    return _aligned(tensor.contiguous(memory_format=torch.channels_last))


def _aligned(dense: Tensor) -> Tensor:
    """The same, or a copy, at an address of which 16-byte loads can be made."""
    return dense if dense.data_ptr() % 16 == 0 else dense.clone()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


BACKEND = CudaBackend()
