# SPDX-License-Identifier: MIT
"""The companion mask (claims 7 and 8): 1 per weight at first, 0 for ever once pruned."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from l1sparse.format import GroupShape
from l1sparse.group_mask import as_grid_mask, expand_group_mask
from l1sparse.pruning.group import pruned_weights


class CompanionMask(nn.Module):
    """Parametrization of a conv weight that holds pruned weights at exactly +0.0.

    The weight that the network sees is zero wherever the mask is, whatever the optimizer does to
    the parameter beneath, and also where that parameter is NaN or infinite. The gradient of a
    pruned weight is exactly 0 (claim 8). Made by `attach`; changed only by `extend`.

    Attributes:
        group: the channel-group shape.
        mask: bool buffer of the group grid's shape ``[ceil(O / filters), ceil(C / channels), kH,
            kW]``; True keeps.
        group_shape: int64 buffer ``[filters, channels]``: lets a saved mask of another group
            shape be told from one of this.
    """

    mask: Tensor
    group_shape: Tensor

    def __init__(self, weight: Tensor, group: GroupShape | Sequence[int] | str) -> None:
        super().__init__()
        self.group = GroupShape.of(group)
        self._weight_shape = tuple(weight.shape)
        grid, device = self.group.grid(weight.shape), weight.device
        self.register_buffer("mask", torch.ones(grid, dtype=torch.bool, device=device))
        self.register_buffer("group_shape", torch.tensor(self.group.as_list(), device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, ``[O, C, kH, kW]``."""
        # Not a product with the mask: inf * 0 and NaN * 0 are NaN. Not masked_fill: it would lose
        # the weight's memory format.
        return weight.clone().masked_fill_(~self.weight_mask(), 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What an assignment ``conv.weight = weight`` stores: `weight`, masked."""
        return self.forward(weight)

    def weight_mask(self) -> Tensor:
        """The mask spread over the weights: bool ``[O, C, kH, kW]``, True keeps."""
        return expand_group_mask(self.mask, self._weight_shape, self.group)

    def pruned_weights(self) -> int:
        """How many weights the mask prunes."""
        return pruned_weights(self.mask, self._weight_shape, self.group)

    def density(self) -> float:
        """Share of the weights that the mask keeps, 0 to 1."""
        return 1.0 - self.pruned_weights() / torch.Size(self._weight_shape).numel()

    def extra_repr(self) -> str:
        """Group shape and density, for ``print(model)``."""
        return f"group={self.group}, density={self.density():.4f}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}group_shape")
        if saved is not None and saved.tolist() != self.group.as_list():
            # torch passes (local_metadata, strict, missing_keys, unexpected_keys, error_msgs).
            args[-1].append(
                f"{prefix}mask: saved for group {GroupShape(*saved.tolist())}, but this layer has "
                f"a companion mask of group {self.group}; attach the saved group shape first"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args)


def attach(conv: nn.Conv2d, group: GroupShape | Sequence[int] | str) -> CompanionMask:
    """Give `conv` a companion mask that keeps everything, or return the one that it has.

    The parameter keeps its identity, so an optimizer made before still trains it. In the
    ``state_dict`` it is then ``parametrizations.weight.original``; a saved mask is loaded into a
    model whose layers were attached first.

    Raises:
        TypeError: if `conv` is not an `nn.Conv2d`, or a subclass with a forward of its own.
        ValueError: if `group` is not a group shape, `conv` has a mask of another group shape, or
            its weight is computed by another parametrization.
    """
    shape = GroupShape.of(group)
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv: expected an nn.Conv2d, got {type(conv).__name__}")
    if not is_plain(conv):
        raise TypeError(
            f"conv: {type(conv).__name__} has a forward of its own, which need not use the weight "
            "as it is; expected a plain nn.Conv2d"
        )
    present = companion_mask(conv)
    if present is not None:
        if present.group != shape:
            raise ValueError(
                f"group: the layer already has a companion mask of group {present.group}, got "
                f"{shape}; detach it first or give {present.group}"
            )
        return present
    if parametrize.is_parametrized(conv, "weight"):
        raise ValueError(
            "conv: its weight is computed by another parametrization; remove that one first "
            "(torch.nn.utils.parametrize.remove_parametrizations)"
        )
    created = CompanionMask(conv.weight, shape)
    with _storage_left_alone(conv.weight):  # what it would be set to is what it holds
        parametrize.register_parametrization(conv, "weight", created)
    setattr(type(conv), "__deepcopy__", _copy_with_own_class)  # noqa: B010
    return created


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether `conv` computes just what `nn.Conv2d` does, so that a zero weight does nothing."""
    kind = type(conv)
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward


def companion_mask(conv: nn.Module) -> CompanionMask | None:
    """The companion mask of `conv`, or None if it has none."""
    if not parametrize.is_parametrized(conv, "weight"):
        return None
    found = (part for part in _parametrizations(conv) if isinstance(part, CompanionMask))
    return next(found, None)


def companion_masks(model: nn.Module) -> list[CompanionMask]:
    """Every companion mask in `model`, each once."""
    return [module for module in model.modules() if isinstance(module, CompanionMask)]


def raw_weight(conv: nn.Module) -> nn.Parameter:
    """The parameter that the optimizer trains: beneath the companion mask if there is one."""
    beneath = conv.weight if companion_mask(conv) is None else _parametrizations(conv).original
    return cast(nn.Parameter, beneath)


def extend(
    conv: nn.Conv2d, mask: Tensor, optimizer: torch.optim.Optimizer | None = None
) -> CompanionMask:
    """Prune more: the companion mask becomes ``old & mask``.

    Also writes zeros into the pruned weights of the parameter beneath and into their gradient.

    Args:
        conv: a layer with a companion mask.
        mask: bool, of the group grid's shape or of the weight's; True keeps. A group that is
            pruned already stays pruned, whatever `mask` says.
        optimizer: if given, the pruned weights' entries of every state tensor of the weight's
            shape (momentum, moments) become 0, so that nothing moves the parameter beneath. An
            `LBFGS` forgets everything: its history is of another function than is trained now.

    Returns:
        The companion mask.

    Raises:
        TypeError: if `mask` is not bool.
        ValueError: if `conv` has no companion mask, `mask` has another shape, or cuts through a
            group.
    """
    companion = _required_mask(conv)
    parameter = raw_weight(conv)
    kept = as_grid_mask(mask, parameter.shape, companion.group)
    with torch.no_grad():
        companion.mask &= kept.to(companion.mask.device)
        pruned = ~companion.weight_mask()
        parameter.masked_fill_(pruned, 0.0)
        if parameter.grad is not None:
            parameter.grad.masked_fill_(pruned, 0.0)
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.state.clear()
        state = {} if optimizer is None else optimizer.state.get(parameter, {})
        for entry in state.values():
            if isinstance(entry, Tensor) and entry.shape == parameter.shape:
                entry.masked_fill_(pruned.to(entry.device), 0)
    return companion


def detach(conv: nn.Conv2d) -> None:
    """Remove the companion mask; the plain weight keeps its zeros, and its parameter's identity.

    Raises:
        ValueError: if `conv` has no companion mask, or other parametrizations besides.
    """
    _required_mask(conv)
    others = len(_parametrizations(conv)) - 1
    if others:
        raise ValueError(
            f"conv: {others} other parametrizations of its weight would go with the companion "
            "mask; remove them first"
        )
    weight = raw_weight(conv)
    with torch.no_grad():
        weight.copy_(conv.weight)
    with _storage_left_alone(weight):
        parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)


