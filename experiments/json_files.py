# SPDX-License-Identifier: MIT
"""Results as JSON files: a run that is there as a whole is never run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from l1sparse.files import write_atomically


def write_json(path: Path, record: Any) -> None:
    """Write `record`; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text())
