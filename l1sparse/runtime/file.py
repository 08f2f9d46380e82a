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
_VERSIONS = (1, 2)  # of the format; see l1sparse.convert
_LARGEST_HEADER = 100_000_000  # as in safetensors itself


def load(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The tensors of a file that `l1sparse.save` wrote.

    Args:
        path: the file.

    Returns:
        Arrays by name, read-only. ``<layer>.packed`` is the packed weight of a sparse layer, for
        `Weight`, `conv2d` and `unpack`. In a file with float16 storage its values are widened;
        dense weights are float16, as they are there.

    Raises:
        OSError: if there is no such file, or it can't be read.
        ValueError: if the file is damaged or foreign; the message says in what.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _parse(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"path: {os.fspath(path)!r} is damaged or foreign: {error}") from None


def _parse(content: bytes) -> dict[str, NDArray[Any]]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, _LARGEST_HEADER):
        raise ValueError(f"its header should have {size} bytes, the file has {len(content)}")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    if "l1sparse" not in metadata:
        raise ValueError("it was not written by l1sparse.save()")
    version = json.loads(metadata["l1sparse"])["version"]
    if version not in _VERSIONS:
        raise ValueError(f"format version {version!r}, expected one of {list(_VERSIONS)}")
    data = memoryview(content)[8 + size :]
    tensors = {
        name: _tensor(name, entry, data) for name, entry in header.items() if name != "__metadata__"
    }
    for name in [name for name in tensors if name.endswith(".packed_values")]:
        packed = name.removesuffix("_values")
        if packed not in tensors:
            raise ValueError(f"{name}: is there without {packed}")
        tensors[packed] = _joined(tensors[packed], tensors.pop(name))
    return tensors


def _joined(pattern: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """A packed weight whose values are stored as float16; its checksum is that of the whole."""
    if pattern.dtype != np.uint8 or pattern.ndim != 1 or values.dtype != "<f2" or values.ndim != 1:
        raise ValueError(
            f"a packed weight of {pattern.dtype} {pattern.shape} and {values.dtype} "
            f"{values.shape}, expected uint8 and float16 of one dimension"
        )
    whole = np.concatenate([pattern, values.astype("<f4").view(np.uint8)])
    whole.flags.writeable = False
    return whole


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
