# SPDX-License-Identifier: MIT
"""One run of pruning as one HTML file that needs nothing else, and the same data as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l1sparse.files import write_atomically
from l1sparse.report import html
from l1sparse.report.sections import SECTIONS, headline


def write_report(result: Mapping[str, Any], path: str | Path) -> Path:
    """Write ``report.html`` and, beside it, the same data with the suffix ``.json``.

    Args:
        result: ``PruneResult.to_dict()``, and whatever of these is known besides; a section whose
            data is missing is left out, and named as missing at the end:

            - ``history``: list of ``round``, ``accuracy``, ``pruned_share``, after each round;
            - ``sensitivity``: list of ``LayerSensitivity.to_dict()``;
            - ``activations``: layer to ``LayerActivations.to_dict()``;
            - ``times``: list of ``LayerChoice.to_dict()``, as `accelerate` measured them;
            - ``milliseconds``: of the whole network, by the name of the way it ran; those of
              this project are named ``l1sparse``;
            - ``threads``: how many measured them;
            - ``sizes``: bytes of the ``dense`` and of the ``sparse`` file;
            - ``masks``: layer to `pack_mask`; ``histograms``: layer to `weight_histogram`;
            - ``plan``, ``trainer``, ``versions``: any JSON-able value; ``title``: a string.
        path: of the HTML file; replaced as a whole or not at all.

    Returns:
        `path`.

    Raises:
        ValueError: if `result` is no record of a run: a key of ``PruneResult`` is missing.
    """
    missing = [key for key in ("accuracy", "base_accuracy", "layers", "steps") if key not in result]
    if missing:
        raise ValueError(f"result: not the record of a pruning run, it has no {missing}")
    record = _jsonable(result)
    text = json.dumps(record, allow_nan=False)
    title = str(record.get("title") or "Pruning run")
    parts, absent = [headline(record, title)], []
    for name, build in SECTIONS.items():
        built = build(record)
        if built is None:
            absent.append(name)
        else:
            parts.append(built)
    if absent:
        parts.append(f'<p class="soft">Not recorded in this run: {", ".join(absent)}.</p>')
    path = Path(path)
    write_atomically(path, html.page(title, parts, text).encode())
    lines = json.dumps(record, allow_nan=False, indent=1) + "\n"
    write_atomically(path.with_suffix(".json"), lines.encode())
    return path


def _jsonable(value: Any) -> Any:
    """A copy with None where JSON has no number."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
