# SPDX-License-Identifier: MIT
"""What a compressed file holds, without the network that it is of."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from l1sparse.convert.half import VALUES
from l1sparse.convert.stored import Description, read, widened
from l1sparse.convert.table import text_table
from l1sparse.ops import packed_info

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class PackedLayer:
    """A layer whose weight is packed in the file."""

    name: str
    runs: str
    """``"sparse"`` or ``"dense"``, as chosen when the file was written."""
    weight_shape: tuple[int, ...]
    """``(O, C / groups, kH, kW)``."""
    group: str
    density: float
    """Kept weights over all weights, 0 to 1."""
    strategy: str
    """How kernels go through the kept groups, one of `l1sparse.ops.STRATEGIES`."""
    activation: str
    """Of a sparse layer; ``"none"`` for dense ones, whose network says it."""
    dtype: str
    """In which its values are stored."""
    bytes: int
    """In the file."""


@dataclass(frozen=True)
class DenseTensor:
    """A tensor that is stored as it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class FileSummary:
    """What `summarize` found."""

    format_version: int
    versions: dict[str, str]
    """Of the packages that wrote the file; empty in files of before this was written."""
    memory_format: str | None
    """Of the whole network; None: that of its input."""
    folded: bool
    """Whether batch norms were folded, and activations and residuals fused."""
    layers: list[PackedLayer]
    dense: list[DenseTensor]
    file_bytes: int
    dense_bytes: int
    """Of the same numbers as dense float32, without any header."""

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        written = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        packed_bytes = sum(layer.bytes for layer in self.layers)
        left_bytes = sum(tensor.bytes for tensor in self.dense)
        lines = [
            f"format version: {self.format_version}",
            f"written by: {written or 'not said'}",
            f"memory format: {self.memory_format or 'that of the input'}",
            f"batch norms and activations: {'folded' if self.folded else 'as in the network'}",
            "",
            *_layer_table(self.layers),
            "",
            *_tensor_table(self.dense),
            "",
            f"packed weights: {packed_bytes} bytes",
            f"dense tensors: {left_bytes} bytes",
            f"file: {self.file_bytes} bytes, {_share(self.file_bytes, self.dense_bytes)} of dense "
            f"float32's {self.dense_bytes}",
        ]
        return "\n".join(lines)


def summarize(path: str | os.PathLike[str]) -> FileSummary:
    """Read what a file of `save` holds. Packed weights are checked, and never unpacked.

    Args:
        path: the file.

    Raises:
        OSError: if there is no such file, or it can't be read.
        ValueError: if the file is damaged or foreign; the message says in what.
    """
    stored, description = read(Path(path))
    try:
        whole = widened(stored, description)
        layers = [
            _packed_layer(name, stored, whole[f"{name}.packed"], description)
            for name in description.packed_layers
        ]
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"path: {os.fspath(path)!r} is damaged: {reason}") from error
    of_layers = {
        f"{name}.{part}" for name in description.packed_layers for part in ("packed", VALUES)
    }
    left = {key: tensor for key, tensor in stored.items() if key not in of_layers}
    numbers = sum(math.prod(layer.weight_shape) for layer in layers)
    return FileSummary(
        format_version=description.version,
        versions=description.versions,
        memory_format=description.memory_format,
        folded=description.folded,
        layers=layers,
        dense=[
            DenseTensor(key, _name(tensor), tuple(tensor.shape), tensor.nbytes)
            for key, tensor in left.items()
        ],
        file_bytes=os.stat(path).st_size,
        dense_bytes=_FLOAT32_BYTES * (numbers + sum(tensor.numel() for tensor in left.values())),
    )


def _packed_layer(
    name: str, stored: dict[str, Tensor], packed: Tensor, description: Description
) -> PackedLayer:
    try:
        # Copied to where the native code can read it: the file is mapped anywhere.
        info = packed_info(packed.clone())
    except RuntimeError as error:
        raise ValueError(f"{name}.packed: {error}") from error
    values = stored.get(f"{name}.{VALUES}")
    return PackedLayer(
        name=name,
        runs="sparse" if name in description.layers else "dense",
        weight_shape=info.weight_shape,
        group=str(info.group),
        density=info.density,
        strategy=info.strategy,
        activation=description.activations.get(name, "none"),
        dtype="float32" if values is None else _name(values),
        bytes=stored[f"{name}.packed"].nbytes + (0 if values is None else values.nbytes),
    )


def _layer_table(layers: list[PackedLayer]) -> list[str]:
    rows = [("layer", "runs", "shape", "group", "density", "strategy", "values", "bytes")]
    rows += [
        (
            layer.name,
            layer.runs,
            _sizes(layer.weight_shape),
            layer.group,
            f"{layer.density:.3f}",
            layer.strategy,
            layer.dtype,
            str(layer.bytes),
        )
        for layer in layers
    ]
    return text_table(rows, right=(4, 7))


def _tensor_table(tensors: list[DenseTensor]) -> list[str]:
    rows = [("tensor", "type", "shape", "bytes")]
    rows += [(t.name, t.dtype, _sizes(t.shape), str(t.bytes)) for t in tensors]
    return text_table(rows, right=(3,))


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "-"


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"
