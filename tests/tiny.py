# SPDX-License-Identifier: MIT
"""Data sets and a network that train in a second, and a command that prunes it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

# The folders and files are those of tests/cli/conftest.py.
PLAN = """\
layer: {group: 1x4, alpha: 3.0}
sensitivity: {sparsities: [0.5, 0.75], at: 0.5}
run: {allowed_drop: 0.0, rounds: 2, total_rounds: 7, target_sparsity: 0.8}
training:
  learning_rate: 0.02
  batch_size: 32
  scheduler: CosineAnnealingLR
"""
PRUNE = ["prune", "--model", "tiny:small_net", "--weights", "dense.safetensors", "--data", "idx"]
PRUNE += ["--plan", "plan.yaml"]


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def bright_squares(
    count: int, seed: int, brightness: int = 25, classes: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 12x12 images; the class is the corner of the bright square."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.uint8)
    images = random.integers(0, 120, (count, 12, 12)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 6 * (label // 2), 6 * (label % 2)
        image[row : row + 6, column : column + 6] += brightness
    return images, labels


def write_idx(folder: Path) -> Path:
    """256 training and 64 held-out images of four classes; two files are compressed.

    They are noisy: a network learns to tell some 85 % of them.
    """
    folder.mkdir()
    for part, count, seed in (("train", 256, 1), ("t10k", 64, 2)):
        images, labels = bright_squares(count, seed, brightness=16)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def write_tree(root: Path, train: int = 8, val: int = 4) -> Path:
    """Three classes of colored images of several sizes, under ``train/`` and ``val/``."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for channel, name in enumerate(("blue", "green", "red")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(20, 40, 2)
                pixels = random.integers(0, 100, (height, width, 3)).astype(np.uint8)
                pixels[:, :, 2 - channel] += 120
                Image.fromarray(pixels).save(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
    return root


def small_net(channels: int = 1, num_classes: int = 4, norm: bool = True) -> nn.Module:
    """Three convolutions, of which two have channels to group."""

    def norm_of(width: int) -> nn.Module:
        return nn.BatchNorm2d(width) if norm else nn.GroupNorm(2, width)

    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        norm_of(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        norm_of(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        norm_of(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def small_net_of_groups(channels: int = 1, num_classes: int = 4) -> nn.Module:
    """The same, whose normalisation does not depend on the other images of a batch."""
    return small_net(channels, num_classes, norm=False)


def color_net(num_classes: int = 3) -> nn.Module:
    """The same for colored images."""
    return small_net(3, num_classes)
