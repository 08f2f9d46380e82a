# SPDX-License-Identifier: MIT
"""The 20 labelled ImageNet photos of the package foolbox, and random views of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 224
_RESIZED = 256


@dataclass(frozen=True)
class Photos:
    """Photos ``[N, 3, 256, 256]`` float32 as EfficientNet-Lite wants them, and their labels."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: list[int]) -> Photos:
        """The photos at `index`."""
        return Photos(self.images[index], self.labels[index])

    def centre(self) -> Tensor:
        """The middle of each photo, ``[N, 3, 224, 224]``."""
        edge = (_RESIZED - SIDE) // 2
        return self.images[:, :, edge : edge + SIDE, edge : edge + SIDE].contiguous()

    def views(self, count: int, random: torch.Generator) -> Tensor:
        """`count` random crops of each photo, half of them flipped: ``[count * N, 3, 224, 224]``.

        Photo after photo is cropped, then all of them again, so that a batch holds many photos.
        """
        return torch.stack(
            [_crop(image, random) for _ in range(count) for image in self.images.unbind()]
        )


def load_photos() -> Photos:
    """All 20, in the order of their numbers.

    Raises:
        ImportError: if the package foolbox is not there; says how to install it.
    """
    from PIL import Image

    found = find_spec("foolbox")
    if found is None or found.origin is None:
        raise ImportError("the photos need foolbox; pip install --no-deps foolbox==3.3.4")
    paths = sorted((Path(found.origin).parent / "data").glob("imagenet_*_*.jpg"))
    images = []
    for path in paths:
        with Image.open(path) as image:
            square = _square(image.convert("RGB")).resize(
                (_RESIZED, _RESIZED), Image.Resampling.BICUBIC
            )
        images.append(torch.from_numpy(np.asarray(square, np.float32)).permute(2, 0, 1))
    labels = [int(path.stem.split("_")[-1]) for path in paths]
    return Photos((torch.stack(images) - 127.0) / 128.0, torch.tensor(labels))


def _square(image):  # type: ignore[no-untyped-def]
    """The largest square in the middle."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _crop(image: Tensor, random: torch.Generator) -> Tensor:
    low = int(0.6 * _RESIZED)
    side = int(torch.randint(low, _RESIZED + 1, (), generator=random))
    top, left = torch.randint(0, _RESIZED - side + 1, (2,), generator=random).tolist()
    crop = image[None, :, top : top + side, left : left + side]
    view = F.interpolate(crop, (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return view.flip(2) if torch.rand((), generator=random) < 0.5 else view
