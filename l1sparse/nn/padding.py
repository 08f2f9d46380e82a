# SPDX-License-Identifier: MIT
"""The part of a convolution's padding that its operator can't do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from l1sparse.ops import same_padding


def pad_input(conv: nn.Conv2d, input: Tensor) -> tuple[Tensor, Sequence[int]]:
    """Pad `input` as `conv` says, where that is more than zeros alike on both sides.

    Returns:
        The input, and the zeros ``(height, width)`` that are left for the operator.
    """
    if conv.padding_mode != "zeros":
        padded = F.pad(input, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        return padded, [0, 0]
    if conv.padding == "valid":
        return input, [0, 0]
    if conv.padding == "same":
        before, after = same_padding(conv.kernel_size, conv.dilation)
        if before != after:
            extra = [b - a for b, a in zip(after, before, strict=True)]
            input = F.pad(input, (0, extra[1], 0, extra[0]))
        return input, before
    return input, cast(Sequence[int], conv.padding)
