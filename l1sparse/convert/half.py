# SPDX-License-Identifier: MIT
"""Packed weights with their values as float16, which is how a small file has them.

The kernels' format holds float32. A file may have the buffer in two parts instead: all that stands
before the values as it is, and the values narrowed. The checksum in the first part is that of the
buffer with its values widened again, so that reading notices damage in either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l1sparse.ops import pack, packed_info, unpack

VALUES = "packed_values"
"""Name of a layer's values in a file; the rest is ``packed``."""


def narrowed(tensor: Tensor) -> Tensor:
    """`tensor` as float16.

    Raises:
        ValueError: if a finite number is too large for it.
    """
    half = tensor.to(torch.float16)
    lost = half.isinf() & tensor.isfinite()
    if lost.any():
        largest = float(tensor[lost].abs().max())
        raise ValueError(
            f"holds {largest:g}, more than float16's largest number, "
            f"{torch.finfo(torch.float16).max:g}; expected dtype=torch.float32"
        )
    return half


def split(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of a packed weight, its values rounded to float16.

    Args:
        packed: a result of `pack`.

    Returns:
        ``[bytes]``, uint8, and ``[values]``, float16. Groups that round to zero are left out.

    Raises:
        ValueError: if a value is too large for float16.
    """
    info = packed_info(packed)
    rounded = narrowed(unpack(packed)).float()
    # Packed again, so that the checksum is that of the rounded values.
    whole = pack(rounded, None, info.group, info.strategy)
    filters, channels = info.weight_shape[:2]
    of_group = min(info.group.filters, filters) * min(info.group.channels, channels)
    start = whole.numel() - 4 * of_group * packed_info(whole).kept_groups
    return whole[:start], whole[start:].view(torch.float32).half()


def join(pattern: Tensor, values: Tensor) -> Tensor:
    """The packed weight of two parts; what the bytes say is checked by whoever reads it.

    Raises:
        ValueError: if a part is of another dtype or rank than `split` gives.
    """
    for name, part, dtype in (("pattern", pattern, torch.uint8), ("values", values, torch.float16)):
        if part.dtype != dtype or part.dim() != 1:
            raise ValueError(
                f"{name}: is {part.dtype} of shape {list(part.shape)}, expected {dtype} of one "
                "dimension"
            )
    return torch.cat([pattern, values.float().view(torch.uint8)])
