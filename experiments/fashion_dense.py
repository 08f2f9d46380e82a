# SPDX-License-Identifier: MIT
"""The dense networks that all runs of a seed start from and are compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fashion_data import FashionData
from fashion_training import (
    ROUNDS_PER_EPOCH,
    FashionTrainer,
    accuracy,
    make_network,
)
from json_files import read_json, write_json

TRAINING_EPOCHS, RETRAINING_EPOCHS = 6, 8
RETRAINING_ROUNDS = RETRAINING_EPOCHS * ROUNDS_PER_EPOCH


@dataclass(frozen=True)
class Dense:
    """A trained network and what it reaches.

    Attributes:
        model: after `TRAINING_EPOCHS`: what every run starts from.
        record: ``start`` (accuracies of `model`) and ``longer``: of the dense network after
            `RETRAINING_EPOCHS` more, under the schedule that the pruned ones are retrained with.
    """

    model: nn.Module
    record: dict[str, dict[str, float]]


def dense_network(data: FashionData, seed: int, results: Path, cache: Path, device: str) -> Dense:
    """Train the dense network of `seed`, or read it if that was done before.

    Args:
        results: folder of the JSON that is kept.
        cache: folder of the weights, which can always be trained again.
    """
    record_path = results / f"dense-{seed}.json"
    torch.manual_seed(seed)
    model = make_network().to(device)
    rounds = TRAINING_EPOCHS * ROUNDS_PER_EPOCH
    record = {"start": _trained(model, data, rounds, seed, cache / f"dense-{seed}-start")}
    if record_path.exists():
        return Dense(model, read_json(record_path)["accuracy"])
    longer = copy.deepcopy(model)
    path = cache / f"dense-{seed}-longer"
    record["longer"] = _trained(longer, data, RETRAINING_ROUNDS, seed + 1000, path, teacher=model)
    write_json(record_path, {"seed": seed, "accuracy": record})
    return Dense(model, record)


def _trained(
    model: nn.Module,
    data: FashionData,
    rounds: int,
    seed: int,
    cached: Path,
    teacher: nn.Module | None = None,
) -> dict[str, float]:
    """Train `model`, or load what an earlier call has trained. Returns its accuracies."""
    path = cached.with_suffix(".safetensors")
    trainer = FashionTrainer(model, data, rounds, seed, teacher)
    if path.exists():
        model.load_state_dict(load_file(path, device=str(trainer.device)))
    else:
        for _ in range(rounds):
            trainer.round()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: part.contiguous() for name, part in model.state_dict().items()}, path)
    return {"validation": trainer.validate(model), "test": accuracy(model, data.test)}
