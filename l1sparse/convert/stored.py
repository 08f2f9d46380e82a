# SPDX-License-Identifier: MIT
"""What stands in a compressed file, read without trusting any of it."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from l1sparse.convert.half import VALUES, join
from l1sparse.convert.memory_format import FORMATS
from l1sparse.format import GroupShape
from l1sparse.ops import ACTIVATIONS

METADATA = "l1sparse"
"""The metadata entry that holds the description."""

VERSION_OF = {torch.float32: 1, torch.float16: 2}
"""The format version by the type in which packed values are stored: files that an earlier release
can read say so."""

_KEYS = {
    "version", "versions", "folded", "memory_format", "layers", "dense", "prepacked", "checksums",
}  # fmt: skip
_LARGEST_GROUP = 2**31 - 1  # what the packed format can say


@dataclass(frozen=True)
class Description:
    """What the metadata say."""

    version: int
    versions: dict[str, str]
    """Of the packages that wrote the file; empty in files of before this was written."""
    folded: bool
    """Whether the network was traced: batch norms folded, activations and residuals fused."""
    memory_format: str | None
    layers: dict[str, GroupShape]
    """Each sparse layer's group."""
    activations: dict[str, str]
    """Each sparse layer's activation."""
    dense: list[str]
    """Dense layers whose weight is packed."""
    prepacked: list[str]
    """Dense layers that oneDNN runs with their weight reordered."""
    checksums: dict[str, int] | None
    """Of every tensor that has none of its own, by its name; None in files of before there were."""

    @property
    def packed_layers(self) -> list[str]:
        """Every layer whose weight is packed in the file."""
        return [*self.layers, *self.dense]


def read(path: Path) -> tuple[dict[str, Tensor], Description]:
    """The tensors as they are stored, and the description.

    Raises:
        OSError: if there is no such file, or it can't be read.
        ValueError: if the file is damaged or foreign; the message says in what.
    """
    with open(path, "rb"):
        pass  # a missing file, a folder, no permission: Python's error names the path
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError) as error:  # torch maps the file itself
        raise ValueError(
            f"path: {str(path)!r} is damaged or no safetensors file: {error}"
        ) from None
    if METADATA not in metadata:
        raise ValueError(f"path: {str(path)!r} was not written by l1sparse.save()")
    try:
        description = _parse(json.loads(metadata[METADATA]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"path: {str(path)!r} has an l1sparse description that can't be read: {error!r}"
        ) from None
    _compare_checksums(path, tensors, description)
    return tensors, description


def checksum(name: str, tensor: Tensor) -> int:
    """CRC-32 of a tensor's name, dtype, shape and bytes."""
    kind = f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(content.numpy().data, zlib.crc32(kind))


def _compare_checksums(path: Path, tensors: dict[str, Tensor], description: Description) -> None:
    if description.checksums is None:
        return
    packed = {f"{n}.{part}" for n in description.packed_layers for part in ("packed", VALUES)}
    for name, tensor in tensors.items():
        if name not in packed and description.checksums.get(name) != checksum(name, tensor):
            raise ValueError(f"path: {str(path)!r} is damaged: {name} has another checksum")


def widened(tensors: dict[str, Tensor], description: Description) -> dict[str, Tensor]:
    """`tensors` with every packed weight whole, its values float32.

    Raises:
        ValueError: if a packed weight is missing or of another form.
    """
    result = dict(tensors)
    for name in description.packed_layers:
        key, values = f"{name}.packed", f"{name}.{VALUES}"
        if key not in result:
            raise ValueError(f"{key} is missing")
        if values in result:
            try:
                result[key] = join(result[key], result.pop(values))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
    return result


def _parse(description: Any) -> Description:
    version = description["version"]
    known = sorted(VERSION_OF.values())
    if version not in known:
        raise ValueError(
            f"format version {version!r}, expected one of {known}; a later one needs a later "
            "l1sparse"
        )
    unknown = sorted(set(description) - _KEYS)
    if unknown:  # a damaged name of one that may be missing
        raise ValueError(f"the keys {unknown} are unknown, expected some of {sorted(_KEYS)}")
    layers = {name: _group(layer["group"]) for name, layer in description["layers"].items()}
    activations = {}
    for name, layer in description["layers"].items():
        if layer["activation"] not in ACTIVATIONS:
            raise ValueError(
                f"activation of {name!r} is {layer['activation']!r}, expected {ACTIVATIONS}"
            )
        activations[name] = layer["activation"]
    memory_format = description.get("memory_format")
    if memory_format is not None and memory_format not in FORMATS:
        raise ValueError(f"memory_format is {memory_format!r}, expected {tuple(FORMATS)}")
    versions, checksums = description.get("versions", {}), description.get("checksums")
    return Description(
        version=int(version),
        versions={str(name): str(value) for name, value in versions.items()},
        folded=bool(description["folded"]),
        memory_format=memory_format,
        layers=layers,
        activations=activations,
        dense=[str(name) for name in description["dense"]],
        prepacked=[str(name) for name in description.get("prepacked", [])],
        checksums=None if checksums is None else dict(checksums),
    )


def _group(value: Any) -> GroupShape:
    group = GroupShape.of(value)
    if max(group.as_list()) > _LARGEST_GROUP:
        raise ValueError(f"group is {value!r}, expected numbers of at most {_LARGEST_GROUP}")
    return group
