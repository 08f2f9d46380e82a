# SPDX-License-Identifier: MIT
"""What has to be the same for a saved run to go on: the plan, what trains, the processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_ABSENT = "absent"


def canonical_hash(value: object) -> str:
    """sha256 of the canonical JSON of `value`, in hexadecimal: same content, same hash."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_same_plan(here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first key that differs, unless both plans are the same."""
    difference = _difference("", dict(here), dict(saved))
    if difference is not None:
        key, value, other = difference
        raise ValueError(
            f"plan: {key} is {value!r} here and {other!r} in the saved run; resume with the plan "
            "that was saved, or start a new run"
        )


def check_same_ranks(here: int, saved: int) -> None:
    """Raise ValueError unless as many processes work together as did."""
    if here != saved:
        raise ValueError(
            f"ranks: the saved run had {saved} processes, this one has {here}; each saw its own "
            f"part of the data, so resume with {saved}"
        )


def _difference(key: str, here: object, saved: object) -> tuple[str, object, object] | None:
    """The first place at which two JSON-able values differ, and both values there."""
    if isinstance(here, Mapping) and isinstance(saved, Mapping):
        for name in sorted(here.keys() | saved.keys()):
            found = _difference(
                f"{key}.{name}" if key else name,
                here.get(name, _ABSENT),
                saved.get(name, _ABSENT),
            )
            if found is not None:
                return found
        return None
    if isinstance(here, list | tuple) and isinstance(saved, list | tuple):
        if len(here) != len(saved):
            return key, here, saved
        pairs = enumerate(zip(here, saved, strict=True))
        found_in = (_difference(f"{key}[{place}]", one, other) for place, (one, other) in pairs)
        return next((found for found in found_in if found is not None), None)
    return None if here == saved else (key, here, saved)
