# SPDX-License-Identifier: MIT
"""The commands as a user runs them: what they write, and what they say when something is wrong."""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import PRUNE, small_net

import l1sparse
from l1sparse.cli import main
from l1sparse.cli.session import stopped
from l1sparse.pruning.plan_file import read_plan
from l1sparse.train import StoppedError

SENSITIVITY = ["sensitivity", *PRUNE[1:7], "--group", "1x4", "--sparsities", "0.5", "0.75"]

COMMANDS = ["train", "sensitivity", "plan", "prune", "report", "demo", "info", "inspect"]

pytestmark = pytest.mark.usefixtures("workplace")


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says last."""
    capsys.readouterr()
    assert main(arguments) == 1
    return capsys.readouterr().err.splitlines()[-1]


def change_plan(old: str, new: str) -> None:
    text = Path("plan.yaml").read_text()
    assert old in text
    Path("plan.yaml").write_text(text.replace(old, new))


def test_prune_writes_a_network_that_loads_fast_and_a_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*PRUNE, "--output", "run"]) == 0
    printed, told = capsys.readouterr()
    record = json.loads(Path("run/result.json").read_text())
    assert record["accuracy"] >= record["target_accuracy"]
    assert record["trainer"]["scheduler"] == "CosineAnnealingLR"
    assert {layer["name"] for layer in record["layers"]} == {"0", "3", "6"}
    assert f"{record['pruned_share']:.1%} of conv weights pruned" in printed
    assert re.search(r"^3 of 3 layers, 00:00 left$", told, re.M)
    assert re.search(r"^1 of at most 7 rounds, \d\d:\d\d left$", told, re.M)

    model = small_net()
    model.load_state_dict(load_file("run/model.safetensors"))
    weights = torch.cat([model[index].weight.flatten() for index in (0, 3, 6)])
    assert float((weights == 0).double().mean()) == pytest.approx(record["pruned_share"])
    fast = l1sparse.load("run/fast.safetensors", small_net())
    images = torch.randn(4, 1, 12, 12)
    torch.testing.assert_close(fast(images), model.eval()(images), atol=1e-4, rtol=1e-4)

    assert "<svg" in Path("run/report.html").read_text()
    assert len(record["sensitivity"]) == 3
    assert {time["name"] for time in record["times"]} >= {"3", "6"}
    assert set(record["milliseconds"]) >= {"eager", "folded", "l1sparse"}
    sizes = [Path("run", f"{name}.safetensors").stat().st_size for name in ("model", "fast")]
    assert list(record["sizes"].values()) == sizes
    assert f"{sizes[0] / sizes[1]:.2f}x smaller" in printed
    assert re.search(r"ms dense \(.*\), \d+\.\d+ ms pruned, \d+\.\d\dx faster", printed)
    page = Path("run/report.html").read_text()
    assert "time of the network" in page
    assert "Not recorded" not in page
    assert read_plan("run/plan.yaml") == read_plan("plan.yaml")


def test_a_finished_run_that_is_resumed_is_the_same_run() -> None:
    assert main([*PRUNE, "--output", "run", "--no-accelerate"]) == 0
    before = Path("run/result.json").read_bytes(), Path("run/model.safetensors").read_bytes()
    assert main([*PRUNE, "--output", "run", "--no-accelerate", "--resume"]) == 0
    assert before == (
        Path("run/result.json").read_bytes(),
        Path("run/model.safetensors").read_bytes(),
    )


def test_sensitivity_lists_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SENSITIVITY, "--group", "1x4", "4x4", "--output", "run"]) == 0
    printed = capsys.readouterr().out
    assert "not pruned: 0: each filter sees one input channel" in printed
    content = json.loads(Path("run/sensitivity.json").read_text())
    assert content["settings"]["recalibrate"] is True
    measured = [(layer["name"], layer["group"]) for layer in content["layers"] if layer["curve"]]
    assert measured == [("3", "1x4"), ("6", "1x4"), ("3", "4x4"), ("6", "4x4")]
    assert all(point["loss"] > 0 for layer in content["layers"] for point in layer["curve"])
    with open("run/sensitivity.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + 2 * 2)
    assert "<svg" in Path("run/sensitivity.svg").read_text()


def test_sensitivity_goes_on_after_the_layers_that_are_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*SENSITIVITY, "--output", "run"]) == 0
    whole = Path("run/sensitivity.json").read_bytes()
    for name in ("json", "csv", "svg"):
        Path(f"run/sensitivity.{name}").unlink()
    newest = max(Path("run").glob("checkpoint-*.l1s"))
    newest.unlink()  # as if the run had been killed while it measured the last layer
    capsys.readouterr()
    assert main([*SENSITIVITY, "--output", "run", "--resume"]) == 0
    told = capsys.readouterr().err
    assert "6 at 50%" in told
    assert "3 at 50%" not in told
    assert Path("run/sensitivity.json").read_bytes() == whole
    assert Path("run/sensitivity.csv").exists()
    assert Path("run/sensitivity.svg").exists()


def test_prune_takes_sensitivity_that_was_measured_before() -> None:
    assert main([*SENSITIVITY, "--output", "measured"]) == 0
    dense = [*PRUNE, "--no-accelerate", "--no-train-sparse", "--output"]  # as repeatable as can be
    assert main([*dense, "given", "--sensitivity", "measured/sensitivity.json"]) == 0
    assert main([*dense, "own"]) == 0
    names = ("given", "own")
    one, other = (json.loads(Path(name, "result.json").read_text()) for name in names)
    assert one["masks"] == other["masks"]


@pytest.mark.parametrize("goal", [["density", "0.5"], ["accuracy", "0.5"], ["latency", "0.5"]])
def test_a_plan_that_is_proposed_can_be_pruned_by(goal: list[str]) -> None:
    assert main([*SENSITIVITY, "--output", "measured"]) == 0
    proposed = ["plan", "--for", *goal, "--model", "tiny:small_net", "--input", "1", "12", "12"]
    proposed += ["--sensitivity", "measured/sensitivity.json", "--output", "proposed.yaml"]
    assert main([*proposed, "--template", "plan.yaml"]) == 0
    plan = read_plan("proposed.yaml")
    # What is fastest depends on the machine: dense layers, maybe.
    pruned = any(not rule.keep and rule.sparsity for rule in plan.layers.values())
    assert pruned or goal[0] == "latency"
    assert plan.training == read_plan("plan.yaml").training
    arguments = [argument if argument != "plan.yaml" else "proposed.yaml" for argument in PRUNE]
    given = ["--sensitivity", "measured/sensitivity.json", "--no-accelerate"]
    assert main([*arguments, *given, "--output", "run"]) == 0
    assert json.loads(Path("run/result.json").read_text())["pruned_share"] >= 0.1 * pruned


def test_the_example_plan_is_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--example"]) == 0
    Path("example.yaml").write_text(capsys.readouterr().out)
    assert read_plan("example.yaml").layer.group == "1x8"


def test_dense_training_keeps_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "--model", "tiny:small_net", "--data", "idx", "--rounds", "2"]
    train += ["--optimizer", "AdamW", "--optimizer-options", "weight_decay=1e-2", "amsgrad=true"]
    train += ["--learning-rate", "0.01", "--scheduler", "none", "--label-smoothing", "0.1"]
    assert main([*train, "--output", "run"]) == 0
    history = json.loads(Path("run/training.json").read_text())
    assert [entry["round"] for entry in history] == [1, 2]
    assert history[1]["train_loss"] < history[0]["train_loss"]
    printed, told = capsys.readouterr()
    assert f"accuracy {history[1]['accuracy']:.4f} after 2 rounds" in printed
    assert re.search(r"^round 2 of 2: .*; 00:00 left$", told, re.M)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_in_its_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"example: l1sparse {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_package_that_is_missing_is_told_with_an_extra_that_there_is(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks_a_package(options: argparse.Namespace) -> int:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    command = importlib.import_module(f"l1sparse.cli.{name}")
    monkeypatch.setattr(command, "_run", lacks_a_package)
    network = ["--model", "m:f", "--data", "d", "--output", "o"]
    given = {"plan": ["--example"], "report": ["folder"], "demo": [], "info": []}
    given["inspect"] = ["file"]
    given["prune"] = [*network, "--plan", "p"]
    message = error_of([name, *given.get(name, network)], capsys)
    extra = re.search(r"pip install 'l1sparse\[(\w+)\]'", message)
    if name in ("info", "inspect"):
        assert extra is None, "it needs nothing more than the package itself"
        return
    assert extra is not None
    project = tomllib.loads(
        Path(l1sparse.__file__).parents[1].joinpath("pyproject.toml").read_text()
    )
    assert extra[1] in project["project"]["optional-dependencies"]


def test_a_run_of_several_processes_is_told_to_go_on_with_as_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["l1sparse", "prune", "--plan", "a plan"])
    assert [stopped(StoppedError("stopped"), rank, ranks=2) for rank in (0, 1)] == [130, 130]
    told = capsys.readouterr().err
    assert told == (
        "stopped\ngo on with 2 processes as before, each: l1sparse prune --plan 'a plan' --resume\n"
    )


def test_the_package_runs_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "l1sparse", "info", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(l1sparse.__file__).parents[1],
    )
    assert json.loads(run.stdout)["version"] == l1sparse.build_info()["version"]


# What is wrong with the input.


def test_an_empty_data_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    arguments = [a if a != "idx" else "empty" for a in PRUNE]
    assert "data: the folder empty is empty" in error_of([*arguments, "--output", "run"], capsys)


TREE = ["train", "--model", "tiny:color_net", "--data", "tree", "--image-size", "16"]
TREE += ["--rounds", "1", "--batch-size", "8"]


def test_a_broken_image_is_named_and_skipped_only_if_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path("tree/train/red/2.jpg")
    path.write_bytes(path.read_bytes()[:300])
    message = error_of([*TREE, "--output", "run"], capsys)
    assert "tree/train/red/2.jpg: cannot be read as an image" in message
    assert "--skip-broken leaves such images out" in message
    assert main([*TREE, "--output", "other", "--skip-broken", "--workers", "1"]) == 0
    assert "left out: tree/train/red/2.jpg" in capsys.readouterr().err


def test_class_counts_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [a if a != "tiny:color_net" else "own:net" for a in TREE]
    Path("own.py").write_text("import tiny\ndef net(): return tiny.small_net(3, 5)\n")
    message = error_of([*arguments, "--output", "run"], capsys)
    assert message == "l1sparse: model: it has 5 outputs, but the data has 3 classes"


@pytest.mark.parametrize("label", [9, -1])
def test_a_label_that_is_no_class_of_the_network(
    label: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels.py").write_text(
        "import torch\n"
        "def data():\n"
        "    labels = torch.zeros(64, dtype=torch.int64)\n"
        f"    labels[5] = {label}\n"
        "    images = torch.utils.data.TensorDataset(torch.randn(64, 1, 12, 12), labels)\n"
        "    return images, images\n"
    )
    train = ["train", "--model", "tiny:small_net", "--data", "labels:data", "--rounds", "1"]
    try:
        message = error_of([*train, "--output", "run"], capsys)
    finally:
        sys.modules.pop("labels", None)
    expected = f"expected labels 0 to 3, one for each of the 4 classes, got {label}"
    assert message == f"l1sparse: data: {expected}"


UNABLE = """\
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, able):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3))] if able else [])
        self.weight = nn.Parameter(0.1 * torch.randn(8, 8, 3, 3))
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.again = self.depthwise
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.conv2d(self.stem(x), self.weight).relu()
        for block in self.blocks:
            x = block(x).relu()
        return self.head(self.again(self.depthwise(x)).mean((2, 3)))


