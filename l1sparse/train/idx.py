# SPDX-License-Identifier: MIT
"""IDX files, the format of MNIST and Fashion-MNIST, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

_UNSIGNED_BYTE = 8  # the element type of every file of these data sets
_LARGEST_SHIFT = 2  # pixels


def read_idx(path: Path) -> Tensor:
    """The uint8 array of one file.

    Raises:
        ValueError: if the file is not an IDX file of unsigned bytes, or is shorter or longer than
            its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be decompressed: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes (it begins 00 00 08), got "
            f"{content[:4].hex(' ') or 'an empty file'}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"{path}: ends within its header of {start} bytes")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path}: its header says {shape}, {math.prod(shape)} bytes, but "
            f"{len(content) - start} follow; the file is cut short or not whole"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


class IdxImages(Dataset[tuple[Tensor, int]]):
    """Gray images with their labels.

    An item is (image ``[1, H, W]`` float32, label).

    Args:
        images: uint8 ``[N, H, W]``.
        labels: uint8 ``[N]``.
        mean: of the pixels of the training images, 0 to 255; becomes 0.
        deviation: likewise; becomes 1.
        augment: whether to move each image by up to two pixels at random.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, mean: float, deviation: float, augment: bool
    ) -> None:
        self._images, self._labels = images, labels.tolist()
        self._mean, self._deviation, self._augment = mean, deviation, augment

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image and its label."""
        image = self._images[index]
        if self._augment:
            height, width = image.shape
            top, left = torch.randint(0, 2 * _LARGEST_SHIFT + 1, (2,)).tolist()
            image = F.pad(image, (_LARGEST_SHIFT,) * 4)[top : top + height, left : left + width]
        return (image.float()[None] - self._mean) / self._deviation, self._labels[index]


def load_idx_folder(folder: Path, augment: bool = True) -> tuple[IdxImages, IdxImages, int]:
    """The training images, the held-out images and the number of classes of an IDX folder.

    Args:
        folder: with the four files under their usual names, ``train-images-idx3-ubyte`` and so on,
            each with or without ``.gz``.
        augment: whether to move training images at random.

    Raises:
        ValueError: if a file is missing or damaged, images and labels differ in number, or the
            held-out images have a class that the others lack.
    """
    arrays = {
        (part, kind): read_idx(_find(folder, f"{part}-{kind}"))
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
    for part in ("train", "t10k"):
        images, labels = arrays[part, "images-idx3-ubyte"], arrays[part, "labels-idx1-ubyte"]
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"{folder}: expected as many {part} images as labels and at least one, got images "
                f"{list(images.shape)} and labels {list(labels.shape)}"
            )
    classes, seen = (int(arrays[part, "labels-idx1-ubyte"].max()) + 1 for part in ("train", "t10k"))
    if seen > classes:
        raise ValueError(
            f"{folder}: the train labels are 0 to {classes - 1}, but there is a t10k label "
            f"{seen - 1}; both need the same classes"
        )
    pixels = arrays["train", "images-idx3-ubyte"].double()
    mean, deviation = float(pixels.mean()), float(pixels.std()) or 1.0
    train, held_out = (
        IdxImages(
            arrays[part, "images-idx3-ubyte"],
            arrays[part, "labels-idx1-ubyte"],
            mean,
            deviation,
            augment and part == "train",
        )
        for part in ("train", "t10k")
    )
    return train, held_out, classes


def is_idx_folder(folder: Path) -> bool:
    """Whether any of the four files is there."""
    return any(folder.glob("t*-idx?-ubyte*"))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{folder}: expected {name} or {name}.gz, neither is there")
