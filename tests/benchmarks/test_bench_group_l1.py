# SPDX-License-Identifier: MIT
"""The benchmark of the norm operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import group_l1
import suites
from l1sparse import GroupShape, reference
from suites import Layer

LAYERS = (Layer(16, 8, 6, 3, stride=2), Layer(16, 8, 3, 3, count=3), Layer(8, 12, 6, 1))


@pytest.fixture(autouse=True)
def small_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(suites.SUITES, "resnet50", LAYERS)
    monkeypatch.setattr(group_l1, "TURN_SECONDS", 1e-5)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    try:
        return group_l1.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_totals_are_the_rows_sums_weighted_by_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--rounds", "1", "--json", "record.json", "--group", "1x8,4x4") == 0
    record = json.loads(Path("record.json").read_text())
    assert [row["count"] for row in record["rows"]] == [4, 1, 4, 1]
    for total in record["totals"]:
        rows = [row for row in record["rows"] if row["group"] == total["group"]]
        plain = sum(row["count"] * row["plain_ms"] for row in rows)
        ours = sum(row["count"] * row["ours_ms"] for row in rows)
        assert total["plain_ms"] == pytest.approx(plain)
        assert total["speedup"] == pytest.approx(plain / ours)
    for row in record["rows"]:
        times = row["times"]
        assert row["ours_ms"] == times.pop("ours")["median"]
        assert row["plain_ms"] == min(timing["median"] for timing in times.values())
    assert "8x16x3x3" in capsys.readouterr().out


def test_weights_that_groups_do_not_divide_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--rounds", "1", "--group", "1x16") == 0
    assert "note: 12x8x1x1: not divided by 1x16 groups" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    ["--suite nothing", "--group 0x8", "--group 5x5", "--json no/f", "--device cuda", "--plot x"],
)
def test_wrong_arguments_end_with_one_line(
    arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("group_l1.py: ")
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_wrong_result_stops_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(weight: torch.Tensor, group: Any) -> torch.Tensor:
        return reference.group_l1_norm(weight, group) * 1.001

    monkeypatch.setattr(group_l1.ops, "group_l1_norm", wrong)
    assert run("--json", "record.json") == 1
    assert "weight 8x16x3x3, 1x8: the result of ours is wrong" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("group", [GroupShape(1, 8), GroupShape(4, 4)])
def test_plain_expressions_are_the_norm(group: GroupShape) -> None:
    weight = torch.randn(8, 16, 3, 3)
    for call in group_l1.plain_expressions(weight, group).values():
        torch.testing.assert_close(call(), reference.group_l1_norm(weight, group))
