# SPDX-License-Identifier: MIT
"""A run that is killed at any moment, or asked to stop, goes on and ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import PRUNE

Start = Callable[[list[str]], ForkServerProcess]
KILLS = 10


def newest_checkpoint(folder: Path) -> int:
    return max((int(path.stem[-6:]) for path in folder.glob("checkpoint-*.l1s")), default=0)


def wait_for_checkpoint(folder: Path, number: int, process: ForkServerProcess) -> None:
    while newest_checkpoint(folder) < number:
        assert process.is_alive(), Path("log.txt").read_text()
        time.sleep(0.001)


def finish(process: ForkServerProcess) -> None:
    process.join()
    assert process.exitcode == 0, Path("log.txt").read_text()


def outcome(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "result.json").read_text())
    for measured_anew in ("times", "sizes"):
        record.pop(measured_anew, None)
    return record


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8))
        if first[name].dim()
        else bool(first[name] == second[name])
        for name in first
    )


def command(folder: str) -> list[str]:
    # What trains on the pattern is chosen by time: two runs need not choose alike.
    dense = ["--no-accelerate", "--no-train-sparse"]
    return [*PRUNE, "--output", folder, "--checkpoint-minutes", "0", *dense]


def test_ten_kills_at_random_moments_lose_nothing(workplace: Path, start_command: Start) -> None:
    finish(start_command(command("whole")))
    whole = outcome(workplace / "whole")
    assert whole["rounds"] == 7
    assert any(layer["density"] < 0.5 for layer in whole["layers"])
    last = newest_checkpoint(workplace / "whole")
    assert last > 4 * KILLS

    # Steps take a few milliseconds: the last quarter is what may pass before a kill arrives.
    moments = random.Random(0)
    for number in sorted(moments.sample(range(1, last - last // 4), KILLS)):
        resume = ["--resume"] if newest_checkpoint(workplace / "killed") else []
        process = start_command(command("killed") + resume)
        wait_for_checkpoint(workplace / "killed", number, process)
        time.sleep(moments.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL

    for _ in range(2):  # the second time it goes on from where the first has ended
        finish(start_command([*command("killed"), "--resume"]))
        killed = outcome(workplace / "killed")
        assert killed["masks"] == whole["masks"]
        assert killed == whole
        assert same_weights(workplace / "killed", workplace / "whole")


def test_ctrl_c_ends_after_the_step_with_a_checkpoint_and_a_hint(
    workplace: Path, start_command: Start
) -> None:
    finish(start_command(command("whole")))
    for number in (4, 30):  # within sensitivity and early pruning; in the middle of a round
        resume = ["--resume"] if number > 4 else []
        process = start_command(command("stopped") + resume)
        wait_for_checkpoint(workplace / "stopped", number, process)
        os.kill(process.pid, signal.SIGINT)
        process.join()
        assert process.exitcode == 130
        assert newest_checkpoint(workplace / "stopped") < newest_checkpoint(workplace / "whole")
        log = (workplace / "log.txt").read_text()
        assert "stopping after this step; once more to stop at once" in log
        assert "stopped; the state is kept in stopped\ngo on with: l1sparse " in log
        assert "--resume" in log.splitlines()[-1]
    finish(start_command([*command("stopped"), "--resume"]))
    assert outcome(workplace / "stopped") == outcome(workplace / "whole")
    assert same_weights(workplace / "stopped", workplace / "whole")


def test_dense_training_goes_on_bit_for_bit(workplace: Path, start_command: Start) -> None:
    train = ["train", "--model", "tiny:small_net", "--data", "idx", "--rounds", "3"]
    train += ["--checkpoint-minutes", "0", "--batch-size", "16"]
    finish(start_command([*train, "--output", "whole"]))
    for number in (7, 30):
        resume = ["--resume"] if number > 7 else []
        process = start_command([*train, "--output", "killed", *resume])
        wait_for_checkpoint(workplace / "killed", number, process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(start_command([*train, "--output", "killed", "--resume"]))
    assert same_weights(workplace / "killed", workplace / "whole")
    histories = [(workplace / name / "training.json").read_text() for name in ("whole", "killed")]
    assert histories[0] == histories[1]
