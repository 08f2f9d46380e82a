# SPDX-License-Identifier: MIT
"""Reading a compressed file without torch. The format is safetensors', read here because that
package is one more than NumPy."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_LARGEST_HEADER = 100_000_000  # as in safetensors itself


def load(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The tensors of a file that `l1sparse.save` wrote.

    Args:
        path: the file.

    Returns:
        Arrays by name, read-only. ``<layer>.packed`` is the packed weight of a sparse layer, for
        `Weight`, `conv2d` and `unpack`.

    Raises:
        OSError: if there is no such file, or it can't be read.
        ValueError: if the file is damaged or foreign; the message says in what.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path: {os.fspath(path)!r} is damaged or foreign: {error}") from None


def _parse(content: bytes) -> dict[str, NDArray[Any]]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, _LARGEST_HEADER):
        raise ValueError(f"its header should have {size} bytes, the file has {len(content)}")
    header = json.loads(content[8 : 8 + size])
    if "l1sparse" not in header.get("__metadata__", {}):
        raise ValueError("it was not written by l1sparse.save()")
    data = memoryview(content)[8 + size :]
    return {
        name: _tensor(name, entry, data) for name, entry in header.items() if name != "__metadata__"
    }


def _tensor(name: str, entry: dict[str, Any], data: memoryview) -> NDArray[Any]:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name}: has dtype {entry['dtype']}, expected one of {sorted(_DTYPES)}")
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    shape = entry["shape"]
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise ValueError(f"{name}: has shape {shape}, expected whole numbers of at least 0")
    begin, end = entry["data_offsets"]
    if not (0 <= begin <= end <= len(data) and end - begin == math.prod(shape) * dtype.itemsize):
        raise ValueError(
            f"{name}: bytes {begin} to {end} of {len(data)} don't fit shape {shape} of {dtype}"
        )
    return np.frombuffer(data[begin:end], dtype).reshape(shape)
