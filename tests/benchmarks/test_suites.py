# SPDX-License-Identifier: MIT
"""The suites against what is published of their networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suites import SUITES, Layer


@pytest.mark.parametrize(
    ("suite", "convolutions", "multiply_adds"),
    [
        # Of the whole network, less its first convolution and its linear layers.
        ("resnet50", 52, 4_089_184_256 - 118_013_952 - 2_048_000),
        ("vgg16", 12, 15_470_264_320 - 86_704_128 - 123_633_664),
        # 16 blocks, the first without an expanding convolution, and the head.
        ("mobile", 15 + 16 + 1, 338_537_472),
        ("demo", 4, 333_971_456),
    ],
)
def test_suite_has_the_networks_convolutions(
    suite: str, convolutions: int, multiply_adds: int
) -> None:
    layers = SUITES[suite]
    assert len(set(layers)) == len(layers)
    assert sum(layer.count for layer in layers) == convolutions
    assert sum(layer.count * layer.flops for layer in layers) == 2 * multiply_adds


def test_mobile_has_the_weights_of_efficientnet_lite0() -> None:
    layers = SUITES["mobile"]
    ours = sum(x.count * (x.in_channels + 2) * x.out_channels for x in layers)  # 2: batch norm
    depthwise = [(32, 3), (96, 3), (144, 3), (144, 5), (240, 5), (240, 3), (480, 3), (480, 3)]
    depthwise += [(480, 5), *3 * [(672, 5)], *3 * [(1152, 5)], (1152, 3)]
    others = sum(channels * (kernel**2 + 2) for channels, kernel in depthwise)
    first, classifier = 32 * (3 * 9 + 2), 1281 * 1000
    assert ours + others + first + classifier == 4_652_008


def test_demo_is_part_of_resnet50() -> None:
    once = {replace(layer, count=1) for layer in SUITES["resnet50"]}
    assert set(SUITES["demo"]) <= once


def test_layer_knows_its_work() -> None:
    layer = Layer(128, 256, 28, 3, stride=2)
    assert layer.weight_shape == (256, 128, 3, 3)
    assert layer.flops == 2 * 256 * 128 * 9 * 14 * 14
    assert str(layer) == "128 > 256 @ 28, 3x3 /2"
