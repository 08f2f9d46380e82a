# SPDX-License-Identifier: MIT
"""The report's plots: the one file that knows matplotlib. Each gives inline SVG or PNG bytes.

Colours are written as CSS variables of the page, so that a plot follows light and dark.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_TEXT, _SOFT, _LINE = "#a000f0", "#a000f1", "#a000f2"
SERIES = tuple(f"#a0000{i}" for i in range(8))
# What stands in the SVG for a moment, and what the page knows instead.
_VARIABLES = {
    _TEXT: "var(--text)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    **{colour: f"var(--c{i})" for i, colour in enumerate(SERIES)},
}
_WIDTH = 5.4  # inches; about 390 CSS pixels on a phone keep the text readable
_MOST_LINES = len(SERIES)


def accuracy_plot(
    rounds: Sequence[float],
    accuracies: Sequence[float],
    shares: Sequence[float | None],
    target: float | None,
    rejected: Sequence[tuple[float, float]] = (),
) -> str:
    """Accuracy over the rounds of retraining, and below it the pruned share.

    Args:
        rounds: position in rounds, ascending.
        accuracies: fractions of 1, one a position.
        shares: pruned share of the conv weights, fractions of 1; None where it is not known.
        target: the accuracy to keep; None: no line.
        rejected: (round, accuracy) of steps that were rolled back.
    """
    from matplotlib.ticker import MaxNLocator

    known = any(share is not None for share in shares)
    figure, panels = _figure(3.6 if known else 2.6, rows=2 if known else 1, ratios=[2, 1])
    top = panels[0]
    top.plot(rounds, _percent(accuracies), color=SERIES[0], marker="o", markersize=3)
    if rejected:
        top.plot(
            [x for x, _ in rejected],
            _percent([y for _, y in rejected]),
            "x",
            color=SERIES[3],
            label="rolled back",
        )
    if target is not None:
        top.axhline(100 * target, color=SERIES[1], linestyle="--", linewidth=1.2, label="target")
    if rejected or target is not None:
        _legend(top)
    top.set_ylabel("accuracy, %")
    if known:
        values = [float("nan") if share is None else 100 * share for share in shares]
        panels[1].plot(rounds, values, color=SERIES[2], drawstyle="steps-post")
        panels[1].set_ylabel("pruned, %")
        panels[1].set_ylim(0, 100)
    panels[-1].set_xlabel("rounds of retraining")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure, "accuracy")


def sensitivity_plot(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One curve a layer, the most sensitive first and in colour, the rest in grey.

    Args:
        curves: layer to points (pruned share of the layer, accuracy), fractions of 1.
    """
    figure, (panel,) = _figure(3.4)
    for rank, (name, points) in reversed(list(enumerate(curves.items()))):
        coloured = rank < _MOST_LINES
        panel.plot(
            _percent([x for x, _ in points]),
            _percent([y for _, y in points]),
            color=SERIES[rank] if coloured else _LINE,
            marker="o",
            markersize=3,
            label=name if coloured else None,
        )
    panel.set_xlabel("pruned of this layer alone, %")
    panel.set_ylabel("accuracy, %")
    handles, labels = panel.get_legend_handles_labels()
    _legend(panel, handles[::-1], labels[::-1])
    return _svg(figure, "sensitivity")


def bars_plot(
    names: Sequence[str], series: Mapping[str, Sequence[float | None]], label: str, key: str
) -> str:
    """Horizontal bars, a layer a row, several series side by side.

    Args:
        names: of the rows, top first.
        series: name to values, one a row; None: no bar.
        label: of the axis.
        key: sets this plot's identifiers apart from others' on the page.
    """
    thick = 0.8 / len(series)
    figure, (panel,) = _figure(0.9 + len(names) * max(0.19, 0.15 * len(series)))
    for index, (name, values) in enumerate(series.items()):
        shown = [0.0 if value is None else value for value in values]
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * thick
        panel.barh(places, shown, thick, color=SERIES[index], label=name)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlabel(label)
    panel.grid(axis="y", visible=False)
    if len(series) > 1:
        figure.legend(loc="outside upper right", ncols=len(series), frameon=False, fontsize=8.5)
    return _svg(figure, key)


def histogram_plot(record: Mapping[str, Any], threshold: float | None, key: str) -> str:
    """A layer's weights before and after; what is exactly zero is not drawn.

    Args:
        record: as `weight_histogram` gives it.
        threshold: theta, drawn at both signs; None: not drawn.
        key: sets this plot's identifiers apart from others' on the page.
    """
    figure, (panel,) = _figure(1.7, width=2.9)
    edges = record["edges"]
    panel.stairs(record["after"], edges, fill=True, color=SERIES[0], alpha=0.75, label="after")
    panel.stairs(record["before"], edges, color=_SOFT, label="before")
    if threshold is not None and threshold < edges[-1]:
        for side in (-threshold, threshold):
            panel.axvline(side, color=SERIES[1], linestyle="--", linewidth=1)
    panel.tick_params(labelsize=7)
    panel.locator_params(nbins=4)
    return _svg(figure, key)


def mask_png(picture: npt.NDArray[np.bool_], colour: tuple[int, int, int] = (70, 130, 220)) -> str:
    """A PNG in base64, a pixel an entry: kept ones coloured, pruned ones transparent."""
    from matplotlib.image import imsave

    pixels = np.zeros((*picture.shape, 4), np.uint8)
    pixels[picture] = (*colour, 255)
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _figure(
    height: float, rows: int = 1, ratios: Sequence[float] = (1,), width: float = _WIDTH
) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(
        rows, 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": ratios[:rows]}
    )
    panels = [row[0] for row in grid]
    for panel in panels:
        panel.patch.set_alpha(0)
        panel.grid(color=_LINE, linewidth=0.7)
        panel.set_axisbelow(True)
        panel.tick_params(colors=_SOFT, labelcolor=_TEXT, labelsize=8.5)
        for name, spine in panel.spines.items():
            spine.set_color(_SOFT)
            spine.set_visible(name in ("left", "bottom"))
        for axis in (panel.xaxis, panel.yaxis):
            axis.label.set_color(_TEXT)
            axis.label.set_fontsize(9)
    return figure, panels


def _legend(panel: Any, *arguments: Any) -> None:
    panel.legend(*arguments, frameon=False, fontsize=8.5)


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _svg(figure: Any, key: str) -> str:
    import matplotlib

    for text in [t for legend in _legends(figure) for t in legend.get_texts()]:
        text.set_color(_TEXT)
    buffer = io.StringIO()
    # Text stays text (small, selectable), and the identifiers are the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"l1sparse-{key}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Identifiers such as "axes_1" would recur from plot to plot.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([^;\"]*)'[^;\"]*", r"font: \1sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def _legends(figure: Any) -> list[Any]:
    inner = [panel.get_legend() for panel in figure.axes]
    return [legend for legend in (*inner, *figure.legends) if legend is not None]
