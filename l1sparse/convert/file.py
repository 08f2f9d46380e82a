# SPDX-License-Identifier: MIT
"""The compressed file: safetensors, packed weights stored as they run.

Tensors are the network's state dict, with ``<layer>.packed`` in the place of the dense weight of
every `SparseConv2d`, and of every pruned convolution that runs dense because that is faster. The
metadata entry ``l1sparse`` is a JSON object: the format's version, whether batch norms were folded
(and what follows a convolution fused with it), the memory format, each sparse layer's group shape
and activation, the names of the packed dense layers and of those that oneDNN runs.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from l1sparse.convert.accelerate import layer_choices
from l1sparse.convert.memory_format import (
    FORMATS,
    memory_format_of,
    set_format,
    set_sparse_format,
)
from l1sparse.convert.rewrite import inference_copy, make_sparse, optimised_graph
from l1sparse.format import GroupShape
from l1sparse.group_mask import nonzero_groups
from l1sparse.nn import DenseConv2d, SparseConv2d
from l1sparse.ops import ACTIVATIONS, pack, unpack

_METADATA = "l1sparse"
_VERSION = 1
_WORTH_PACKING = 0.8  # share of groups kept below which the packed form is the smaller one


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
    try:
        groups = {choice.name: GroupShape.of(choice.group) for choice in layer_choices(model)}
    except ValueError:
        groups = {}  # not from accelerate(): only its SparseConv2d layers are packed
    if not layers and not groups:
        raise ValueError(
            f"model: this {type(model).__name__} has no SparseConv2d layer; accelerate() it first"
        )
    if "" in layers:
        raise ValueError("model: is a SparseConv2d itself, expected a network that contains one")
    tensors = dict(model.state_dict())
    for name, layer in layers.items():
        tensors.pop(f"{name}.weight", None)
        tensors[f"{name}.packed"] = layer.packed_weight()
    # Convolutions that run dense because that is faster here are pruned all the same.
    dense = [name for name, group in groups.items() if _is_worth_packing(model, name, group)]
    for name in dense:
        weight = tensors.pop(f"{name}.weight")
        tensors[f"{name}.packed"] = pack(weight, None, groups[name])
    description = {
        "version": _VERSION,
        "folded": isinstance(model, fx.GraphModule),
        "memory_format": memory_format_of(model),
        "prepacked": _prepacked_names(model),
        "dense": dense,
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
    memory_format = description.memory_format
    if description.folded:
        result = optimised_graph(result)
        if memory_format is not None:
            set_format(result, memory_format)
    try:
        for name in description.dense:
            key = f"{name}.packed"
            if key not in tensors:
                raise ValueError(f"{key} is missing")
            tensors[f"{name}.weight"] = unpack(tensors.pop(key).clone())
        for name, group in description.layers.items():
            make_sparse(result, name, group).eval().drop_dense_weight()
        for name in description.prepacked:
            _run_prepacked(result, name)
        if memory_format is not None and isinstance(result, fx.GraphModule):
            set_sparse_format(result, memory_format, set(description.layers))
        result.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"path: {str(path)!r} does not fit this {type(model).__name__}: {error}"
        ) from error
    return result


def _prepacked_names(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, DenseConv2d) and module.way == "prepacked"
    ]


def _run_prepacked(model: nn.Module, name: str) -> None:
    conv = dict(model.named_modules()).get(name)
    if not isinstance(conv, DenseConv2d):
        raise ValueError(f"layer {name!r}: is {type(conv).__name__}, expected nn.Conv2d")
    conv.way = "prepacked"


def _is_worth_packing(model: nn.Module, name: str, group: GroupShape) -> bool:
    conv = model.get_submodule(name)
    if type(conv) not in (nn.Conv2d, DenseConv2d):
        return False
    weight = conv.weight
    assert isinstance(weight, Tensor)
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    return bool(nonzero_groups(weight, group).float().mean() < _WORTH_PACKING)


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with open(temporary, "xb") as empty:
        mode = os.fstat(empty.fileno()).st_mode
    try:
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, mode)  # safetensors lets only the owner read what it writes
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class _Description:
    """What the metadata say."""

    folded: bool
    """Whether the network was traced: batch norms folded, activations and residuals fused."""
    memory_format: str | None
    layers: dict[str, GroupShape]
    """Each sparse layer's group."""
    dense: list[str]
    """Dense layers whose weight is packed."""
    prepacked: list[str]
    """Dense layers that oneDNN runs with their weight reordered."""


def _read(path: Path) -> tuple[dict[str, Tensor], _Description]:
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
        description = _parse(json.loads(metadata[_METADATA]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"path: {str(path)!r} has an l1sparse description that can't be read: {error!r}"
        ) from None
    return tensors, description


def _parse(description: Any) -> _Description:
    if description["version"] != _VERSION:
        raise ValueError(f"format version {description['version']!r}, expected {_VERSION}")
    layers = {name: GroupShape.of(layer["group"]) for name, layer in description["layers"].items()}
    for name, layer in description["layers"].items():
        if layer["activation"] not in ACTIVATIONS:
            raise ValueError(
                f"activation of {name!r} is {layer['activation']!r}, expected {ACTIVATIONS}"
            )
    memory_format = description.get("memory_format")
    if memory_format is not None and memory_format not in FORMATS:
        raise ValueError(f"memory_format is {memory_format!r}, expected {tuple(FORMATS)}")
    return _Description(
        folded=bool(description["folded"]),
        memory_format=memory_format,
        layers=layers,
        dense=[str(name) for name in description["dense"]],
        prepacked=[str(name) for name in description.get("prepacked", [])],
    )
