# SPDX-License-Identifier: MIT
"""The cells of the experiment's table, and one run: seed, group shape, sparsity, strategy."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from fashion_data import FashionData
from fashion_dense import RETRAINING_ROUNDS, Dense
from fashion_training import SETTINGS, FashionTrainer, accuracy
from json_files import read_json, write_json
from l1sparse.pruning import (
    LayerPlan,
    LayerSensitivity,
    PrunePlan,
    conv_layers,
    detach_all,
    measure_sensitivity,
    prune,
    split_layers,
)
from proposals import proposed

SEEDS = (0, 1, 2)
SPARSITIES, SENSITIVITY_AT = (0.5, 0.75, 0.9, 0.96), 0.75
# How far below the dense network the loop may be between two steps, while learning rates are high:
# only the fine-tuning at the end brings the accuracy back.
ALLOWED_BETWEEN = 0.1
STEP = 0.65  # of a layer's remaining weights, at most, in one step of the loop
# Where every step takes a round: then the loop has pruned by 20 to 26 of the 40 rounds.
STEP_WITH_ROUNDS = 0.9
# A layer that one threshold over all layers empties would cut the network in two.
MOST_OF_A_LAYER = 0.97


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Attributes:
        group: channel-group shape.
        sparsity: share of all conv weights to prune.
        strategy: one of `PrunePlan`'s, ``"method"`` by one threshold over all layers and with a
            round of retraining a step at least; ``"method as proposed"``: with the sparsity of each
            layer proposed from the sensitivities, and no round where none is needed; ``"method in
            small steps"``: as the method, but pruning takes most of the rounds; ``"alpha"``:
            the loop with the claims' threshold instead; ``"above"``: likewise, with claim 2 read
            literally.
    """

    group: str
    sparsity: float
    strategy: str

    def name(self, seed: int) -> str:
        """Of its file."""
        return f"{self.group}-{self.sparsity:.2f}-{self.strategy.replace(' ', '-')}-{seed}"


STRATEGIES = ("method", "gradual", "global", "one-shot")
CORE = (
    *(Cell("1x8", sparsity, strategy) for strategy in STRATEGIES for sparsity in (0.75, 0.9)),
    Cell("1x8", 0.75, "above"),
)
WIDE = (
    *(Cell("1x8", 0.5, strategy) for strategy in STRATEGIES),
    *(Cell(group, s, "method") for group in ("1x1", "1x16", "4x4") for s in (0.75, 0.9)),
    *(
        Cell("1x8", s, f"method {how}")
        for how in ("as proposed", "in small steps")
        for s in (0.75, 0.9)
    ),
    *(Cell("1x8", s, "alpha") for s in (0.75, 0.9)),
    *(Cell("1x8", s, "above") for s in (0.5, 0.9)),
)


def run_cell(
    cell: Cell, seed: int, dense: Dense, data: FashionData, results: Path, cache: Path
) -> dict[str, Any]:
    """Prune, retrain and test one network; writes its JSON, and its weights into the cache."""
    torch.manual_seed(seed)
    model = copy.deepcopy(dense.model)
    trainer = FashionTrainer(model, data, RETRAINING_ROUNDS, 1000 + seed, dense.model)
    layers = sensitivities(cell.group, seed, model, trainer, results)

    def train(_: nn.Module) -> float:
        trainer.round()
        return trainer.losses[-1]

    start = time.process_time()
    result = prune(
        model,
        trainer.validate,
        train,
        plan_of(cell, layers, model, trainer.validate(model)),
        training_state=[trainer.optimizer],
        recalibrate=trainer.recalibrate,
    )
    seconds = time.process_time() - start
    detach_all(model)
    cache.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, cache / f"{cell.name(seed)}.safetensors")
    told = result.to_dict()
    told["plan"].pop("split")  # the sensitivities have a file of their own
    told.pop("activations")
    record = {
        "cell": asdict(cell),
        "seed": seed,
        "test": accuracy(model, data.test),
        "validation": result.accuracy,
        "dense": dense.record,
        "pruned_share": result.pruned_share,
        "cpu_seconds": round(seconds, 1),
        "training": SETTINGS,
        "result": told,
    }
    write_json(results / f"{cell.name(seed)}.json", record)
    return record


def plan_of(
    cell: Cell, layers: list[LayerSensitivity], model: nn.Module, start: float
) -> PrunePlan:
    """The plan of a cell.

    Args:
        cell: of the table.
        layers: their sensitivities.
        model: the dense network.
        start: its accuracy on the validation images.
    """
    most = LayerPlan(max_sparsity=MOST_OF_A_LAYER)
    common: dict[str, Any] = {
        "split": split_layers(layers),
        "target_sparsity": cell.sparsity,
        "total_rounds": RETRAINING_ROUNDS,
        "prune": "above" if cell.strategy == "above" else "below",
    }
    loop: dict[str, Any] = {
        "target_accuracy": start - ALLOWED_BETWEEN,
        "step": STEP,
        "rounds": 2,
        **common,
    }
    if cell.strategy in ("method", "method in small steps"):
        loop |= {"threshold": "global", "min_rounds": 1}
        if cell.strategy == "method":
            loop["step"] = STEP_WITH_ROUNDS
        return PrunePlan(layer=most, **loop)
    if cell.strategy == "method as proposed":
        return PrunePlan(**(loop | _as_proposed(cell, layers, model)))
    if cell.strategy in ("alpha", "above"):
        # Theta settles where alpha times the density is about 1; above it, alpha > 1 would find
        # next to nothing.
        alpha = 1.0 if cell.strategy == "above" else 1.0 / (1.0 - cell.sparsity)
        return PrunePlan(layer=LayerPlan(alpha=alpha), **loop)
    if cell.strategy == "global":
        common |= {
            "layer": most,
            "pruning_rounds": RETRAINING_ROUNDS // 2,  # as many as the gradual strategy takes
        }
    strategy: Any = cell.strategy
    return PrunePlan(target_accuracy=0.0, strategy=strategy, **common)


def _as_proposed(cell: Cell, layers: list[LayerSensitivity], model: nn.Module) -> dict[str, Any]:
    """The split and the layers' plans by which the sparsity asked for costs the least."""
    shares = proposed(layers, model, cell.sparsity)
    return {
        "split": split_layers(layer for layer in layers if layer.name in shares),
        "layers": {name: LayerPlan(sparsity=share) for name, share in shares.items()},
    }


def sensitivities(
    group: str, seed: int, model: nn.Module, trainer: FashionTrainer, results: Path
) -> list[LayerSensitivity]:
    """Of all layers of the dense network; measured once for a group shape and seed."""
    path = results / f"sensitivity-{group}-{seed}.json"
    if not path.exists():
        measured = measure_sensitivity(
            model,
            trainer.validate,
            conv_layers(model),
            group,
            sparsities=SPARSITIES,
            at=SENSITIVITY_AT,
            recalibrate=trainer.recalibrate,
        )
        write_json(path, [layer.to_dict() for layer in measured])
    return [LayerSensitivity.from_dict(record) for record in read_json(path)]
