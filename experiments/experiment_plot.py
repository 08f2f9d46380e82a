# SPDX-License-Identifier: MIT
"""Accuracy over density and over measured time, as one picture; reads the committed JSON only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fashion_cells import Cell
from json_files import read_json

HERE = Path(__file__).parent
_BATCH = "64"
# Points; what loses more would press all others together.
_MOST_LOST = 3.0


def main() -> int:
    """Write ``docs/experiment.png``."""
    results = HERE / "results" / "fashion"
    times = results / "times.json"
    plot(
        HERE.parent / "docs" / "experiment.png",
        read_json(results / "summary.json"),
        read_json(times) if times.exists() else None,
    )
    return 0


def plot(path: Path, entries: Sequence[Mapping[str, Any]], times: Mapping[str, Any] | None) -> None:
    """Draw points lost over the pruned share, and beside it over the measured time.

    Args:
        path: PNG file to write.
        entries: as `fashion_table.summary` gives them; what loses 3 points or more is left out.
        times: as `fashion_times.measure_cells` writes them; None: only the first panel.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    shown = [entry for entry in entries if entry["seeds"] and entry["lost"] < _MOST_LOST]
    figure = Figure(figsize=(10.5 if times else 5.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if times else 1, squeeze=False, sharey=True)[0]
    kinds = list(dict.fromkeys((entry["group"], entry["strategy"]) for entry in shown))
    for index, (group, strategy) in enumerate(kinds):
        line = [e for e in shown if (e["group"], e["strategy"]) == (group, strategy)]
        line.sort(key=lambda entry: entry["pruned_share"])
        style = {
            "label": f"{group} {strategy}",
            "marker": "osD^v<>Px*hp"[index % 12],
            "linestyle": "-" if group == "1x8" else "--",
            "color": colormaps["tab20"](index % 20),
            "capsize": 3,
        }
        lost = [-entry["lost"] for entry in line]
        spread = [entry["lost_deviation"] or 0.0 for entry in line]
        shares = [100 * (1 - entry["pruned_share"]) for entry in line]
        panels[0].errorbar(shares, lost, spread, **style)
        if times:
            _over_time(panels[1], line, times, style)
    panels[0].invert_xaxis()
    panels[0].set_xlabel("density: conv weights kept, %")
    panels[0].set_ylabel("test accuracy against the dense network\ntrained as long, points")
    panels[0].legend(fontsize=7)
    if times:
        dense = _fastest_dense(times)
        panels[1].plot([dense], [0], "k*", markersize=11)
        panels[1].annotate("fastest dense", (dense, 0), (0, -14), textcoords="offset points")
        panels[1].set_xlabel(f"ms for {_BATCH} images, {times['threads']} thread")
    for panel in panels:
        panel.axhline(0, color="grey", linewidth=0.8)
        panel.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=110)


def _over_time(
    panel: Any, line: Sequence[Mapping[str, Any]], times: Mapping[str, Any], style: dict[str, Any]
) -> None:
    measured = times["batches"][_BATCH]
    points = []
    for entry in line:
        cell = Cell(entry["group"], entry["sparsity"], entry["strategy"])
        if cell.name(times["seed"]) in measured:
            points.append((measured[cell.name(times["seed"])], -entry["lost"]))
    if points:
        panel.errorbar([x for x, _ in points], [y for _, y in points], **style)


def _fastest_dense(times: Mapping[str, Any]) -> float:
    # The runs' names end with their seed; the dense ways to run have names of their own.
    ending = f"-{times['seed']}"
    measured: dict[str, float] = times["batches"][_BATCH]
    return min(ms for name, ms in measured.items() if not name.endswith(ending))


if __name__ == "__main__":
    sys.exit(main())
