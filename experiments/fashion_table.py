# SPDX-License-Identifier: MIT
"""Runs to a table: mean and standard deviation over seeds, and which cells are missing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fashion_cells import Cell
from l1sparse.report.table import table


def summary(records: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One entry a cell, those without runs included.

    ``lost`` are points of test accuracy lost against the dense network of the same seed that was
    trained as long, ``lost_start`` against the one that pruning started from; both mean over
    seeds, with the standard deviation of ``lost`` (None for a single run).
    """
    entries = []
    for cell in cells:
        runs = [record for record in records if record["cell"] == asdict(cell)]
        entry: dict[str, Any] = {**asdict(cell), "seeds": [run["seed"] for run in runs]}
        if runs:
            lost = [_points(run["dense"]["longer"]["test"], run["test"]) for run in runs]
            entry |= {
                "pruned_share": statistics.fmean(run["pruned_share"] for run in runs),
                "test": statistics.fmean(run["test"] for run in runs),
                "dense": statistics.fmean(run["dense"]["longer"]["test"] for run in runs),
                "lost": statistics.fmean(lost),
                "lost_each": lost,
                "lost_deviation": statistics.stdev(lost) if len(lost) > 1 else None,
                "lost_start": statistics.fmean(
                    _points(run["dense"]["start"]["test"], run["test"]) for run in runs
                ),
                "cpu_seconds": statistics.fmean(run["cpu_seconds"] for run in runs),
            }
        entries.append(entry)
    return entries


def text_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The summary as a Markdown table."""
    rows = []
    for entry in entries:
        row = [entry["group"], f"{entry['sparsity']:.0%}", entry["strategy"]]
        if entry["seeds"]:
            deviation = entry["lost_deviation"]
            spread = "" if deviation is None else f" ± {deviation:.2f}"
            row += [
                f"{entry['pruned_share']:.1%}",
                f"{entry['test']:.2%}",
                f"{entry['lost']:.2f}{spread}",
                str(len(entry["seeds"])),
            ]
        else:
            row += ["not run", "", "", "0"]
        rows.append(row)
    header = ["group", "asked", "strategy", "pruned", "test accuracy", "points lost", "seeds"]
    return table(header, rows)


def _points(dense: float, pruned: float) -> float:
    return 100 * (dense - pruned)
