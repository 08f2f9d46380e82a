# SPDX-License-Identifier: MIT
"""The whole way on real data: train, prune, convert, save, load again, measure.

`run_demo` is what ``l1sparse demo`` and ``make demo`` call; every step is one call of the library.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from l1sparse.convert import accelerate, layer_choices, load, save
from l1sparse.convert.dense import dense_variants
from l1sparse.convert.measure import Timing, alternate
from l1sparse.pruning import (
    LayerPlan,
    PrunePlan,
    PruneResult,
    conv_layers,
    detach_all,
    measure_sensitivity,
    pruned_share,
    split_layers,
)
from l1sparse.pruning import prune as prune_network
from l1sparse.train import DigitsNet, DigitsTrainer, load_digits

GROUP = (1, 8)
ALLOWED_DROP = 0.004  # accuracy that pruning may cost, as a fraction of 1
# Of the claims' threshold: so large that the accuracy, not theta, ends the loop.
ALPHA = 5.0
SENSITIVITY_AT = 0.75  # the sparsity at which layers are ordered


@dataclass(frozen=True)
class DemoSettings:
    """What `run_demo` can be told.

    Attributes:
        epochs: of training before pruning.
        rounds: most epochs of retraining in all.
        seed: of data split, initial weights and batches.
        target: accuracy that pruning has to keep, a fraction of 1; None: the trained network's
            minus 0.4 points.
        file: where to keep the compressed file; None: nowhere.
    """

    epochs: int = 7
    rounds: int = 20
    seed: int = 0
    target: float | None = None
    file: Path | None = None


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        record: the content of ``demo.json``.
        dense_ms: time of one image in the fastest dense run, milliseconds.
        sparse_ms: time of one image in the reloaded network.
        dense_bytes: size of the dense file.
        sparse_bytes: size of the compressed file.
    """

    record: dict[str, Any]
    dense_ms: float
    sparse_ms: float
    dense_bytes: int
    sparse_bytes: int


def run_demo(settings: DemoSettings) -> DemoResult:
    """Train, prune, convert, save, load again and measure; progress goes to standard error."""
    torch.manual_seed(settings.seed)
    train_data, held_out = load_digits(settings.seed)
    model = DigitsNet()
    trainer = DigitsTrainer(model, train_data, held_out)

    _say(f"1/4 train for {settings.epochs} epochs on {len(train_data)} digits")
    trainer.fit(settings.epochs, learning_rate=0.2)
    before = trainer.evaluate(model)
    dense = copy.deepcopy(model).eval()
    target = before - ALLOWED_DROP if settings.target is None else settings.target
    _say(f"    accuracy {before:.1%}; pruning has to keep {target:.1%}")

    pruned = _prune(model, trainer, target, settings.rounds)
    detach_all(model)

    _say("3/4 convert, save and load again")
    torch.set_num_threads(1)
    example = held_out[0][0][None]
    # Pooling and the sparse kernels are fastest with the channels of a pixel side by side.
    fast = accelerate(model.to(memory_format=torch.channels_last), example, GROUP)  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.safetensors"
        save(fast, path)
        reloaded = load(path, DigitsNet().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        sparse_bytes = path.stat().st_size
        if settings.file is not None:
            shutil.copyfile(path, settings.file)
        save_file(dense.state_dict(), Path(folder) / "dense.safetensors")
        dense_bytes = (Path(folder) / "dense.safetensors").stat().st_size
    after = trainer.evaluate(reloaded)

    _say("4/4 measure on one thread")
    times = _measure(dense, reloaded, example)
    fastest = min((name for name in times if name != "l1sparse"), key=lambda n: times[n].median)
    dense_ms, sparse_ms = times[fastest].median, times["l1sparse"].median
    record = {
        "accuracy_before": before,
        "accuracy_after": after,
        "target": target,
        "pruned_share": pruned_share(model),
        "speedup": dense_ms / sparse_ms,
        "size_ratio": dense_bytes / sparse_bytes,
        "layers": _layer_records(fast, pruned),
        "fastest_dense": fastest,
        "milliseconds": {name: timing.median for name, timing in times.items()},
        "pruning": pruned.to_dict(),
    }
    return DemoResult(record, dense_ms, sparse_ms, dense_bytes, sparse_bytes)


def _prune(model: nn.Module, trainer: DigitsTrainer, target: float, rounds: int) -> PruneResult:
    with tqdm(desc="2/4 sensitivity", total=None) as bar:
        sensitivities = measure_sensitivity(
            model,
            trainer.evaluate,
            conv_layers(model),
            GROUP,
            sparsities=(0.5, SENSITIVITY_AT),
            at=SENSITIVITY_AT,
            on_progress=lambda message: (bar.set_postfix_str(message), bar.update()),
        )
    split = split_layers(sensitivities)
    plan = PrunePlan(
        target_accuracy=target,
        split=split,
        layer=LayerPlan(alpha=ALPHA),
        rounds=2,
        total_rounds=rounds,
    )
    _say(f"2/4 prune {len(split.prune)} layers, at most {rounds} epochs of retraining")
    return prune_network(
        model,
        trainer.evaluate,
        lambda _: trainer.retrain_epoch(learning_rate=0.02),
        plan,
        training_state=[trainer.optimizer],
        recalibrate=lambda _: trainer.recalibrate(),
        on_progress=lambda message: _say(f"    {message}"),
    )


def _measure(dense: nn.Module, sparse: nn.Module, example: Tensor) -> dict[str, Timing]:
    with torch.no_grad():
        calls = dense_variants(dense, example)
        calls["l1sparse"] = lambda: sparse(example)
        return alternate(calls, rounds=31, round_seconds=0.01)


def _layer_records(fast: nn.Module, pruned: PruneResult) -> list[dict[str, Any]]:
    choices = {choice.name: choice for choice in layer_choices(fast)}
    return [
        {
            "name": layer.name,
            "group": choices[layer.name].group,
            "sensitivity": layer.sensitivity,
            "threshold": layer.threshold,
            "density": layer.density,
            "dense_ms": choices[layer.name].dense_ms,
            "sparse_ms": choices[layer.name].sparse_ms,
            "choice": choices[layer.name].choice,
            "closed": layer.closed,
        }
        for layer in pruned.layers
    ]


def _say(text: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        tqdm.write(text)
