# SPDX-License-Identifier: MIT
"""The compressed file: safetensors, packed weights stored as they run.

Tensors are the network's state dict, with ``<layer>.packed`` in the place of the dense weight of
every `SparseConv2d`, and of every pruned convolution that runs dense because that is faster. The
metadata entry ``l1sparse`` is a JSON object: the format's version, whether batch norms were folded
(and what follows a convolution fused with it), the memory format, each sparse layer's group shape
and activation, the names of the packed dense layers and of those that oneDNN runs, the
versions of what wrote the file, and a checksum of each tensor but the packed ones, which have one
of their own.

Version 1 stores numbers as they are in memory. In version 2 packed values are float16, under
``<layer>.packed_values``, and so are all other float32 tensors of more than one dimension.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from l1sparse.convert.accelerate import layer_choices
from l1sparse.convert.half import VALUES, narrowed, split
from l1sparse.convert.memory_format import memory_format_of, set_format, set_sparse_format
from l1sparse.convert.network import FastNetwork
from l1sparse.convert.rewrite import inference_copy, make_sparse, optimised_graph
from l1sparse.convert.stored import METADATA, VERSION_OF, checksum, read, widened
from l1sparse.format import GroupShape
from l1sparse.group_mask import nonzero_groups
from l1sparse.nn import DenseConv2d, SparseConv2d
from l1sparse.ops import pack, packed_info, unpack
from l1sparse.version import installed_version

_WORTH_PACKING = 0.8  # share of groups kept below which the packed form is the smaller one


def save(
    model: nn.Module, path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a network with `SparseConv2d` layers, its pruned weights left out.

    The file is written under another name and then renamed, so a file that was there before
    stays whole until the new one is.

    Args:
        model: a result of `accelerate`, or any module with `SparseConv2d` layers in it.
        path: the file to write.
        dtype: in which float32 weights are stored, packed and dense: ``torch.float32``, or
            ``torch.float16``, which halves the file and rounds the weights; `load` widens them
            again. Biases and the like, of one dimension, keep their type.

    Raises:
        ValueError: if `model` has no `SparseConv2d` in it, `dtype` is another one, or a weight is
            too large for float16.
        OSError: if the file can't be written.
    """
    if dtype not in VERSION_OF:
        raise ValueError(f"dtype: got {dtype!r}, expected torch.float32 or torch.float16")
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
    if dtype == torch.float16:
        tensors = _as_float16(tensors, [*layers, *dense])
    description = {
        "version": VERSION_OF[dtype],
        "versions": _versions(),
        "folded": isinstance(model, fx.GraphModule),
        "memory_format": memory_format_of(model),
        "prepacked": _prepacked_names(model),
        "dense": dense,
        "layers": {
            name: {"group": layer.group.as_list(), "activation": layer.activation}
            for name, layer in layers.items()
        },
    }
    packed = {f"{name}.{part}" for name in [*layers, *dense] for part in ("packed", VALUES)}
    description["checksums"] = {
        key: checksum(key, tensor) for key, tensor in tensors.items() if key not in packed
    }
    _write_whole(_separate(tensors), {METADATA: json.dumps(description)}, Path(path))


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Read a network that `save` wrote.

    Args:
        path: the file.
        model: the network's dense architecture, any weights; it is not changed. Made under
            ``torch.device("meta")`` it has none, and no memory for them.

    Returns:
        A module for inference, its sparse layers holding only the packed weight.

    Raises:
        OSError: if there is no such file, or it can't be read.
        ValueError: if the file is damaged or foreign, or does not fit `model`, or `model` has
            buffers without values that no file has; the message says in what, or which.
    """
    stored, description = read(Path(path))
    result = _with_values(inference_copy(model))
    memory_format = description.memory_format
    if description.folded:
        result = optimised_graph(result)
        if memory_format is not None:
            set_format(result, memory_format)
    try:
        tensors = widened(stored, description)
        for name in description.dense:
            tensors[f"{name}.weight"] = _dense_weight(result, name, tensors.pop(f"{name}.packed"))
        for name, group in description.layers.items():
            make_sparse(result, name, group).eval().drop_dense_weight()
        for name in description.prepacked:
            _run_prepacked(result, name)
        if isinstance(result, fx.GraphModule):
            if memory_format is not None:
                set_sparse_format(result, memory_format, set(description.layers))
            result = FastNetwork.of(result)
        result.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"path: {str(path)!r} does not fit this {type(model).__name__}: {error}"
        ) from error
    return result


def _with_values(model: nn.Module) -> nn.Module:
    """Put zeros in the place of what is on the meta device.

    Raises:
        ValueError: if that would invent values, which the file's do not replace.
    """
    in_file = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        of = model.get_submodule(name.rpartition(".")[0])
        # The mask of a SparseConv2d is in its packed weight.
        if buffer.is_meta and name not in in_file and not isinstance(of, SparseConv2d):
            raise ValueError(
                f"model: {name!r} is a non-persistent buffer on the meta device, expected one with"
                " values, since no file has them"
            )
    model._apply(lambda x: torch.zeros_like(x, device="cpu") if x.is_meta else x)
    return model


def _dense_weight(model: nn.Module, name: str, packed: Tensor) -> Tensor:
    """Unpack the weight of a convolution that runs dense."""
    conv = dict(model.named_modules()).get(name)
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"layer {name!r}: is {type(conv).__name__}, expected nn.Conv2d")
    packed = packed.clone()  # to where the native code can read it: the file is mapped anywhere
    shape, expected = packed_info(packed).weight_shape, tuple(conv.weight.shape)
    if shape != expected:  # before there is memory for whatever the file claims
        raise ValueError(f"{name}.packed: holds a weight of shape {shape}, expected {expected}")
    return unpack(packed)


def _as_float16(tensors: dict[str, Tensor], packed: list[str]) -> dict[str, Tensor]:
    """`tensors` with the values of the layers `packed`, and dense weights, narrowed."""
    result = {}
    parts_of = {f"{name}.packed": name for name in packed}
    for key, tensor in tensors.items():
        try:
            if key in parts_of:
                result[key], result[f"{parts_of[key]}.{VALUES}"] = split(tensor)
            elif tensor.dtype == torch.float32 and tensor.dim() > 1:
                result[key] = narrowed(tensor)
            else:
                result[key] = tensor
        except ValueError as error:
            raise ValueError(f"dtype: {key} {error}") from None
    return result


def _versions() -> dict[str, str]:
    return {"l1sparse": installed_version(), "torch": str(torch.__version__)}


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
