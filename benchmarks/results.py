# SPDX-License-Identifier: MIT
"""Rows and totals of the latency benchmark: their figures, as a table and for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from candidates import LAYOUTS
from l1sparse.convert.measure import Timing
from l1sparse.report.table import table
from masks import Setting
from suites import Layer

LAYER_HEADER = [
    "layer",
    "count",
    "density",
    "best dense",
    "ms",
    "10-90 %",
    "ours",
    "ms",
    "10-90 %",
    "speedup",
    "efficiency",
    "actual GFLOP/s",
    "effective",
]
TOTAL_HEADER = [
    "group",
    "pruned",
    "layers",
    "density",
    "dense ms",
    "ours ms",
    "speedup",
    *(f"all {layout}" for layout in LAYOUTS),
    "efficiency",
    "actual GFLOP/s",
    "effective",
]


@dataclass(frozen=True)
class Row:
    """A layer's times."""

    layer: Layer
    name: str
    """Of the layer in the compressed file, or empty."""
    setting: Setting
    batch: int
    density: float
    """Kept weights over all weights."""
    dense: Mapping[str, Timing]
    """By candidate."""
    ours: Mapping[str, Timing]
    """By layout; empty where the strategy asked for does not do this layer."""
    strategy: str
    """What the weight was packed for, or empty."""
    isa: str
    """The instruction set that ran, or empty."""

    @property
    def best_dense(self) -> str:
        """The fastest dense candidate."""
        return min(self.dense, key=lambda name: self.dense[name].median)

    @property
    def best_layout(self) -> str | None:
        """The layout in which ours is fastest."""
        return min(self.ours, key=lambda name: self.ours[name].median, default=None)

    def figures(self) -> dict[str, Any]:
        """The derived figures; None where ours did not run."""
        dense_ms = self.dense[self.best_dense].median
        layout = self.best_layout
        ours_ms = None if layout is None else self.ours[layout].median
        return _figures(dense_ms, ours_ms, self.density, self.batch * self.layer.flops)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        layout = self.best_layout
        return {
            **asdict(self.layer),
            "name": self.name,
            **asdict(self.setting),
            "density": self.density,
            "isa": self.isa,
            "best_dense": self.best_dense,
            "layout": layout,
            "strategy": self.strategy or None,
            **self.figures(),
            "dense": {name: asdict(timing) for name, timing in self.dense.items()},
            "ours": {name: asdict(timing) for name, timing in self.ours.items()},
        }

    def cells(self) -> list[str]:
        """The row of the table."""
        layout, figures = self.best_layout, self.figures()
        dense = self.dense[self.best_dense]
        ours = None if layout is None else self.ours[layout]
        return [
            f"{self.name}: {self.layer}" if self.name else str(self.layer),
            str(self.layer.count),
            f"{self.density:.3f}",
            self.best_dense,
            f"{dense.median:.3f}",
            f"{dense.low:.3f}-{dense.high:.3f}",
            "-" if layout is None else f"{self.strategy}, {layout}",
            _text(figures["ours_ms"], ".3f"),
            "-" if ours is None else f"{ours.low:.3f}-{ours.high:.3f}",
            _text(figures["speedup"], ".2f", "x"),
            _text(figures["efficiency"], ".2f"),
            _text(figures["actual_gflops"], ".0f"),
            _text(figures["effective_gflops"], ".0f"),
        ]


def total(setting: Setting, rows: Sequence[Row]) -> dict[str, Any]:
    """The sums of rows, each as often as the network has the layer.

    Rows where ours did not run are left out, of the dense sum as well. Ours is taken in each
    layer's faster layout, and again held to one layout for all layers.
    """
    ran = [row for row in rows if row.ours]

    def add(values: Sequence[float]) -> float:
        return sum(row.layer.count * value for row, value in zip(ran, values, strict=True))

    flops = add([row.batch * row.layer.flops for row in ran])
    kept = add([row.density * row.batch * row.layer.flops for row in ran])
    dense_ms = add([row.dense[row.best_dense].median for row in ran])
    ours_ms = add([row.ours[row.best_layout].median for row in ran if row.best_layout])
    one_layout = {
        layout: add([row.ours[layout].median for row in ran])
        for layout in LAYOUTS
        if ran and all(layout in row.ours for row in ran)
    }
    return {
        **asdict(setting),
        "layers": sum(row.layer.count for row in ran),
        "left_out": sum(row.layer.count for row in rows if not row.ours),
        "density": kept / flops if ran else None,
        **_figures(dense_ms, ours_ms if ran else None, kept / flops if ran else 0.0, flops),
        "one_layout": {
            layout: {"ours_ms": ms, "speedup": dense_ms / ms} for layout, ms in one_layout.items()
        },
    }


def layer_table(rows: Sequence[Row]) -> str:
    """A line a layer."""
    return table(LAYER_HEADER, [row.cells() for row in rows])


def total_table(totals: Sequence[dict[str, Any]]) -> str:
    """A line a setting."""
    lines = []
    for figures in totals:
        setting = Setting(figures["group"], figures["sparsity"])
        in_one = [figures["one_layout"].get(layout, {}).get("speedup") for layout in LAYOUTS]
        of = f" of {figures['layers'] + figures['left_out']}" if figures["left_out"] else ""
        lines.append(
            [
                setting.group,
                setting.pruned.removesuffix(" pruned"),
                f"{figures['layers']}{of}",
                _text(figures["density"], ".3f"),
                _text(figures["dense_ms"], ".2f"),
                _text(figures["ours_ms"], ".2f"),
                _text(figures["speedup"], ".2f", "x"),
                *(_text(speedup, ".2f", "x") for speedup in in_one),
                _text(figures["efficiency"], ".2f"),
                _text(figures["actual_gflops"], ".0f"),
                _text(figures["effective_gflops"], ".0f"),
            ]
        )
    return table(TOTAL_HEADER, lines)


def _figures(
    dense_ms: float, ours_ms: float | None, density: float, flops: float
) -> dict[str, Any]:
    if ours_ms is None:
        names = ("ours_ms", "speedup", "efficiency", "actual_gflops", "effective_gflops")
        return {"dense_ms": dense_ms, **dict.fromkeys(names)}
    effective = flops / ours_ms / 1e6
    return {
        "dense_ms": dense_ms,
        "ours_ms": ours_ms,
        "speedup": dense_ms / ours_ms,
        "efficiency": dense_ms / ours_ms * density,
        "actual_gflops": effective * density,
        "effective_gflops": effective,
    }


def _text(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
