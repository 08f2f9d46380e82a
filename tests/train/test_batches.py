# SPDX-License-Identifier: MIT
"""Batches are a function of seed and step: of nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from l1sparse.train.batches import BrokenImage, FixedBatches, TrainingBatches, loader


class Noisy(Dataset[tuple[Tensor, int]]):
    """Items of all three random generators; the label is the index."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]), index


def batches_of(steps: range, rank: int = 0, ranks: int = 1, seed: int = 0) -> TrainingBatches:
    batches = TrainingBatches(10, 4, seed, rank, ranks)
    batches.steps = steps
    return batches


def test_an_epoch_takes_every_image_at_most_once_and_the_next_in_another_order() -> None:
    first, second = (list(batches_of(range(2 * e, 2 * e + 2))) for e in (0, 1))
    for epoch, batches in enumerate((first, second)):
        keys = [key for batch in batches for key in batch]
        assert {e for e, _ in keys} == {epoch}
        assert len({index for _, index in keys}) == 8
    assert [i for _, i in first[0]] != [i for _, i in second[0]]


def test_the_order_depends_on_the_seed() -> None:
    assert list(batches_of(range(2))) != list(batches_of(range(2), seed=1))


def test_ranks_share_each_batch() -> None:
    whole = list(batches_of(range(5)))
    shares = [list(batches_of(range(5), rank, ranks=2)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert sorted(shares[0][step] + shares[1][step]) == sorted(batch)
        assert len(shares[0][step]) == len(shares[1][step]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_the_same_wherever_the_iteration_begins(workers: int) -> None:
    whole = list(loader(Noisy(), batches_of(range(6)), seed=3))
    random.seed(5)
    torch.manual_seed(5)
    rest = list(loader(Noisy(), batches_of(range(4, 6)), seed=3, workers=workers))
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_an_image_changes_from_epoch_to_epoch_and_with_the_seed() -> None:
    def of_image_0(seed: int) -> Tensor:
        batches = TrainingBatches(10, 10, 0, 0, 1)
        batches.steps = range(2)
        epochs = loader(Noisy(), batches, seed)
        return torch.stack([batch.images[batch.labels == 0][0] for batch in epochs])

    values = torch.cat([of_image_0(seed=0), of_image_0(seed=1)]).flatten()
    assert len(values.unique()) == 12


def test_a_loader_leaves_the_random_generators_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed_all() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed_all()
    expected = draw()
    seed_all()
    list(loader(Noisy(), batches_of(range(4)), seed=0))
    assert draw() == expected


def test_fixed_batches_hold_every_index_once() -> None:
    batches = FixedBatches(range(1, 10, 2), 2)
    assert list(batches) == [[(0, 1), (0, 3)], [(0, 5), (0, 7)], [(0, 9)]]
    assert len(batches) == 3


class Broken(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, int] | BrokenImage:
        return super().__getitem__(index) if index % 2 else BrokenImage(f"{index}.jpg", "bad")


def test_a_batch_lists_what_is_missing_in_it() -> None:
    (batch,) = loader(Broken(), FixedBatches([1, 2, 3, 4], 4), seed=0)
    assert batch.labels.tolist() == [1, 3]
    assert [str(broken.path) for broken in batch.broken] == ["2.jpg", "4.jpg"]
    (none_left,) = loader(Broken(), FixedBatches([2], 1), seed=0)
    assert len(none_left.images) == 0
    assert len(none_left.broken) == 1


@pytest.mark.parametrize(
    ("size", "ranks", "message"),
    [
        (11, 1, "expected 1 to 10, .*; got 11"),
        (0, 1, "expected 1 to 10, .*; got 0"),
        (3, 2, "expected a multiple of the 2 processes, got 3"),
    ],
)
def test_a_batch_size_that_does_not_work_is_an_error(size: int, ranks: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"batch_size: {message}"):
        TrainingBatches(10, size, 0, 0, ranks)
