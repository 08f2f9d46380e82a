# SPDX-License-Identifier: MIT
"""Batches as a pure function of seed and step, so that a run can stop and go on at any step.

What a batch holds depends neither on the number of worker processes, nor on that of ranks (they
share its images), nor on where the run was interrupted.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

Key = tuple[int, int]  # epoch, index in the data set


@dataclass(frozen=True)
class BrokenImage:
    """What a data set gives in place of an image that cannot be read."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """Path and reason in one line."""
        return f"{self.path}: cannot be read as an image ({self.reason})"


@dataclass(frozen=True)
class Batch:
    """What a loader gives.

    Attributes:
        images: ``[N, ...]``.
        labels: ``[N]`` int64.
        broken: the images that are missing in it.
    """

    images: Tensor
    labels: Tensor
    broken: tuple[BrokenImage, ...] = ()


class TrainingBatches(Sampler[list[Key]]):
    """Which images each step of training takes: epoch after epoch, each in an order of its own.

    Images that do not fill the last batch of an epoch are left out of it.

    Args:
        images: how many there are.
        batch_size: images a step, of all ranks together.
        seed: of all orders.
        rank: of this process.
        ranks: number of processes.

    Attributes:
        steps: ``range`` of the steps to iterate over, counted from the beginning of the run.

    Raises:
        ValueError: if `batch_size` is larger than `images` or not a multiple of `ranks`.
    """

    def __init__(self, images: int, batch_size: int, seed: int, rank: int, ranks: int) -> None:
        if not 1 <= batch_size <= images:
            raise ValueError(
                f"batch_size: expected 1 to {images}, the number of training images; "
                f"got {batch_size}"
            )
        if batch_size % ranks:
            raise ValueError(
                f"batch_size: expected a multiple of the {ranks} processes, got {batch_size}"
            )
        self._images, self._batch_size, self._seed = images, batch_size, seed
        self._rank, self._ranks = rank, ranks
        self.steps = range(0)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return self._images // self._batch_size

    def __len__(self) -> int:
        """Steps to iterate over."""
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        """This rank's share of each step's images."""
        order_of: int | None = None
        for step in self.steps:
            epoch, batch = divmod(step, self.steps_per_epoch)
            if order_of != epoch:
                generator = torch.Generator().manual_seed(_seed(self._seed, epoch))
                order = torch.randperm(self._images, generator=generator).tolist()
                order_of = epoch
            indices = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield [(epoch, index) for index in indices[self._rank :: self._ranks]]


class SeededItems(Dataset[Any]):
    """A data set whose random changes are a pure function of seed, epoch and index.

    Each item is made with Python's, NumPy's and torch's generators seeded for it; after a batch
    they are what they were before.
    """

    def __init__(self, data: Dataset[Any], seed: int) -> None:
        self._data, self._seed = data, seed

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """The items of a batch, each as it is in its epoch; torch's loader asks for them so."""
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            return [self._item(epoch, index) for epoch, index in keys]
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])

    def _item(self, epoch: int, index: int) -> Any:
        seed = _seed(self._seed, epoch, index)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        return self._data[index]


def loader(
    data: Dataset[Any],
    batches: Sampler[list[Key]],
    seed: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """A loader of `Batch` over `batches`.

    Args:
        data: map-style data set of (image, label), or `BrokenImage` where that cannot be read.
        batches: what each batch holds.
        seed: of random changes to images.
        workers: processes that prepare batches; 0: this one does.
        pin_memory: whether batches are put where a GPU copies them from faster.
    """
    return DataLoader(
        SeededItems(data, seed),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_collate,
        # Not torch's default one: the loader would draw from it, once an iteration.
        generator=torch.Generator().manual_seed(seed),
    )


class FixedBatches(Sampler[list[Key]]):
    """The given images in order, the same in every iteration.

    Args:
        indices: in the data set.
        batch_size: images a batch; the last one may have fewer.
    """

    def __init__(self, indices: list[int] | range, batch_size: int) -> None:
        self._indices, self._batch_size = indices, batch_size

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        """One batch after the other."""
        for start in range(0, len(self._indices), self._batch_size):
            yield [(0, index) for index in self._indices[start : start + self._batch_size]]


def _collate(items: list[Any]) -> Batch:
    good = [item for item in items if not isinstance(item, BrokenImage)]
    broken = tuple(item for item in items if isinstance(item, BrokenImage))
    if not good:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), broken)
    images, labels = default_collate(good)
    return Batch(images, labels, broken)


def _seed(*parts: int) -> int:
    # A hash, so that neighbouring numbers give streams that have nothing in common.
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
