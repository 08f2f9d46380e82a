# SPDX-License-Identifier: MIT
"""`export_onnx`: the pruned network as standard ONNX, for runtimes that know nothing of packing.

Packed weights are written dense, with zeros where groups are pruned; what is pruned stands in the
model's metadata.
"""

from __future__ import annotations

import copy
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from l1sparse.convert.accelerate import layer_choices
from l1sparse.convert.rewrite import without_format_conversions
from l1sparse.files import write_atomically
from l1sparse.format import GroupShape
from l1sparse.nn import DenseConv2d, SparseConv2d
from l1sparse.nn.conv_arguments import conv_arguments

METADATA = "l1sparse"
"""The key in the model's ``metadata_props``; its value is a JSON object."""

_VERSION = 1
_OPSET = 17  # Hardswish needs 14


def export_onnx(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a network with pruned layers as standard ONNX.

    The model has one input, ``input``, of the example's size but for the batch, which is free, and
    its first output is ``output``.
    ``metadata_props["l1sparse"]`` is a JSON object: ``version`` and, under ``layers``, for each
    pruned convolution its ``group``, its ``density`` and the name of the ``initializer`` that
    holds its weight. A file that was there before stays whole until the new one is.

    Args:
        model: a result of `accelerate` or `load`, or any module with `SparseConv2d` layers, in
            evaluation mode and on the CPU; it is not changed.
        example_input: a batch as the network gets it.
        path: the file to write, ``.onnx`` by custom.

    Raises:
        ImportError: if the package onnx is not installed.
        TypeError: if `model` is no module or `example_input` no tensor.
        ValueError: if `model` is in training mode or has no layer of ours, or `example_input` does
            not fit it.
        RuntimeError: if torch's exporter can't take the network; the message says why.
        OSError: if the file can't be written.
    """
    _check(model, example_input)
    try:
        import onnx
    except ImportError as error:
        raise ModuleNotFoundError(
            "export_onnx needs the package 'onnx'; pip install 'l1sparse[runtimes]'", name="onnx"
        ) from error
    layers = _pruned_layers(model)
    network = _with_dense_weights(model)
    try:
        with torch.inference_mode():
            network(example_input)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"example_input: shape {list(example_input.shape)} of {example_input.dtype} does not "
            f"fit this {type(model).__name__}: {error}"
        ) from error
    proto = onnx.load_from_string(_exported(network, example_input.contiguous()))
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for name, layer in layers.items():
        if f"{name}.weight" in initializers:
            layer["initializer"] = f"{name}.weight"
    description = json.dumps({"version": _VERSION, "layers": layers})
    onnx.helper.set_model_props(proto, {METADATA: description})
    onnx.checker.check_model(proto)
    write_atomically(Path(path), proto.SerializeToString())


def _check(model: nn.Module, example_input: Tensor) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected torch.nn.Module")
    if not isinstance(example_input, Tensor):
        raise TypeError(f"example_input: got {type(example_input).__name__}, expected a tensor")
    if not any(isinstance(module, (SparseConv2d, DenseConv2d)) for module in model.modules()):
        raise ValueError(
            f"model: this {type(model).__name__} has no SparseConv2d layer; accelerate() it first"
        )
    if isinstance(model, SparseConv2d):
        raise ValueError("model: is a SparseConv2d itself, expected a network that contains one")
    training = [
        name or "itself"
        for name, module in model.named_modules()
        if module.training and type(module) is not nn.Module  # fx makes such, to hold others
    ]
    if training:
        raise ValueError(
            f"model: is in training mode ({training[0]}), expected evaluation; call model.eval()"
        )


def _pruned_layers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Group and density of each pruned convolution, whether it runs sparse or dense."""
    layers = {
        name: {"group": module.group.as_list(), "density": module.density}
        for name, module in model.named_modules()
        if isinstance(module, SparseConv2d)
    }
    try:
        choices = layer_choices(model)
    except ValueError:  # not from accelerate()
        choices = []
    for choice in choices:
        if choice.name not in layers and choice.density < 1.0:
            group = GroupShape.of(choice.group).as_list()
            layers[choice.name] = {"group": group, "density": choice.density}
    return layers


def _with_dense_weights(model: nn.Module) -> nn.Module:
    """A copy of torch's own operators alone, as NCHW."""
    network = copy.deepcopy(model)
    for name, module in list(network.named_modules()):
        if isinstance(module, SparseConv2d):
            network.set_submodule(name, _dense_like(module))
        elif isinstance(module, DenseConv2d):
            module.way = "eager"
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if isinstance(network, fx.GraphModule):
        without_format_conversions(network)
    return network


def _dense_like(sparse: SparseConv2d) -> DenseConv2d:
    conv = nn.Conv2d(**conv_arguments(sparse))
    conv.weight = nn.Parameter(sparse.masked_weight().detach(), requires_grad=False)
    conv.bias = sparse.bias
    return DenseConv2d(conv, sparse.activation, sparse.clamp).eval()


def _exported(network: nn.Module, example: Tensor) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that this exporter, which needs no onnxscript, is old
        try:
            torch.onnx.export(
                network,
                (example,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=_OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}},
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise RuntimeError(
                f"model: torch.onnx can't export this {type(network).__name__}: {error}"
            ) from error
    return file.getvalue()
