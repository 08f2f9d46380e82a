# SPDX-License-Identifier: MIT
"""Two processes that work together (DDP over gloo) prune what one prunes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import PRUNE

import l1sparse
from l1sparse.cli import main

# A normalisation that is the same however a batch is shared; images move at random.
COMMAND = [a if a != "tiny:small_net" else "tiny:small_net_of_groups" for a in PRUNE]
PLAN = """\
layer: {group: 1x4, alpha: 3.0}
sensitivity: {sparsities: [0.5, 0.75], at: 0.5}
run: {target_accuracy: 0.7, rounds: 2, total_rounds: 6, target_sparsity: 0.75}
training:
  learning_rate: 0.01
  batch_size: 32
  optimizer_options: {momentum: 0.9}
  accumulate: 2
"""


def in_two_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(l1sparse.__file__).parents[1]), str(Path(__file__).parents[1])]
    return subprocess.run(
        [*start, "-m", "l1sparse", *arguments, "--cpu"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )


@pytest.mark.usefixtures("workplace")
def test_two_processes_prune_the_same_groups_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(PLAN)
    train = ["train", "--model", "tiny:small_net_of_groups", "--data", "idx", "--rounds", "6"]
    train += ["--batch-size", "16", "--learning-rate", "0.05"]
    assert main([*train, "--output", "dense"]) == 0
    command = [a if a != "dense.safetensors" else "dense/model.safetensors" for a in COMMAND]
    command += ["--no-accelerate", "--no-train-sparse"]  # two processes train dense
    assert main([*command, "--output", "one"]) == 0

    run = in_two_processes(*command, "--output", "two")
    assert run.returncode == 0, run.stderr
    one, two = (json.loads(Path(name, "result.json").read_text()) for name in ("one", "two"))
    assert two["ranks"] == 2
    assert two["rounds"] == one["rounds"] == 6
    assert two["masks"] == one["masks"]
    assert two["pruned_share"] == one["pruned_share"] > 0.7
    for mine, theirs in zip(one["history"], two["history"], strict=True):
        assert theirs["accuracy"] == pytest.approx(mine["accuracy"], abs=2 / 64)
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)
    # Each line once, not once a process.
    assert run.stderr.count("base accuracy") == 1
    assert run.stdout.count("of conv weights pruned") == 1

    capsys.readouterr()
    assert main([*command, "--output", "two", "--resume"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        "l1sparse: resume: ranks is not what the run was begun with: 2 then, 1 now; give the same, "
        "or begin anew in another folder"
    )
