# SPDX-License-Identifier: MIT
"""The layers that benchmarks run, as data: the convolutions of known networks at 224x224.

The first convolution of each network is left out: with three input channels it has no channel
groups to prune.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A square convolution without bias, padded by half its kernel."""

    in_channels: int
    out_channels: int
    size: int
    """Height and width of the input."""
    kernel: int
    stride: int = 1
    count: int = 1
    """How often the network has this layer."""

    def __str__(self) -> str:
        text = f"{self.in_channels} > {self.out_channels} @ {self.size}, {self.kind}"
        return text if self.stride == 1 else f"{text} /{self.stride}"

    @property
    def kind(self) -> str:
        """The kernel's size, as in ``3x3``."""
        return f"{self.kernel}x{self.kernel}"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(O, C, kH, kW)``."""
        return (self.out_channels, self.in_channels, self.kernel, self.kernel)

    @property
    def padding(self) -> int:
        """Zeros at each side."""
        return self.kernel // 2

    @property
    def flops(self) -> int:
        """Floating-point operations for one image, dense; a multiply-add counts as two."""
        output = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return 2 * self.out_channels * self.in_channels * self.kernel**2 * output**2


# In the network's order: `masks.py` relies on it where layers share a weight shape.
SUITES: dict[str, tuple[Layer, ...]] = {
    # Four layers of ResNet-50, once each.
    "demo": (
        Layer(64, 64, 56, 3),
        Layer(128, 512, 28, 1),
        Layer(1024, 256, 14, 1),
        Layer(256, 256, 14, 3),
    ),
    # With the stride in the 3x3 convolution of a block, as torchvision has it.
    "resnet50": (
        Layer(64, 64, 56, 1),
        Layer(64, 64, 56, 3, count=3),
        Layer(64, 256, 56, 1, count=4),
        Layer(256, 64, 56, 1, count=2),
        Layer(256, 128, 56, 1),
        Layer(128, 128, 56, 3, stride=2),
        Layer(128, 512, 28, 1, count=4),
        Layer(256, 512, 56, 1, stride=2),
        Layer(512, 128, 28, 1, count=3),
        Layer(128, 128, 28, 3, count=3),
        Layer(512, 256, 28, 1),
        Layer(256, 256, 28, 3, stride=2),
        Layer(256, 1024, 14, 1, count=6),
        Layer(512, 1024, 28, 1, stride=2),
        Layer(1024, 256, 14, 1, count=5),
        Layer(256, 256, 14, 3, count=5),
        Layer(1024, 512, 14, 1),
        Layer(512, 512, 14, 3, stride=2),
        Layer(512, 2048, 7, 1, count=3),
        Layer(1024, 2048, 14, 1, stride=2),
        Layer(2048, 512, 7, 1, count=2),
        Layer(512, 512, 7, 3, count=2),
    ),
    "vgg16": (
        Layer(64, 64, 224, 3),
        Layer(64, 128, 112, 3),
        Layer(128, 128, 112, 3),
        Layer(128, 256, 56, 3),
        Layer(256, 256, 56, 3, count=2),
        Layer(256, 512, 28, 3),
        Layer(512, 512, 28, 3, count=2),
        Layer(512, 512, 14, 3, count=3),
    ),
    # EfficientNet-Lite0: its 3x3 and 5x5 convolutions after the first are depthwise, so the dense
    # ones are the 1x1 convolutions that expand and project, and the head.
    "mobile": (
        Layer(32, 16, 112, 1),
        Layer(16, 96, 112, 1),
        Layer(96, 24, 56, 1),
        Layer(24, 144, 56, 1, count=2),
        Layer(144, 24, 56, 1),
        Layer(144, 40, 28, 1),
        Layer(40, 240, 28, 1, count=2),
        Layer(240, 40, 28, 1),
        Layer(240, 80, 14, 1),
        Layer(80, 480, 14, 1, count=3),
        Layer(480, 80, 14, 1, count=2),
        Layer(480, 112, 14, 1),
        Layer(112, 672, 14, 1, count=3),
        Layer(672, 112, 14, 1, count=2),
        Layer(672, 192, 7, 1),
        Layer(192, 1152, 7, 1, count=4),
        Layer(1152, 192, 7, 1, count=3),
        Layer(1152, 320, 7, 1),
        Layer(320, 1280, 7, 1),
    ),
}
