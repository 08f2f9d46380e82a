# SPDX-License-Identifier: MIT
"""Masks and weights, small enough for a record: packed bits, and counts of a histogram."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 60


def pack_mask(mask: npt.ArrayLike) -> dict[str, Any]:
    """A mask of the group grid as JSON-able values: eight groups a byte, in base64.

    Args:
        mask: bool ``[filters, channels, kH, kW]`` in groups, an array or a CPU tensor; True keeps.
    """
    kept = np.asarray(mask, dtype=bool)
    bits = base64.b64encode(np.packbits(kept).tobytes()).decode("ascii")
    return {"shape": list(kept.shape), "bits": bits}


def unpack_mask(packed: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """The mask that `pack_mask` packed.

    Raises:
        ValueError: if there are not as many bits as the shape needs.
    """
    shape = tuple(int(extent) for extent in packed["shape"])
    raw = np.frombuffer(base64.b64decode(packed["bits"], validate=True), np.uint8)
    count = int(np.prod(shape))
    if len(raw) != (count + 7) // 8:
        raise ValueError(f"bits: expected {count} bits for a mask of {shape}, got {8 * len(raw)}")
    return np.unpackbits(raw, count=count).astype(bool).reshape(shape)


def mask_picture(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask ``[filters, channels, kH, kW]`` laid flat: a row a filter, tap beside tap.

    Every tap's channels lie together, with an empty column between taps (they count as pruned).
    """
    filters, channels, height, width = mask.shape
    taps = mask.transpose(0, 2, 3, 1).reshape(filters, height * width, channels)
    return np.pad(taps, ((0, 0), (0, 0), (0, 1))).reshape(filters, -1)[:, :-1]


def weight_histogram(
    before: npt.ArrayLike, after: npt.ArrayLike, bins: int = BINS
) -> dict[str, Any]:
    """How a layer's weights lie before and after pruning; exact zeros are counted apart.

    Args:
        before: the dense weight, an array or a CPU tensor.
        after: the pruned weight, of the same shape.
        bins: number of bins, symmetric around 0.

    Returns:
        ``edges`` (bins + 1), counts ``before`` and ``after`` of what is not zero, and ``zeros``
        (before, after). Weights that are not finite are in none of them.
    """
    values = [np.asarray(part, dtype=np.float64).ravel() for part in (before, after)]
    values = [part[np.isfinite(part)] for part in values]
    largest = max((float(np.abs(part).max(initial=0.0)) for part in values), default=0.0) or 1.0
    edges = np.linspace(-largest, largest, bins + 1)
    counts = [np.histogram(part[part != 0], edges)[0].tolist() for part in values]
    return {
        "edges": edges.tolist(),
        "before": counts[0],
        "after": counts[1],
        "zeros": [int((part == 0).sum()) for part in values],
    }
