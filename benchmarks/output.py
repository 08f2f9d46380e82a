# SPDX-License-Identifier: MIT
"""What a benchmark leaves behind: files that are whole or not there, and a progress bar."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast


def progress(items: Sequence[Any], description: str) -> Sequence[Any]:
    """`items`, with a bar on stderr while they are gone through, if that is a terminal."""
    try:
        from tqdm.auto import tqdm
    except ImportError:  # times are the same without a bar
        return items
    return cast(Sequence[Any], tqdm(items, description, leave=False, disable=None))


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write `record`; a file that was there before stays whole until the new one is."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, then give it its own.

    Args:
        path: the file wanted.
        write: makes the file whose path it gets.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
