# SPDX-License-Identifier: MIT
"""The conv layers of a network, which of them cannot be pruned, and how much of them is zero."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from l1sparse.format import GroupShape
from l1sparse.pruning.group import zero_weights
from l1sparse.pruning.mask import companion_mask, is_plain, raw_weight


def conv_layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every `nn.Conv2d` of `model` by its `named_modules` name, in that order, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def layer_candidates(model: nn.Module) -> list[str]:
    """Names of all that a user may take for a conv layer, in the model's order.

    The `nn.Conv2d` modules, under every name that they have; the transposed convs; and parameters
    shaped like a conv weight that belong to another kind of module, which calls them by
    `torch.nn.functional`. `unprunable_reason` tells those apart that can be pruned.
    """
    names = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            names.append(name)
        elif not isinstance(module, parametrize.ParametrizationList):
            names += [
                f"{name}.{own}" if name else own
                for own, parameter in module.named_parameters(recurse=False)
                if parameter.dim() == 4
            ]
    return names


def unprunable_reason(model: nn.Module, name: str) -> str | None:
    """Why the layer `name` of `model` cannot be pruned by channel groups; None if it can be."""
    modules = dict(model.named_modules(remove_duplicate=False))
    module = modules.get(name)
    if module is None:
        owner, _, own = name.rpartition(".")
        parameters = (
            dict(modules[owner].named_parameters(recurse=False)) if owner in modules else {}
        )
        if own in parameters:
            return (
                f"it is a parameter of a {type(modules[owner]).__name__}, used by a functional "
                "call, not the weight of an nn.Conv2d"
            )
        return "the model has no module of this name"
    if not isinstance(module, nn.Conv2d):
        return f"it is a {type(module).__name__}, not an nn.Conv2d"
    convs = conv_layers(model)
    if name not in convs:
        first = next(other for other, conv in convs.items() if conv is module)
        return f"it is the same module as {first!r}"
    if not is_plain(module):
        return f"it is a {type(module).__name__}, with a forward of its own"
    if parametrize.is_parametrized(module, "weight") and companion_mask(module) is None:
        return "its weight is computed by another parametrization"
    weight = raw_weight(module)
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed by a hook, from parameters of other names"
    if isinstance(weight, UninitializedParameter):
        return "its weight has no shape yet; run one forward pass first"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not real floating point"
    if weight.shape[1] == 1:
        return (
            "each filter sees one input channel (in_channels / groups is 1), so there are no "
            "channels to group"
        )
    owners = [
        owner
        for owner, part in model.named_modules()
        for parameter in part.parameters(recurse=False)
        if parameter is weight
    ]
    if len(owners) > 1:
        return f"its weight is shared by {len(owners)} modules: {', '.join(owners)}"
    return None


def group_too_large(model: nn.Module, name: str, group: GroupShape) -> str | None:
    """Why `group` does not fit the conv layer `name`: it has fewer input channels; None if not."""
    channels = raw_weight(model.get_submodule(name)).shape[1]
    if group.channels <= channels:
        return None
    return (
        f"its filters see {channels} input channels, fewer than the {group.channels} of group "
        f"{group}; at most {group.filters}x{channels} fits"
    )


def conv_weight_count(model: nn.Module) -> int:
    """Number of conv weights of `model`; a shared weight counts once."""
    return sum(conv.weight.numel() for conv in _distinct(model))


def pruned_share(model: nn.Module) -> float:
    """Zero conv weights over all conv weights of `model`, 0 to 1; a shared weight counts once.

    Raises:
        ValueError: if `model` has no conv weights.
    """
    total = conv_weight_count(model)
    if not total:
        raise ValueError(
            f"model: expected nn.Conv2d layers with weights, {type(model).__name__} has none"
        )
    return sum(zero_weights(conv.weight) for conv in _distinct(model)) / total


def _distinct(model: nn.Module) -> list[nn.Conv2d]:
    return list({id(raw_weight(conv)): conv for conv in conv_layers(model).values()}.values())