def some():
    torch.manual_seed(0)
    return Net(True)


def none():
    return Net(False)


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
"""
REASONS = {
    "stem": "each filter sees one input channel",
    "weight": "it is a parameter of a Net, used by a functional call",
    "depthwise": "each filter sees one input channel",
    "again": "it is the same module as 'depthwise'",
}


def test_what_cannot_be_pruned_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("unable.py").write_text(UNABLE)
    change_plan("target_sparsity: 0.8", "target_sparsity: 0.2")
    own = [*PRUNE[5:], "--no-accelerate"]
    try:
        assert main(["prune", "--model", "unable:some", *own, "--output", "run"]) == 0
        printed = capsys.readouterr().out
        alone = error_of(["prune", "--model", "unable:none", *own, "--output", "none"], capsys)
        flat = error_of(["prune", "--model", "unable:flat", *own, "--output", "flat"], capsys)
    finally:
        sys.modules.pop("unable", None)
    for name, reason in REASONS.items():
        assert f"not pruned: {name}: {reason}" in printed
        assert f"{name}: {reason}" in alone
    assert "| blocks.0.0 |" in printed
    assert alone.startswith("l1sparse: model: no layer of it can be pruned: ")
    assert flat == "l1sparse: model: this Sequential has no convolution to prune"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer-options", "betas=[0.9"], "got betas=[0.9, the value is no YAML"),
        (["--checkpoint-minutes", "-1"], "got -1, expected a number of at least 0"),
        (["--checkpoint-minutes", "nan"], "got nan, expected a number of at least 0"),
    ],
)
def test_an_argument_that_cannot_be_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--model", "m:f", "--data", "idx", "--output", "run", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_target_above_what_the_baseline_reaches(capsys: pytest.CaptureFixture[str]) -> None:
    change_plan("allowed_drop: 0.0,", "target_accuracy: 1.0,")
    weights = load_file("dense.safetensors")
    weights["11.weight"] = torch.zeros(4, 64)  # it now always says the same
    torch.save(weights, "dense.pt")
    arguments = [a if a != "dense.safetensors" else "dense.pt" for a in PRUNE]
    message = error_of([*arguments, "--output", "run"], capsys)
    assert "below the target of 1.0; train it further or lower the target" in message


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    change_plan("learning_rate: 0.02", "learning_rate: 1.0e+30")
    message = error_of([*PRUNE, "--output", "run", "--no-accelerate"], capsys)
    assert "stopped: the loss is" in message
    record = json.loads(Path("run/result.json").read_text())
    assert record["diverged"] is True
    assert record["accuracy"] >= record["target_accuracy"]
    weights = load_file("run/model.safetensors").values()
    assert all(bool(tensor.isfinite().all()) for tensor in weights)


def test_dense_training_that_diverges(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "--model", "tiny:small_net_of_groups", "--data", "idx"]
    message = error_of([*train, "--output", "run", "--learning-rate", "1e30"], capsys)
    assert message.startswith("l1sparse: the loss is ")


def test_resume_with_a_changed_plan_names_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--output", "run", "--no-accelerate"]) == 0
    change_plan(" rounds: 2", " rounds: 3")
    message = error_of([*PRUNE, "--output", "run", "--resume"], capsys)
    assert message.startswith("l1sparse: plan: run.rounds is 3 here and 2 in the saved run")


def test_resume_with_another_model_or_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--output", "run", "--no-accelerate"]) == 0
    weights = load_file("dense.safetensors")
    weights["11.bias"] += 1
    torch.save(weights, "dense.pt")
    arguments = [a if a != "dense.safetensors" else "dense.pt" for a in PRUNE]
    message = error_of([*arguments, "--output", "run", "--resume"], capsys)
    assert message.startswith("l1sparse: resume: model is not what the run was begun with: 'tiny:s")


def test_resume_where_nothing_is(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of([*PRUNE, "--output", "run", "--resume"], capsys)
    assert message == "l1sparse: resume: there is no checkpoint in run"


def test_a_second_run_in_the_same_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--output", "run", "--no-accelerate"]) == 0
    message = error_of([*PRUNE, "--output", "run"], capsys)
    assert "output: run has a run in it already" in message
    assert "--resume" in message


def test_a_checkpoint_cut_short_costs_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--output", "run", "--no-accelerate"]) == 0
    before = Path("run/model.safetensors").read_bytes()
    newest = max(Path("run").glob("checkpoint-*.l1s"))
    newest.write_bytes(newest.read_bytes()[:-100])
    capsys.readouterr()
    assert main([*PRUNE, "--output", "run", "--no-accelerate", "--resume"]) == 0
    assert f"{newest} is cut short or damaged, and left out" in capsys.readouterr().err
    assert Path("run/model.safetensors").read_bytes() == before


def test_a_full_disk_keeps_the_last_good_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    # Dense: which layers train faster on kept groups is measured, so two runs may differ in it.
    dense = [*PRUNE, "--no-accelerate", "--no-train-sparse", "--output"]
    assert main([*dense, "whole"]) == 0
    sizes = sorted(path.stat().st_size for path in Path("whole").glob("checkpoint-*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Checkpoints of sensitivity are small, those of pruning hold the network.
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0] // 2, limits[1]))
    try:
        message = error_of([*dense, "run"], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith("l1sparse: checkpoint: cannot write run/checkpoint-")
    assert "the last good one, run/checkpoint-" in message
    assert main([*dense, "run", "--resume"]) == 0
    results = [Path(name, "result.json").read_bytes() for name in ("whole", "run")]
    assert results[0] == results[1]


def test_a_plan_with_an_unknown_layer(capsys: pytest.CaptureFixture[str]) -> None:
    change_plan("sensitivity:", "layers: {layer9: {keep: true}}\nsensitivity:")
    message = error_of([*PRUNE, "--output", "run"], capsys)
    assert "layers.layer9: matches no conv layer of the model" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "0.5"], "for: expected one of density, accuracy, latency; got 'speed'"),
        (["density", "5"], "for: density: got 5, expected a fraction from 0 to 1"),
        (["density", "0.5"], "for: needs --model and --sensitivity"),
    ],
)
def test_a_goal_that_cannot_be_planned_for(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(["plan", "--for", *arguments], capsys) == f"l1sparse: {message}"


def test_a_file_that_is_no_sensitivity(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.json").write_text("{}")
    message = error_of([*PRUNE, "--output", "run", "--sensitivity", "other.json"], capsys)
    assert "sensitivity: other.json is not what `l1sparse sensitivity` writes" in message
