# SPDX-License-Identifier: MIT
"""The files that the commands write into the folder of a run, and the tables that they print."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l1sparse.files import write_atomically
from l1sparse.pruning import LayerSensitivity, PruneResult, curve_rows, order_layers
from l1sparse.pruning.result import versions
from l1sparse.report.plots import sensitivity_plot
from l1sparse.report.table import table

_COLOURS = ":root { --text: #222; --soft: #777; --line: #ddd; background: white }"


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON; whatever happens, the file has its old content or the new one."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write_sensitivity(
    folder: Path, records: Sequence[LayerSensitivity], settings: Mapping[str, Any]
) -> None:
    """Write ``sensitivity.json``, ``.csv`` and, if anything was measured, ``.svg``."""
    layers = [record.to_dict() for record in records]
    write_json(
        folder / "sensitivity.json",
        {"settings": dict(settings), "versions": versions(), "layers": layers},
    )
    rows = curve_rows(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "sensitivity.csv", text.getvalue().encode())
    curves = {
        f"{record.name} {record.group}": [
            (0.0, record.base_accuracy),
            *((point.pruned, point.accuracy) for point in record.curve),
        ]
        for record in order_layers(records)
        if record.base_accuracy is not None
    }
    if curves:
        # The plot takes its colours from the page that it stands in; alone, it brings them.
        svg = sensitivity_plot(curves).replace(">", f"><style>{_COLOURS}</style>", 1)
        write_atomically(folder / "sensitivity.svg", svg.encode())


def read_sensitivity(path: Path) -> list[LayerSensitivity]:
    """The records of a ``sensitivity.json``.

    Raises:
        ValueError: if the file is not one.
    """
    try:
        return [LayerSensitivity.from_dict(d) for d in json.loads(path.read_text())["layers"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"sensitivity: {path} is not what `l1sparse sensitivity` writes "
            f"({type(error).__name__}: {error})"
        ) from error


def print_sensitivity(records: Sequence[LayerSensitivity]) -> None:
    """A table, the most sensitive layer first; below it the layers that cannot be pruned."""
    ordered = order_layers(records)
    if ordered:
        head = [f"{point.sparsity:.0%} pruned" for point in ordered[0].curve]
        rows = [
            [record.name, str(record.group), *(_drop(record, p.accuracy) for p in record.curve)]
            for record in ordered
        ]
        base = ordered[0].base_accuracy
        print(f"accuracy {base:.4f}; change of it when one layer alone is pruned:\n")
        print(table(["layer", "group", *head], rows))
    reasons = {record.name: record.reason for record in records if record.reason is not None}
    for name, reason in reasons.items():
        print(f"not pruned: {name}: {reason}")


def unprunable(records: Sequence[LayerSensitivity]) -> dict[str, str]:
    """The layers that cannot be pruned in any group shape that was measured, with the reason."""
    able = {record.name for record in records if record.reason is None}
    found = {record.name: record.reason for record in records if record.name not in able}
    return {name: reason for name, reason in found.items() if reason is not None}


def print_result(result: PruneResult, records: Sequence[LayerSensitivity]) -> None:
    """A table of the layers that could be pruned, the others, and what came of the whole."""
    unable = unprunable(records)
    rows = [
        [layer.name, layer.group or "", f"{1 - layer.density:.1%}", layer.closed]
        for layer in result.layers
        if layer.name not in unable
    ]
    print(table(["layer", "group", "pruned", "why no further"], rows))
    for name, reason in unable.items():
        print(f"not pruned: {name}: {reason}")
    print(
        f"\n{result.pruned_share:.1%} of conv weights pruned; accuracy {result.base_accuracy:.4f} "
        f"before, {result.accuracy:.4f} after ({result.rounds} rounds); ended: {result.ended}"
    )


def print_gain(record: Mapping[str, Any]) -> None:
    """Time and size of the network before and after, if they were measured."""
    times = dict(record.get("milliseconds") or {})
    sparse = times.pop("l1sparse", None)
    if sparse is not None and times:
        fastest = min(times, key=lambda name: times[name])
        print(
            f"one image, threads: {record['threads']}; {times[fastest]:.3f} ms dense ({fastest}), "
            f"{sparse:.3f} ms pruned, {times[fastest] / sparse:.2f}x faster"
        )
    sizes = record.get("sizes")
    if sizes:
        print(
            f"file: {sizes['dense'] / 1024:.0f} KiB dense, {sizes['sparse'] / 1024:.0f} KiB pruned,"
            f" {sizes['dense'] / sizes['sparse']:.2f}x smaller"
        )


def _drop(record: LayerSensitivity, accuracy: float) -> str:
    assert record.base_accuracy is not None
    return f"{accuracy - record.base_accuracy:+.2%}"
