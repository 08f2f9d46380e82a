# SPDX-License-Identifier: MIT
"""The compressed file: safetensors, packed weights stored as they run.

Tensors are the network's state dict, with ``<layer>.packed`` in the place of the dense weight of
every `SparseConv2d`. The metadata entry ``l1sparse`` is a JSON object: the format's version,
whether batch norms were folded, and each sparse layer's group shape and activation.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from l1sparse.convert.rewrite import inference_copy, make_sparse, traced_and_folded
from l1sparse.format import GroupShape
from l1sparse.nn import SparseConv2d

_METADATA = "l1sparse"
_VERSION = 1


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network with `SparseConv2d` layers, its pruned weights left out.

    The file is written under another name and then renamed, so a file that was there before
    stays whole until the new one is.

    Args:
        model: a result of `accelerate`, or any module with `SparseConv2d` layers in it.
        path: the file to write.

    Raises:
        ValueError: if `model` has no `SparseConv2d` in it.
        OSError: if the file can't be written.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, SparseConv2d)
    }
    if not layers:
        raise ValueError(
            f"model: this {type(model).__name__} has no SparseConv2d layer; accelerate() it first"
        )
    if "" in layers:
        raise ValueError("model: is a SparseConv2d itself, expected a network that contains one")
    tensors = dict(model.state_dict())
    for name, layer in layers.items():
        tensors.pop(f"{name}.weight", None)
        tensors[f"{name}.packed"] = layer.packed_weight()
    description = {
        "version": _VERSION,
        "folded": isinstance(model, fx.GraphModule),
        "layers": {
            name: {"group": layer.group.as_list(), "activation": layer.activation}
            for name, layer in layers.items()
        },
    }
    _write_whole(_separate(tensors), {_METADATA: json.dumps(description)}, Path(path))


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Read a network that `save` wrote.

    Args:
        path: the file.
        model: the network's dense architecture, any weights; it is not changed.

    Returns:
        A module for inference, its sparse layers holding only the packed weight.

    Raises:
        OSError: if there is no such file, or it can't be read.
        ValueError: if the file is damaged or foreign, or does not fit `model`; the message says
            in what.
    """
    tensors, description = _read(Path(path))
    result = inference_copy(model)
    if description["folded"]:
        result = traced_and_folded(result)
    try:
        for name, layer in description["layers"].items():
            group, activation = GroupShape.of(layer["group"]), layer["activation"]
            make_sparse(result, name, group, activation == "relu").eval().drop_dense_weight()
        result.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"path: {str(path)!r} does not fit this {type(model).__name__}: {error}"
        ) from error
    return result


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, none sharing memory: safetensors stores no aliases."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _write_whole(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    # Not tempfile's, which only the owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        save_file(tensors, temporary, metadata)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with open(path, "rb"):
        pass  # a missing file, a folder, no permission: Python's error names the path
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"path: {str(path)!r} is damaged or no safetensors file: {error}"
        ) from None
    if _METADATA not in metadata:
        raise ValueError(f"path: {str(path)!r} was not written by l1sparse.save()")
    try:
        description = json.loads(metadata[_METADATA])
        version = description["version"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"path: {str(path)!r} has a damaged l1sparse description") from None
    if version != _VERSION:
        raise ValueError(f"path: {str(path)!r} has format {version!r}, expected {_VERSION}")
    return tensors, description