def detach_all(model: nn.Module) -> None:
    """`detach` every companion mask in `model`; a model without any is left as it is."""
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d) and companion_mask(module) is not None:
            detach(module)


@contextmanager
def _storage_left_alone(weight: Tensor) -> Iterator[None]:
    """Keep torch from calling ``weight.set_``.

    That gives the parameter another node in autograd's graph, and the hooks by which
    DistributedDataParallel exchanges gradients stay with the old one.
    """
    weight.set_ = lambda _: weight  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del weight.set_


def _copy_with_own_class(conv: nn.Module, memo: dict[int, Any]) -> nn.Module:
    # torch gives a parametrized module a class of its own, which a deepcopy would share. Removing
    # the parametrization of the one deletes a property from that class and so breaks the other.
    shared = type(conv)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    own: type = type(shared.__name__, shared.__bases__, members)
    memo[id(conv)] = replica = cast(nn.Module, object.__new__(own))
    replica.__dict__ = copy.deepcopy(conv.__dict__, memo)
    return replica


def _required_mask(conv: nn.Conv2d) -> CompanionMask:
    companion = companion_mask(conv)
    if companion is None:
        raise ValueError(
            f"conv: this {type(conv).__name__} has no companion mask; attach(conv, group) first"
        )
    return companion


def _parametrizations(conv: nn.Module) -> parametrize.ParametrizationList:
    lists = cast(nn.ModuleDict, conv.parametrizations)
    return cast(parametrize.ParametrizationList, lists["weight"])
