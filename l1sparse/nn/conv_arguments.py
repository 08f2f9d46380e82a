# SPDX-License-Identifier: MIT
"""What a convolution was made with, so that another kind of layer can be made alike."""

from __future__ import annotations

from typing import Any

from torch import nn


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Arguments of `nn.Conv2d` for one like `conv`, its parameters still without memory."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": "meta",
    }
