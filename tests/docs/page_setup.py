# SPDX-License-Identifier: MIT
"""What the pages' code takes as given: a trained model, data, a training loop, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tiny import bright_squares
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import l1sparse
from l1sparse.pruning import group_norms
from l1sparse.train import DigitsNet

CHANNELS = (8, 16, 16)


def squares(count: int, seed: int) -> TensorDataset:
    images, labels = bright_squares(count, seed, brightness=60)
    pixels = torch.tensor(images, dtype=torch.float32)[:, None]
    return TensorDataset((pixels - 80) / 40, torch.tensor(labels, dtype=torch.int64))


def squares_net() -> DigitsNet:
    """Six convolutions, five of which have channels to group."""
    return DigitsNet(CHANNELS, classes=4)


def training() -> dict[str, Any]:
    """A network that has learned to find bright squares, and what trained it."""
    train_loader = DataLoader(squares(256, 1), batch_size=32, shuffle=True)
    test_loader = DataLoader(squares(64, 2), batch_size=64)
    model = squares_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train_one_epoch(model: nn.Module) -> None:
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    def evaluate(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(1) == y).sum().item() for x, y in test_loader)
        return right / len(test_loader.dataset)

    for _ in range(3):
        train_one_epoch(model)
    assert evaluate(model) > 0.9, "the pages' network has not learned anything"
    return {
        "model": model,
        "Model": squares_net,
        "optimizer": optimizer,
        "train_loader": train_loader,
        "test_loader": test_loader,
        "train_one_epoch": train_one_epoch,
        "evaluate": evaluate,
        "example_input": next(iter(test_loader))[0][:1],
    }


def pruned(model: nn.Module) -> nn.Module:
    """The same model, three quarters of each layer's groups of 1x8 set to zero."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels >= 8:
                norms = group_norms(module.weight, "1x8")
                keep = (norms > norms.quantile(0.75)).repeat_interleave(8, dim=1)
                module.weight *= keep
    return model


def digits_file(path: Path) -> Tensor:
    """Write the compressed file of a pruned `DigitsNet` without training; the example used."""
    image = torch.randn(1, 1, 28, 28)
    l1sparse.save(l1sparse.accelerate(pruned(DigitsNet()), image), path)
    return image


def of_files() -> dict[str, Any]:
    image = torch.randn(1, 1, 12, 12)
    fast = l1sparse.accelerate(pruned(squares_net()), image)
    return {
        "l1sparse": l1sparse,
        "torch": torch,
        "fast": fast,
        "example_input": image,
        "MyNetwork": squares_net,
    }


def of_device() -> dict[str, Any]:
    digits_file(Path("digits.l1s"))
    return {"input": np.ones((1, 32, 28, 28), np.float32)}


def of_pruning_runs(blocks: list[str]) -> dict[str, Any]:
    """The page's own ``small.py``, and the file that its run wrote."""
    Path("small.py").write_text(blocks[0])
    Path("runs/pruned").mkdir(parents=True)
    network = pruned(DigitsNet((16, 32, 64)))
    fast = l1sparse.accelerate(network, torch.randn(1, 1, 28, 28))
    l1sparse.save(fast, "runs/pruned/fast.safetensors")
    return {}


# Page: makes the names that its blocks use, in the current folder and given the blocks' text.
SETUP: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "README.md": lambda blocks: training(),
    "docs/index.md": lambda blocks: training(),
    "docs/own-network.md": lambda blocks: training(),
    "docs/accelerate.md": lambda blocks: {
        "model": squares_net().eval(),
        "example_input": torch.randn(1, 1, 28, 28),
    },
    "docs/files.md": lambda blocks: of_files(),
    "docs/device.md": lambda blocks: of_device(),
    "docs/pruning-runs.md": of_pruning_runs,
}
