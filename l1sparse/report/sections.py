# SPDX-License-Identifier: MIT
"""The parts of the report: each turns a record into a card, or into None if it has no such data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from l1sparse.report import html, plots
from l1sparse.report.patterns import mask_picture, unpack_mask

Record = Mapping[str, Any]
_MOST_PICTURES = 60  # layers; a page with hundreds of pictures helps nobody


def headline(record: Record, title: str) -> str:
    """Title, how the run ended, and the figures that matter."""
    gain = record["accuracy"] - record["base_accuracy"]
    entries = [
        (
            "accuracy",
            f"{record['accuracy']:.2%}",
            f"dense {record['base_accuracy']:.2%}, {100 * gain:+.2f} points",
        )
    ]
    if record.get("pruned_share") is not None:
        share = record["pruned_share"]
        entries.append(("conv weights pruned", f"{share:.1%}", f"{1 - share:.1%} kept"))
    times = record.get("milliseconds") or {}
    dense = [value for name, value in times.items() if name != "l1sparse"]
    if dense and "l1sparse" in times:
        entries.append(
            (
                "time of the network",
                f"{min(dense) / times['l1sparse']:.2f}x faster",
                f"{min(dense):.3f} → {times['l1sparse']:.3f} ms, against the fastest dense run",
            )
        )
    sizes = record.get("sizes") or {}
    if sizes.get("dense") and sizes.get("sparse"):
        entries.append(
            (
                "file",
                f"{sizes['dense'] / sizes['sparse']:.2f}x smaller",
                f"{_bytes(sizes['dense'])} → {_bytes(sizes['sparse'])}",
            )
        )
    strategy = (record.get("plan") or {}).get("strategy")
    facts = [f"strategy: {strategy}"] if strategy else []
    if record.get("ended"):
        facts.append(f"ended: {record['ended']}")
    if record.get("rounds") is not None:
        facts.append(f"{record['rounds']} rounds of retraining in {record.get('passes')} passes")
    return (
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="soft">{escape("; ".join(facts))}</p>\n{html.tiles(entries)}'
    )


def accuracy(record: Record) -> str | None:
    """Accuracy over the run, from the history of rounds or else from the steps."""
    steps, history = record["steps"], record.get("history")
    used, after = 0, []
    for step in steps:
        used += step["rounds"]
        after.append((used, step["accuracy"]))
    rejected = [
        point for point, step in zip(after, steps, strict=True) if not step.get("accepted", True)
    ]
    if history:
        points = [(e["round"], e["accuracy"], e.get("pruned_share")) for e in history]
        points = [point for point in points if point[1] is not None]
    else:
        points = [(x, y, None) for x, y in [(0, record["base_accuracy"]), *after]]
    if len(points) < 2:
        return None
    rounds, accuracies, shares = zip(*points, strict=True)
    drawing = plots.accuracy_plot(
        rounds, accuracies, shares, record.get("target_accuracy"), rejected
    )
    rows = [
        [
            str(step.get("pass_number", "")),
            str(step.get("layer") or "all"),
            _share(step.get("density")),
            _share(step.get("accuracy_pruned")),
            _share(step["accuracy"]),
            str(step["rounds"]),
            "kept" if step.get("accepted", True) else "rolled back",
        ]
        for step in steps
    ]
    parts = [html.figure(drawing)]
    if rows:
        names = ["pass", "layer", "density", "pruned", "retrained", "rounds", "outcome"]
        parts.append(html.table(names, rows))
    return html.section(
        "Accuracy over the run",
        "On the held-out data, after each round of retraining. The table: every step, its accuracy "
        "right after pruning and after retraining.",
        parts,
    )


def sensitivity(record: Record) -> str | None:
    """Curves of the layers, and those that could not be pruned with the reason."""
    layers = record.get("sensitivity")
    if not layers:
        return None
    measured = [layer for layer in layers if layer["sensitivity"] is not None]
    measured.sort(key=lambda layer: -layer["sensitivity"])
    if not measured:
        return None
    curves = {
        layer["name"]: [(0.0, layer["base_accuracy"])]
        + [(point["pruned"], point["accuracy"]) for point in layer["curve"]]
        for layer in measured
    }
    asked = [point["sparsity"] for point in measured[0]["curve"]]
    rows = [
        [layer["name"], layer["group"], f"{100 * layer['sensitivity']:.2f}"]
        + [f"{100 * (layer['base_accuracy'] - p['accuracy']):.2f}" for p in layer["curve"]]
        for layer in measured
    ]
    reasons = [
        [layer["name"], str(layer["reason"])] for layer in layers if layer["sensitivity"] is None
    ]
    header = ["layer", "group", "sensitivity", *(f"at {s:.0%}" for s in asked)]
    return html.section(
        "Sensitivity",
        "Accuracy when one layer alone is pruned, without retraining. "
        f"{_recalibration(measured)}The table: points of accuracy lost, the most sensitive layer "
        "first.",
        [html.figure(plots.sensitivity_plot(curves)), html.table(header, rows)],
        html.table(["layer", "cannot be pruned, because"], reasons, words=[1]) if reasons else "",
    )


def layers(record: Record) -> str | None:
    """Density and threshold of each layer."""
    entries = record["layers"]
    if not entries:
        return None
    thetas: dict[str, list[float]] = {}
    for step in record["steps"]:
        if step.get("threshold") is not None and step.get("layer"):
            thetas.setdefault(step["layer"], []).append(step["threshold"])
    rows = []
    for entry in entries:
        first = thetas.get(entry["name"], [None])[0]
        last = entry["threshold"]
        row = [
            entry["name"],
            entry["group"] or "",
            f"{entry['weights']:,}",
            _share(entry["density"]),
            _number(first),
            _number(last),
        ]
        rows.append(row)
    drawing = plots.bars_plot(
        [entry["name"] for entry in entries],
        {"density": [100 * entry["density"] for entry in entries]},
        "weights kept, %",
        "density",
    )
    header = ["layer", "group", "weights", "density", "first θ", "last θ"]
    reasons = [[entry["name"], entry["closed"]] for entry in entries]
    return html.section(
        "Layers",
        "Share of the weights that is left, and the threshold θ of the first and of the last turn.",
        [html.figure(drawing), html.table(header, rows)],
        html.table(["layer", "why it was pruned no further"], reasons, words=[1]),
    )


def times(record: Record) -> str | None:
    """Time of each layer and of the whole network, before and after."""
    choices = record.get("times")
    if not choices:
        return None
    measured = [entry for entry in choices if entry["dense_ms"] is not None]
    rows = [
        [
            entry["name"],
            entry.get("group") or "",
            _share(entry.get("density")),
            _number(entry["dense_ms"]),
            _number(entry["sparse_ms"]),
            entry["choice"],
        ]
        for entry in choices
    ]
    whole = record.get("milliseconds") or {}
    count = record.get("threads")
    threads = f"{count} thread{'s' if count > 1 else ''} of " if count else ""
    parts = [html.table(["layer", "group", "density", "dense ms", "sparse ms", "runs as"], rows)]
    if measured:
        drawing = plots.bars_plot(
            [entry["name"] for entry in measured],
            {
                "dense": [entry["dense_ms"] for entry in measured],
                "pruned": [entry["sparse_ms"] for entry in measured],
            },
            "milliseconds a call",
            "times",
        )
        parts.insert(0, html.figure(drawing))
    return html.section(
        "Time before and after",
        f"Median of one call, dense and group-sparse, measured in turns on {threads}the machine of "
        "this run; each layer runs as the faster of the two.",
        parts,
        html.table(["whole network", "ms"], [[name, _number(ms)] for name, ms in whole.items()])
        if whole
        else "",
    )


def masks(record: Record) -> str | None:
    """Pictures of the masks."""
    packed = record.get("masks")
    if not packed:
        return None
    shown = []
    for name, entry in list(packed.items())[:_MOST_PICTURES]:
        mask = unpack_mask(entry)
        picture = html.picture(plots.mask_png(mask_picture(mask)), f"mask of {name}")
        filters, channels, height, width = mask.shape
        caption = f"{name}: {filters} x {channels} groups, {height}x{width} taps"
        shown.append(html.figure(picture, f"{caption}, {mask.mean():.1%} kept"))
    return html.section(
        "Masks",
        "A row a filter (or a row of filters that share their groups), tap beside tap, in each tap "
        "the channel groups; blue is kept." + _first(len(packed)),
        [],
        f'<div class="wall">{"".join(shown)}</div>',
    )


def histograms(record: Record) -> str | None:
    """Weights before and after."""
    found = record.get("histograms")
    if not found:
        return None
    thetas = {entry["name"]: entry["threshold"] for entry in record["layers"]}
    shown = []
    for index, (name, entry) in enumerate(list(found.items())[:_MOST_PICTURES]):
        drawing = plots.histogram_plot(entry, thetas.get(name), f"histogram-{index}")
        zeros = entry["zeros"][1]
        shown.append(html.figure(drawing, f"{name}: {zeros:,} weights are 0"))
    return html.section(
        "Weights",
        "Filled: after; line: before; dashed: ±θ. Weights that are exactly 0 are counted below, "
        "not drawn. θ is compared with the mean of a group, so single weights lie on both sides."
        + _first(len(found)),
        [],
        f'<div class="wall">{"".join(shown)}</div>',
    )


def activations(record: Record) -> str | None:
    """What each layer reads and gives while the dense network runs (claim 4)."""
    found = record.get("activations")
    if not found:
        return None
    rows = []
    for name, entry in found.items():
        row = [name]
        for side in ("input", "output"):
            part = entry[side]
            row += [_number(part["minimum"]), _number(part["maximum"]), _number(part["mean"])]
            row.append(_share(part["zero_share"]))
        rows.append(row)
    header = ["layer", *(f"{s} {w}" for s in ("in", "out") for w in ("min", "max", "mean", "zero"))]
    return html.section(
        "Activations of the dense network",
        "Range, mean and share of zeros of what each layer reads and gives.",
        [],
        html.table(header, rows),
    )


def settings(record: Record) -> str | None:
    """Plan, training and versions, as they were."""
    plan = {key: value for key, value in (record.get("plan") or {}).items() if key != "split"}
    parts = [  # the split is told by the layers' card
        html.folded(title, json.dumps(content, indent=2, ensure_ascii=False))
        for title, content in (("Plan", plan), ("Training", record.get("trainer")))
        if content
    ]
    versions = record.get("versions")
    if versions:
        rows = [[str(name), str(version)] for name, version in versions.items()]
        parts.append(html.table(["", "version"], rows))
    if not parts:
        return None
    return html.section("Plan and versions", "What this run was told, and with what.", parts)


SECTIONS: dict[str, Callable[[Record], str | None]] = {
    "accuracy over the run": accuracy,
    "sensitivity": sensitivity,
    "layers": layers,
    "times": times,
    "masks": masks,
    "weight histograms": histograms,
    "activations": activations,
    "plan and versions": settings,
}
"""Name to builder, in the page's order."""


def _recalibration(measured: Sequence[Record]) -> str:
    told = {layer.get("recalibrated") for layer in measured}
    if told not in ({True}, {False}):
        return ""
    how = "re-estimated" if told == {True} else "not re-estimated"
    return f"Statistics of batch norm were {how} before each measurement. "


def _first(count: int) -> str:
    return f" The first {_MOST_PICTURES} of {count} layers." if count > _MOST_PICTURES else ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _bytes(count: int) -> str:
    return f"{count / 1024:.0f} KiB" if count < 10 * 1024**2 else f"{count / 1024**2:.1f} MiB"
