# SPDX-License-Identifier: MIT
"""Speedup over sparsity, and the times of whole networks, as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from output import write_whole
from results import Row, total


def plot_speedup(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw the speedup over the pruned share: a panel a group shape, a line a kind of layer.

    Points of a line are totals over the layers of that kind.

    Args:
        path: PNG file to write.
        rows: of any number of settings.
        title: stands above all.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    groups = list(dict.fromkeys(row.setting.group for row in rows))
    figure = Figure(figsize=(4.5 * len(groups) + 0.5, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for panel, group in zip(panels, groups, strict=True):
        here = [row for row in rows if row.setting.group == group]
        for kind in dict.fromkeys(_kind(row) for row in here):
            points = sorted(_points([row for row in here if _kind(row) == kind]))
            panel.plot([x for x, _ in points], [y for _, y in points], marker="o", label=kind)
        panel.axhline(1.0, color="grey", linewidth=0.8)
        panel.set_title(f"group {group}")
        panel.set_xlabel("pruned weights, %")
        panel.grid(alpha=0.3)
        panel.legend()
    panels[0].set_ylabel("speedup over the best dense")
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def plot_networks(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw a bar for the time of every dense runtime and of the pruned network at each sparsity.

    Args:
        path: PNG file to write.
        rows: as `model.py` measures them; a panel for each network, batch and group shape.
        title: stands above all.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    panels = list(dict.fromkeys(_panel(row) for row in rows))
    figure = Figure(figsize=(7.5, 0.6 + 3.2 * len(panels)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for panel, axis in zip(panels, axes, strict=True):
        here = [row for row in rows if _panel(row) == panel]
        # The dense runtimes took turns with every row's network.
        dense = {
            name: min(row["milliseconds"][name]["median"] for row in here)
            for name in here[0]["milliseconds"]
            if name != "l1sparse"
        }
        ours = {f"l1sparse, {100 * row['sparsity']:g} % pruned": row["ours_ms"] for row in here}
        names = [*sorted(dense, key=lambda name: -dense[name]), *ours]
        milliseconds = [{**dense, **ours}[name] for name in names]
        bars = axis.barh(names, milliseconds, color=["C7"] * len(dense) + ["C0"] * len(ours))
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_title(panel, fontsize=9)
    axes[-1].set_xlabel("milliseconds, median")
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _panel(row: Mapping[str, Any]) -> str:
    images = "one image" if row["batch"] == 1 else f"{row['batch']} images"
    return f"{row['network']}, {images}, groups {row['group']}"


def _kind(row: Row) -> str:
    layer = row.layer
    return layer.kind if layer.stride == 1 else f"{layer.kind}, stride {layer.stride}"


def _points(rows: Sequence[Row]) -> list[tuple[float, float]]:
    points = []
    for setting in dict.fromkeys(row.setting for row in rows):
        figures = total(setting, [row for row in rows if row.setting == setting])
        if figures["speedup"] is not None:
            points.append((100 * (1 - figures["density"]), figures["speedup"]))
    return points
