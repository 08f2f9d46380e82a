# SPDX-License-Identifier: MIT
"""A pretrained EfficientNet-Lite0 pruned with 20 photos and no training set.

Half of the photos repair the network (batch norm, distillation), the other half judge it; then the
halves change places, so every photo is judged by a network that has never seen it.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from json_files import read_json, write_json
from l1sparse.pruning import (
    LayerPlan,
    LayerSensitivity,
    PrunePlan,
    conv_layers,
    measure_sensitivity,
    prune,
    pruned_share,
    split_layers,
)
from lite0 import load_lite0
from photos import Photos, load_photos
from proposals import proposed

GROUP = "1x8"
SPARSITIES = (0.3, 0.5, 0.7)  # of a layer alone
TARGETS = (0.3, 0.5)  # of all conv weights
JUDGING_VIEWS, REPAIR_VIEWS = 5, 10  # random crops of a photo
STEPS, BATCH, LEARNING_RATE, TEMPERATURE = 40, 20, 3e-4, 2.0
_CHUNK = 20  # images a forward pass


@dataclass(frozen=True)
class Judgement:
    """How a network compares with the dense one, over images it was not repaired with or was.

    Attributes:
        agree: share of the photos' middles with the dense network's top-1 class.
        agree_views: the same over random crops.
        right: share of the middles with the labelled class.
    """

    agree: float
    agree_views: float
    right: float


class Judge:
    """Compares networks with the dense one on some photos."""

    def __init__(self, dense: nn.Module, photos: Photos) -> None:
        self._middles, self._labels = photos.centre(), photos.labels
        self._views = photos.views(JUDGING_VIEWS, torch.Generator().manual_seed(1))
        self._dense = [classes(dense, part) for part in (self._middles, self._views)]

    def views(self, model: nn.Module) -> float:
        """Agreement over the crops."""
        return _share(classes(model, self._views), self._dense[1])

    def judge(self, model: nn.Module) -> Judgement:
        """All three."""
        found = classes(model, self._middles)
        return Judgement(
            _share(found, self._dense[0]), self.views(model), _share(found, self._labels)
        )


def main() -> int:
    """Measure sensitivities, prune at each target, repair, judge, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results" / "efficientnet"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        dense, photos = load_lite0(), load_photos()
    except ImportError as error:
        print(f"experiment: {error}", file=sys.stderr)
        return 1
    layers = _sensitivity(dense, photos, options.results / "sensitivity.json")
    for target in TARGETS:
        path = options.results / f"pruned-{target:.2f}.json"
        if path.exists():
            continue
        plan = proposed(layers, dense, target)
        folds = [_fold(dense, photos, plan, fold) for fold in (0, 1)]
        record = {
            "target": target,
            "pruned_share": folds[0].pop("pruned_share"),
            "plan": plan,
            "stages": _mean(folds),
            "settings": {
                "group": GROUP,
                "steps": STEPS,
                "batch": BATCH,
                "learning_rate": LEARNING_RATE,
                "temperature": TEMPERATURE,
            },
        }
        write_json(path, record)
        for stage, judged in record["stages"].items():
            print(f"{record['pruned_share']:.0%} pruned, {stage}: {judged}")
    return 0


@torch.inference_mode()
def classes(model: nn.Module, images: Tensor) -> Tensor:
    """Top-1 class of each image."""
    was_training = model.training
    model.eval()
    parts = images.split(_CHUNK)
    found = [model(part.contiguous(memory_format=torch.channels_last)).argmax(1) for part in parts]
    model.train(was_training)
    return torch.cat(found)


def recalibrate(model: nn.Module, images: Tensor) -> None:
    """Estimate batch norm's statistics anew: a plain average over the images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in images.split(_CHUNK):
            model(part.contiguous(memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def distil(model: nn.Module, dense: nn.Module, images: Tensor, seed: int) -> None:
    """Train `model` to give the dense network's probabilities, on crops and mixtures of crops."""
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model.eval()  # batch norm keeps its statistics, and nothing is dropped
    for step in range(STEPS):
        batch = images[torch.randint(len(images), (BATCH,), generator=random)]
        if step % 2:
            other = batch[torch.randperm(BATCH, generator=random)]
            share = torch.rand(BATCH, 1, 1, 1, generator=random)
            batch = share * batch + (1 - share) * other
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            goal = F.log_softmax(dense(batch) / TEMPERATURE, 1)
        given = F.log_softmax(model(batch) / TEMPERATURE, 1)
        loss = F.kl_div(given, goal, log_target=True, reduction="batchmean") * TEMPERATURE**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _fold(dense: nn.Module, photos: Photos, plan: dict[str, float], fold: int) -> dict[str, Any]:
    seen = photos.take(list(range(fold, len(photos), 2)))
    unseen = photos.take(list(range(1 - fold, len(photos), 2)))
    judges = {"seen": Judge(dense, seen), "unseen": Judge(dense, unseen)}
    views = seen.views(REPAIR_VIEWS, torch.Generator().manual_seed(2 + fold))
    model = copy.deepcopy(dense)

    def judged() -> dict[str, dict[str, float]]:
        return {name: asdict(judge.judge(model)) for name, judge in judges.items()}

    stages = {"dense": judged()}
    _prune(model, plan, judges["seen"])
    stages["pruned"] = judged()
    dense_statistics = copy.deepcopy(model.state_dict())
    recalibrate(model, views)
    stages["batch norm re-estimated"] = judged()
    model.load_state_dict(dense_statistics)
    distil(model, dense, views, fold)
    stages["distilled"] = judged()
    model.load_state_dict(dense_statistics)
    recalibrate(model, views)
    distil(model, dense, views, fold)
    stages["batch norm re-estimated, then distilled"] = judged()
    return {"pruned_share": pruned_share(model), **stages}


def _prune(model: nn.Module, plan: dict[str, float], judge: Judge) -> None:
    records = measure_sensitivity(model, lambda _: 1.0, list(plan), GROUP, (0.5,), 0.5)
    prune(
        model,
        judge.views,
        lambda _: None,
        PrunePlan(
            target_accuracy=0.0,
            split=split_layers(records),
            strategy="one-shot",
            layers={name: LayerPlan(sparsity=share) for name, share in plan.items()},
            total_rounds=0,
        ),
    )


def _sensitivity(dense: nn.Module, photos: Photos, path: Path) -> list[LayerSensitivity]:
    if not path.exists():
        convs = conv_layers(dense)
        records = measure_sensitivity(
            copy.deepcopy(dense),
            Judge(dense, photos).views,
            convs,
            GROUP,
            SPARSITIES,
            at=0.5,
            on_progress=lambda message: print(message, file=sys.stderr),
        )
        write_json(path, [record.to_dict() for record in records])
    return [LayerSensitivity.from_dict(record) for record in read_json(path)]


def _mean(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of numbers, at every depth."""
    first = folds[0]
    return {
        key: _mean([fold[key] for fold in folds])
        if isinstance(value, dict)
        else sum(fold[key] for fold in folds) / len(folds)
        for key, value in first.items()
        if key != "pruned_share"
    }


def _share(found: Tensor, expected: Tensor) -> float:
    return float((found == expected).float().mean())


if __name__ == "__main__":
    sys.exit(main())
