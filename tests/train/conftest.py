# SPDX-License-Identifier: MIT
"""Tiny data sets and networks, and a fresh `accelerate` for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import bright_squares, small_net, write_idx, write_tree
from torch import nn
from torch.utils.data import TensorDataset

from l1sparse.train import Data


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx")


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree")


@pytest.fixture
def make_net() -> Callable[..., nn.Module]:
    return small_net


@pytest.fixture
def squares() -> Data:
    """96 training and 50 held-out images of four classes, in memory."""

    def tensors(count: int, seed: int) -> TensorDataset:
        images, labels = bright_squares(count, seed)
        pixels = (torch.from_numpy(images).float()[:, None] - 90) / 60
        return TensorDataset(pixels, torch.from_numpy(labels).long())

    return Data(tensors(96, 1), tensors(50, 2), classes=4)
