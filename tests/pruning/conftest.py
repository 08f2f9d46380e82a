# SPDX-License-Identifier: MIT
"""A network and data small enough to train to its target within a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class TinyNet(nn.Module):
    """Three convs: one that sees a single channel, and two with tails for groups of 8 (12, 20)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.middle = nn.Conv2d(12, 20, 3, padding=1)
        self.last = nn.Conv2d(20, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.stem(images)))
        hidden = torch.relu(self.last(torch.relu(self.middle(hidden))))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


@dataclass
class Problem:
    """Four kinds of 6x6 pictures under noise, and a network that learns to tell them apart."""

    model: TinyNet
    images: Tensor
    labels: Tensor
    optimizer: torch.optim.Optimizer
    rounds: int = 0

    def evaluate(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return float((model(self.images).argmax(1) == self.labels).double().mean())

    def train(self, model: nn.Module) -> None:
        self.rounds += 1
        model.train()
        for batch in torch.randperm(len(self.images)).split(32):
            loss = nn.functional.cross_entropy(model(self.images[batch]), self.labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


@pytest.fixture
def problem(one_thread_and_seed: None) -> Problem:
    patterns = torch.zeros(4, 1, 6, 6)
    patterns[0, :, 2:4], patterns[1, ..., 2:4] = 1, 1
    patterns[2, 0], patterns[3, :, ::2] = torch.eye(6), 1
    labels = torch.arange(256) % 4
    images = patterns[labels] + 0.2 * torch.randn(256, 1, 6, 6)
    model = TinyNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Problem(model, images, labels, optimizer)


@pytest.fixture
def trained(problem: Problem) -> Problem:
    while problem.evaluate(problem.model) < 0.99:
        problem.train(problem.model)
        assert problem.rounds < 100
    problem.rounds = 0
    return problem
