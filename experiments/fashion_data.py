# SPDX-License-Identifier: MIT
"""Fashion-MNIST as tensors: 55,000 images to train, 5,000 to steer by, 10,000 to report on."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
_VALIDATION = 5000
_SIDE = 28
_IMAGES, _LABELS = 2051, 2049  # the magic numbers of IDX files of bytes in 3 and 1 dimensions


@dataclass(frozen=True)
class Images:
    """Images ``[N, 1, 28, 28]`` float32, mean 0 and variance 1, and their labels ``[N]``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Images:
        """The images and labels at `index`."""
        return Images(self.images[index], self.labels[index])


@dataclass(frozen=True)
class FashionData:
    """The three parts.

    Attributes:
        train: what the weights are trained on.
        validation: what pruning steers by: held out of the training images.
        test: what is reported: never seen by training or by any decision.
    """

    train: Images
    validation: Images
    test: Images


def load_fashion(folder: Path = DEBIAN_FOLDER) -> FashionData:
    """Read the four IDX files, packed with gzip or not; the split is always the same.

    Raises:
        FileNotFoundError: if one is missing; says how to get it.
        ValueError: if one is not the IDX file that its name says.
    """
    training = _read_pair(folder, "train")
    test = _read_pair(folder, "t10k")
    mean, deviation = training.images.mean(), training.images.std()
    training, test = (
        Images((part.images - mean) / deviation, part.labels) for part in (training, test)
    )
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:_VALIDATION], order[_VALIDATION:]
    return FashionData(training.take(rest), training.take(held_out), test)


def _read_pair(folder: Path, part: str) -> Images:
    pixels = _read_idx(folder / f"{part}-images-idx3-ubyte", _IMAGES)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", _LABELS)
    if len(pixels) != len(labels) or pixels.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{folder}: expected {_SIDE}x{_SIDE} images and as many labels, the {part} files hold "
            f"images {tuple(pixels.shape)} and {len(labels)} labels"
        )
    images = torch.from_numpy(pixels.astype(np.float32)).unsqueeze(1) / 255
    return Images(images, torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path, magic: int) -> np.ndarray:
    packed = path.with_name(path.name + ".gz")
    if packed.exists():
        raw = gzip.decompress(packed.read_bytes())
    elif path.exists():
        raw = path.read_bytes()
    else:
        raise FileNotFoundError(
            f"{packed}: no such file. Fashion-MNIST comes with Debian's package (apt-get install "
            f"dataset-fashion-mnist); --data names a folder that holds its four files"
        )
    dimensions = magic & 0xFF
    header = np.frombuffer(raw, ">u4", count=min(1 + dimensions, len(raw) // 4))
    expected = 4 * (1 + dimensions) + int(np.prod(header[1:], dtype=np.int64))
    if len(header) != 1 + dimensions or header[0] != magic or len(raw) != expected:
        raise ValueError(f"{path}: not a whole IDX file of bytes in {dimensions} dimensions")
    return np.frombuffer(raw, np.uint8, offset=4 * (1 + dimensions)).reshape(header[1:])
