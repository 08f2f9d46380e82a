# SPDX-License-Identifier: MIT
"""The pages' code runs on fewer digits than a user's, so that it takes seconds."""

from __future__ import annotations

import pytest
from torch.utils.data import TensorDataset

import l1sparse.train
from l1sparse.train import load_digits


@pytest.fixture(autouse=True)
def fewer_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(seed: int = 0) -> tuple[TensorDataset, ...]:
        return tuple(TensorDataset(*part[: len(part) // 8]) for part in load_digits(seed))

    monkeypatch.setattr(l1sparse.train, "load_digits", load)
