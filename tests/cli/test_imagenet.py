# SPDX-License-Identifier: MIT
"""The commands and the plan of docs/imagenet.md, on a tree of small images."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import color_net

import l1sparse
from l1sparse.cli import main
from l1sparse.pruning.plan_file import parse_plan

DOCUMENT = (Path(__file__).parents[2] / "docs" / "imagenet.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in DOCUMENT.splitlines() if line.startswith("l1sparse ")]
PLAN = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0]

SMALLER = {
    "resnet50": "tiny:color_net",
    "resnet50.pt": "dense/model.safetensors",
    "/data/imagenet": "tree",
    "--batch-size": "--image-size",
    "256": "16",
    "224": "16",
    "16": "0",  # workers
    "1x16": "1x4",
}
SMALLER_PLAN = {
    "1x16": "1x4",
    "layer1.*": "'6'",
    "keep_count: 2": "keep_count: 0",
    "batch_size: 256": "batch_size: 8",
    "steps_per_round: 1251": "steps_per_round: 2",
    "total_rounds: 120": "total_rounds: 6",
    "workers: 16": "workers: 0",
    "target_sparsity: 0.75": "target_sparsity: 0.5",
    "allowed_drop: 0.01": "allowed_drop: 0.3",
}


def smaller(command: list[str]) -> list[str]:
    found = [SMALLER.get(argument, argument) for argument in command]
    return [*found, "--image-size", "16"] if command[0] == "prune" else found


def test_the_plan_is_a_plan() -> None:
    plan = parse_plan(PLAN)
    assert plan.run.total_rounds * plan.training.steps_per_round == pytest.approx(30 * 5004, 1e-3)


@pytest.mark.usefixtures("workplace")
def test_the_recipe_runs_on_a_tree_of_images() -> None:
    text = PLAN
    for large, small in SMALLER_PLAN.items():
        assert large in text
        text = text.replace(large, small)
    Path("plan.yaml").write_text(text)
    dense = ["train", "--model", "tiny:color_net", "--data", "tree", "--image-size", "16"]
    dense += ["--rounds", "8", "--batch-size", "8", "--learning-rate", "0.05"]
    assert main([*dense, "--output", "dense"]) == 0

    assert [command[0] for command in COMMANDS] == ["sensitivity", "prune", "sensitivity", "plan"]
    for command in COMMANDS:
        AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
        assert main(smaller(command)) == 0
    record = json.loads(Path("runs/resnet50/result.json").read_text())
    assert record["accuracy"] >= record["target_accuracy"]
    assert record["pruned_share"] == pytest.approx(0.5, abs=0.02)
    assert record["rounds"] == 6
    assert record["trainer"]["mixed_precision"] == "bf16"
    fast = l1sparse.load("runs/resnet50/fast.safetensors", color_net())
    assert fast(torch.randn(1, 3, 16, 16)).shape == (1, 3)
    assert parse_plan(Path("fast.yaml").read_text()).training == parse_plan(text).training
