# SPDX-License-Identifier: MIT
"""The graph pass: what follows a convolution becomes part of it.

Every convolution of a traced network becomes a `DenseConv2d` that adds the residual and applies the
activation which followed it; `SparseConv2d` has the same epilogue, so either can take its place.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from l1sparse.nn.dense_conv2d import DenseConv2d

Activation = tuple[str, tuple[float, float]]
_NO_LIMITS = (0.0, 6.0)  # of an activation that has none: what the operator takes by default
_SIMPLE: dict[Any, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu: "relu",
    F.relu_: "relu",
    F.relu6: "relu6",
    F.hardswish: "hardswish",
    "relu": "relu",
    "relu_": "relu",
}


def fuse_epilogues(model: fx.GraphModule) -> None:
    """Give each convolution its residual and activation; `model` is changed in place.

    A convolution that is called more than once, or whose output has other users, keeps them
    apart. A residual that turns out to have another shape than the output (it broadcasts) is
    added by torch, see `SparseConv2d.forward`.
    """
    calls = Counter(node.target for node in model.graph.nodes if node.op == "call_module")
    for node in list(model.graph.nodes):
        if node.op != "call_module":
            continue
        conv = model.get_submodule(node.target)
        if type(conv) is not nn.Conv2d:
            continue
        activation: Activation = ("none", _NO_LIMITS)
        if calls[node.target] == 1:
            activation = _take_epilogue(model, node)
        model.set_submodule(node.target, DenseConv2d(conv, *activation))
    model.graph.lint()
    model.recompile()
    model.delete_all_unused_submodules()


def _take_epilogue(model: fx.GraphModule, node: fx.Node) -> Activation:
    """Move what follows the call `node` into it; returns the activation."""
    chain = [node]
    arguments = [node.args[0] if node.args else node.kwargs["input"]]
    addition = _only_user(node)
    if addition is not None:
        residual = _residual_of(addition, node)
        if residual is not None:
            chain.append(addition)
            arguments.append(residual)
    activation: Activation = ("none", _NO_LIMITS)
    follower = _only_user(chain[-1])
    if follower is not None:
        found = _activation_of(model, follower)
        if found is not None:
            activation = found
            chain.append(follower)
    # Where the last of the chain stands, the residual has been computed.
    with model.graph.inserting_before(chain[-1]):
        fused = model.graph.call_module(str(node.target), tuple(arguments))
    chain[-1].replace_all_uses_with(fused)
    for done in reversed(chain):
        model.graph.erase_node(done)
    return activation


def _residual_of(addition: fx.Node, node: fx.Node) -> fx.Node | None:
    """What `addition` adds to the result of `node`, if it is an addition that can be moved."""
    in_place = addition.target in (operator.iadd, "add_")
    if not in_place and addition.target not in (operator.add, torch.add, "add"):
        return None
    if addition.kwargs or len(addition.args) != 2:
        return None
    first, second = addition.args
    residual = second if first is node else first
    if not isinstance(residual, fx.Node) or residual is node:
        return None
    # An addition into the residual changes it for its other users too.
    if in_place and residual is first and len(residual.users) > 1:
        return None
    return residual


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation_of(model: fx.GraphModule, node: fx.Node) -> Activation | None:
    """The activation that `node` applies, if it is one that kernels have."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if type(module) is nn.Hardtanh:
            return "clamp", (float(module.min_val), float(module.max_val))
        return _simple(type(module))
    if node.op not in ("call_function", "call_method"):
        return None
    if node.target in (torch.clamp, F.hardtanh, "clamp", "clamp_"):
        return _clamp(node)
    return _simple(node.target)


def _simple(key: Any) -> Activation | None:
    name = _SIMPLE.get(key)
    return None if name is None else (name, _NO_LIMITS)


def _clamp(node: fx.Node) -> Activation | None:
    limits = dict(zip(("low", "high"), node.args[1:], strict=False))
    names = {"min": "low", "max": "high", "min_val": "low", "max_val": "high"}
    limits |= {names[key]: value for key, value in node.kwargs.items() if key in names}
    low, high = limits.get("low"), limits.get("high")
    if not (isinstance(low, (int, float)) and isinstance(high, (int, float)) and low <= high):
        return None
    return "clamp", (float(low), float(high))
