# SPDX-License-Identifier: MIT
"""A folder to run commands in: data sets, dense weights, a plan; and processes that run them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from command_process import run_command
from tiny import PLAN, small_net, write_idx, write_tree

from l1sparse.train import Recipe, Trainer, load_data, save_weights


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``idx/``, ``tree/``, ``dense.safetensors`` and ``plan.yaml``."""
    write_idx(tmp_path / "idx")
    write_tree(tmp_path / "tree")
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    recipe = Recipe(learning_rate=0.1, batch_size=16)
    trainer = Trainer(small_net(), load_data("idx"), recipe)
    for _ in range(2):
        trainer.train_round()
    save_weights(trainer.model, tmp_path / "dense.safetensors")
    AcceleratorState._reset_state(reset_partial_state=True)
    return tmp_path


@pytest.fixture
def start_command(workplace: Path) -> Iterator[Callable[[list[str]], ForkServerProcess]]:
    """Starts ``l1sparse`` in a process of its own, which has torch already: tests start many.

    What it prints is appended to ``log.txt``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["l1sparse.cli.outcome", "l1sparse.cli.session", "torch._dynamo", "tiny", "command_process"]
    )
    started: list[ForkServerProcess] = []

    def start(arguments: list[str]) -> ForkServerProcess:
        process = context.Process(target=run_command, args=(arguments, str(workplace / "log.txt")))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            os.kill(process.pid, 9)
        process.join()
