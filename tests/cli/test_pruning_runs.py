# SPDX-License-Identifier: MIT
"""The commands and the plan of docs/pruning-runs.md, on smaller data."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import small_net

import l1sparse
from l1sparse.cli import main
from l1sparse.pruning.plan_file import read_plan

DOCUMENT = (Path(__file__).parents[2] / "docs" / "pruning-runs.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in DOCUMENT.splitlines() if line.startswith("l1sparse ")]
PLAN = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0]

SMALLER = {
    "small:net": "tiny:small_net",
    "small:tenth": "idx",
    "/usr/share/datasets/fashion-mnist": "idx",
    "128": "16",
    "28": "12",
}
SMALLER_PLAN = {
    "features.3": "'3'",
    "batch_size: 128": "batch_size: 16",
    "total_rounds: 8": "total_rounds: 3",
    "allowed_drop: 0.01": "allowed_drop: 0.5",
}


@pytest.mark.usefixtures("workplace")
def test_the_commands_of_the_document_run() -> None:
    text = PLAN
    for large, small in SMALLER_PLAN.items():
        assert large in text
        text = text.replace(large, small)
    Path("plan.yaml").write_text(text)
    names = [command[0] for command in COMMANDS]
    assert names == ["train", "sensitivity", "prune", "sensitivity", "plan"]
    for command in COMMANDS:
        AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
        assert main([SMALLER.get(argument, argument) for argument in command]) == 0
    record = json.loads(Path("runs/pruned/result.json").read_text())
    assert record["pruned_share"] > 0.5
    fast = l1sparse.load("runs/pruned/fast.safetensors", small_net())
    assert fast(torch.randn(1, 1, 12, 12)).shape == (1, 4)
    assert read_plan("fast.yaml").training == read_plan("plan.yaml").training


def test_the_picture_of_the_report_is_there_and_small() -> None:
    (name,) = re.findall(r"!\[[^]]+\]\((.+)\)", DOCUMENT)
    content = (Path(__file__).parents[2] / "docs" / name).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) <= 250_000
