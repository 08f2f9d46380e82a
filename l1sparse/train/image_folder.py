# SPDX-License-Identifier: MIT
"""A tree of image files in ILSVRC-2012's layout, ``train/<class>/*`` and ``val/<class>/*``.

Pillow decodes and resamples; random numbers come from torch's default generator.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from l1sparse.train.batches import BrokenImage

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
_SMALLEST_AREA = 0.08  # of a random crop, a share of the image
_WIDEST_RATIO = 4 / 3  # width to height; and its inverse
_TRIES = 10  # to draw a crop that fits
_CENTER_SHARE = 224 / 256  # of the shorter side, kept by the crop of held-out images


class ImageFolder(Dataset["tuple[Tensor, int] | BrokenImage"]):
    """Images of one of the two parts of a tree.

    An item is (image ``[3, size, size]`` float32, ImageNet's mean and deviation taken out; label),
    or a `BrokenImage`. Labels count the classes in the order of their names.

    Args:
        folder: with one folder a class.
        size: of the images, pixels.
        augment: True: a random crop of 8 to 100 % of the area, mirrored half of the time. False:
            the center.

    Raises:
        ValueError: if there is no class, or a class has no image.
    """

    def __init__(self, folder: Path, size: int, augment: bool) -> None:
        self._size, self._augment = size, augment
        self.classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if not self.classes:
            raise ValueError(f"{folder}: expected one folder a class, there is none")
        self._items: list[tuple[Path, int]] = []
        for label, name in enumerate(self.classes):
            files = sorted(
                path for path in (folder / name).rglob("*") if path.suffix.lower() in _SUFFIXES
            )
            if not files:
                raise ValueError(
                    f"{folder / name}: expected images ({' '.join(sorted(_SUFFIXES))}), "
                    "there is none"
                )
            self._items += [(path, label) for path in files]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | BrokenImage:
        """One image and its label."""
        path, label = self._items[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        # Decoders raise almost anything at a damaged file: OSError, SyntaxError, struct.error.
        except Exception as error:
            return BrokenImage(path, f"{type(error).__name__}: {error}")
        box = _random_box(*image.size) if self._augment else _center_box(*image.size)
        image = image.resize((self._size, self._size), Image.Resampling.BILINEAR, box)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        if self._augment and torch.rand(()) < 0.5:
            pixels = pixels.flip(2)
        return (pixels - _MEAN) / _DEVIATION, label


def load_image_folder(
    folder: Path, size: int = 224, augment: bool = True
) -> tuple[ImageFolder, ImageFolder, int]:
    """The training images, the held-out images and the number of classes of a tree.

    Args:
        folder: with ``train/`` and ``val/``.
        size: of the images, pixels.
        augment: whether to crop and mirror training images at random.

    Raises:
        ValueError: if a part is missing, a class has no image, or the parts differ in classes.
    """
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder}: expected train/ and val/, there is no {part}/")
    train = ImageFolder(folder / "train", size, augment)
    held_out = ImageFolder(folder / "val", size, augment=False)
    if train.classes != held_out.classes:
        only = sorted(set(train.classes) ^ set(held_out.classes))
        raise ValueError(
            f"{folder}: train/ has {len(train.classes)} classes and val/ {len(held_out.classes)}; "
            f"only one of them has {', '.join(only[:5])}{' ...' if len(only) > 5 else ''}"
        )
    return train, held_out, len(train.classes)


Box = tuple[float, float, float, float]  # left, upper, right, lower


def _random_box(width: int, height: int) -> Box:
    """Of random area and shape, as in Szegedy et al. 2015; the center where none fits."""
    for _ in range(_TRIES):
        area, log_ratio, x, y = torch.rand(4).tolist()
        area = (_SMALLEST_AREA + area * (1 - _SMALLEST_AREA)) * width * height
        ratio = math.exp((2 * log_ratio - 1) * math.log(_WIDEST_RATIO))
        box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if box_width <= width and box_height <= height:
            left, upper = x * (width - box_width), y * (height - box_height)
            return left, upper, left + box_width, upper + box_height
    return _center_box(width, height, share=1.0)


def _center_box(width: int, height: int, share: float = _CENTER_SHARE) -> Box:
    side = share * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side
