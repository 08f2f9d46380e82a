# SPDX-License-Identifier: MIT
from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import l1sparse.report
from l1sparse.cli import main
from l1sparse.report import pack_mask, weight_histogram, write_report

HOSTILE = "<img src=x onerror=alert(1)></script>"


@pytest.fixture
def record() -> dict[str, Any]:
    """Everything that a report can show, of two layers."""
    layer = {"group": "1x2", "weights": 8, "density": 0.5, "threshold": 0.2}
    activation = {"minimum": 0.0, "maximum": 3.5, "mean": 0.7, "zero_share": 0.4, "count": 10}
    step = {"pass_number": 1, "threshold": 0.3, "pruned_weights": 4, "density": 0.5}
    step |= {"accuracy_pruned": 0.7, "accuracy": 0.89, "rounds": 1}
    return {
        "title": "A run",
        "target_accuracy": 0.88,
        "base_accuracy": 0.9,
        "accuracy": 0.89,
        "pruned_share": 0.5,
        "ended": "converged",
        "passes": 1,
        "rounds": 2,
        "layers": [
            {**layer, "name": "stem", "sensitivity": None, "closed": "cannot be pruned: shared"},
            {**layer, "name": HOSTILE, "sensitivity": 0.1, "closed": "settled"},
        ],
        "steps": [
            {**step, "layer": HOSTILE, "accepted": True},
            {**step, "layer": HOSTILE, "accepted": False},
        ],
        "history": [
            {"round": r, "accuracy": 0.9 - r / 100, "pruned_share": r / 4} for r in range(3)
        ],
        "sensitivity": [
            {
                "name": HOSTILE,
                "group": "1x2",
                "base_accuracy": 0.9,
                "sensitivity": 0.1,
                "reason": None,
                "curve": [{"sparsity": 0.5, "pruned": 0.5, "accuracy": 0.8}],
            },
            {
                "name": "stem",
                "group": "1x2",
                "base_accuracy": 0.9,
                "sensitivity": None,
                "reason": "its weight is shared",
                "curve": [],
            },
        ],
        "activations": {"stem": {"input": activation, "output": activation}},
        "times": [
            {"name": "stem", "group": "1x2", "density": 1.0, "dense_ms": None, "sparse_ms": None}
            | {"choice": "dense"},
            {"name": HOSTILE, "group": "1x2", "density": 0.5, "dense_ms": 2.0, "sparse_ms": 1.0}
            | {"choice": "sparse"},
        ],
        "threads": 2,
        "milliseconds": {"eager": 4.0, "compiled": 3.0, "l1sparse": 1.5},
        "sizes": {"dense": 4096, "sparse": 1024},
        "masks": {HOSTILE: pack_mask([[[[True]], [[False]]]])},
        "histograms": {HOSTILE: weight_histogram([1.0, -0.5], [1.0, 0.0])},
        "plan": {"strategy": "method", "note": HOSTILE},
        "versions": {"torch": "2.13.0"},
    }


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_report_has_all_parts_and_needs_nothing_else(
    record: dict[str, Any], tmp_path: Path
) -> None:
    page = write_report(record, tmp_path / "report.html").read_text()
    for title in (
        "Accuracy over the run",
        "Sensitivity",
        "Layers",
        "Time before and after",
        "Masks",
        "Weights",
        "Activations of the dense network",
        "Plan and versions",
    ):
        assert f"<h2>{title}</h2>" in page
    assert "Not recorded" not in page
    assert "its weight is shared" in page
    assert "2.00x faster" in page, "against the fastest dense run"
    assert "4.00x smaller" in page
    assert "in turns on 2 threads of the machine of this run" in page
    page = write_report({**record, "threads": 1}, tmp_path / "report.html").read_text()
    assert "in turns on 1 thread of the machine of this run" in page
    # Nothing is fetched: what looks like an address is a name of a namespace.
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert not re.search(r"url\((?!#)|@import|<link", page)
    assert page.count("<svg") == 5
    # Every colour of a plot is one of the page's.
    assert not re.search(r"#a000[0-9a-f]{2}", page)
    assert "var(--c0)" in page.split("</style>", 1)[1]


def test_an_accuracy_that_is_the_same_has_no_minus(record: dict[str, Any], tmp_path: Path) -> None:
    record["accuracy"] = record["base_accuracy"]
    page = write_report(record, tmp_path / "report.html").read_text()
    assert "dense 90.00%, +0.00 points" in page


def test_the_same_data_is_in_the_page_and_beside_it(record: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(record, tmp_path / "report.html").read_text()
    assert embedded(page) == record
    assert json.loads((tmp_path / "report.json").read_text()) == record


def test_names_of_layers_are_shown_and_never_run(record: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(record, tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert page.count("</script>") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_what_json_cannot_hold_becomes_null(record: dict[str, Any], tmp_path: Path) -> None:
    record["layers"][0]["threshold"] = math.nan
    record["trainer"] = {"limit": math.inf}
    page = write_report(record, tmp_path / "report.html").read_text()
    assert embedded(page)["layers"][0]["threshold"] is None
    assert embedded(page)["trainer"] == {"limit": None}


@pytest.mark.parametrize(
    ("recalibrated", "text"),
    [
        (True, "batch norm were re-estimated before each"),
        (False, "were not re-estimated before each"),
    ],
)
def test_whether_batch_norm_was_re_estimated_is_said(
    record: dict[str, Any], tmp_path: Path, recalibrated: bool, text: str
) -> None:
    for layer in record["sensitivity"]:
        layer["recalibrated"] = recalibrated
    assert text in write_report(record, tmp_path / "report.html").read_text()


def test_what_was_not_recorded_is_named(record: dict[str, Any], tmp_path: Path) -> None:
    for key in ("times", "masks", "activations"):
        del record[key]
    page = write_report(record, tmp_path / "report.html").read_text()
    assert "Not recorded in this run: times, masks, activations." in page
    assert "<h2>Masks</h2>" not in page


def test_without_a_history_the_steps_are_drawn(record: dict[str, Any], tmp_path: Path) -> None:
    del record["history"]
    page = write_report(record, tmp_path / "report.html").read_text()
    assert "<h2>Accuracy over the run</h2>" in page
    record["steps"] = []
    page = write_report(record, tmp_path / "report.html").read_text()
    assert "Not recorded in this run: accuracy over the run." in page


def test_a_round_whose_accuracy_was_nan_is_left_out(record: dict[str, Any], tmp_path: Path) -> None:
    record["history"][1]["accuracy"] = None
    assert "<h2>Accuracy" in write_report(record, tmp_path / "report.html").read_text()


def test_something_else_than_a_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \['layers', 'steps'\]"):
        write_report({"accuracy": 0.9, "base_accuracy": 0.9}, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_known_to_one_file() -> None:
    folder = Path(l1sparse.report.__file__).parents[1]
    users = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "matplotlib" for name in names):
                users.add(path.relative_to(folder).as_posix())
    assert users == {"report/plots.py"}


def test_the_command_writes_a_report(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = record.pop("sensitivity")
    del record["title"]
    (tmp_path / "result.json").write_text(json.dumps(record))
    (tmp_path / "sensitivity.json").write_text(json.dumps({"layers": curves}))
    assert main(["report", str(tmp_path)]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Sensitivity</h2>" in page
    assert f"Pruning run {tmp_path.name}" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; expected the folder of a finished run"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got a list"),
        ("{}", "not the record of a pruning run"),
    ],
)
def test_the_command_names_what_is_wrong_with_a_folder(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
