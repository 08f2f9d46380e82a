# SPDX-License-Identifier: MIT
"""Training data, named on the command line: a folder of images, IDX files, ``module:function``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from l1sparse.train.idx import is_idx_folder, load_idx_folder
from l1sparse.train.specifier import imported_function


@dataclass(frozen=True)
class Data:
    """What a network is trained on and measured with.

    Attributes:
        train: map-style data set of (image, label).
        held_out: likewise, for accuracies.
        classes: how many; None where only the labels themselves tell.
    """

    train: Dataset[Any]
    held_out: Dataset[Any]
    classes: int | None = None


def load_data(text: str, image_size: int = 224, augment: bool = True) -> Data:
    """The data that `text` names.

    Args:
        text: a folder with ``train/`` and ``val/``, each with one folder of images a class (the
            layout of ILSVRC-2012); a folder with the IDX files of MNIST or Fashion-MNIST; or
            ``module:function``, called without arguments, which gives two map-style data sets of
            (image, label), to train and held out.
        image_size: of the images of a tree, pixels.
        augment: whether training images of a folder are changed at random.

    Raises:
        ValueError: if there is no such data, or it is not as described.
    """
    folder = Path(text)
    if folder.is_dir():
        if is_idx_folder(folder):
            return Data(*load_idx_folder(folder, augment))
        if (folder / "train").is_dir() or (folder / "val").is_dir():
            try:
                from l1sparse.train.image_folder import load_image_folder
            except ModuleNotFoundError as error:
                raise ImportError(
                    f"data: images need the package {error.name!r}; pip install 'l1sparse[train]'"
                ) from error
            return Data(*load_image_folder(folder, image_size, augment))
        what = "is empty" if not any(folder.iterdir()) else "has neither"
        raise ValueError(
            f"data: the folder {text} {what}; expected train/ and val/ with one folder of images "
            "a class, or IDX files such as train-images-idx3-ubyte.gz"
        )
    if ":" not in text:
        raise ValueError(f"data: expected a folder or module:function, there is no folder {text!r}")
    return _checked(text, imported_function("data", text)())


def _checked(text: str, given: object) -> Data:
    data = given if isinstance(given, Data) else None
    if isinstance(given, tuple) and len(given) == 2:
        data = Data(*given)
    if data is None:
        raise ValueError(
            f"data: {text} must give two data sets (to train, held out), it gave a "
            f"{type(given).__name__}"
        )
    for name in ("train", "held_out"):
        part = getattr(data, name)
        if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            raise ValueError(
                f"data: {text}: {name} must have __len__ and __getitem__, it is a "
                f"{type(part).__name__}"
            )
        if not len(part):
            raise ValueError(f"data: {text}: {name} is empty")
    return data
