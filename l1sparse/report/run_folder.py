# SPDX-License-Identifier: MIT
"""The folder of a run as one record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT, SENSITIVITY, REPORT = "result.json", "sensitivity.json", "report.html"


def read_run(folder: str | Path) -> dict[str, Any]:
    """Read ``result.json``, and ``sensitivity.json`` if the result itself has no curves.

    Raises:
        FileNotFoundError: if there is no result yet.
        ValueError: if a file is not JSON, or no JSON object or list as it should be.
    """
    folder = Path(folder)
    path = folder / RESULT
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; expected the folder of a finished run of `l1sparse prune`"
        )
    record = _read(path, dict)
    curves = folder / SENSITIVITY
    if not record.get("sensitivity") and curves.exists():
        content = json.loads(curves.read_text())
        record["sensitivity"] = content["layers"] if isinstance(content, dict) else content
    record.setdefault("title", f"Pruning run {folder.resolve().name}")
    return record


def _read(path: Path, kind: type[dict[str, Any]]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content
