# SPDX-License-Identifier: MIT
"""`accelerate`: the pruned network as it runs fastest here, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from l1sparse.convert.measure import alternate
from l1sparse.convert.rewrite import (
    conv_names,
    following_relu,
    inference_copy,
    make_sparse,
    traced_and_folded,
)
from l1sparse.format import GroupShape
from l1sparse.nn import SparseConv2d

GroupLike = GroupShape | Sequence[int] | str

_CHOICES = "_l1sparse_choices"


@dataclass(frozen=True)
class LayerChoice:
    """What `accelerate` chose for one convolution, and why."""

    name: str
    group: str
    density: float
    """Kept weights over all weights at this group shape, 0 to 1."""
    dense_ms: float | None
    """Median time of one call, dense; None where it was not measured: nothing is pruned, or the
    weight is not float32 on the CPU."""
    sparse_ms: float | None
    choice: str
    """``"sparse"`` or ``"dense"``."""

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)


def accelerate(
    model: nn.Module,
    example_input: Tensor,
    group: GroupLike | Mapping[str, GroupLike] = (1, 8),
) -> nn.Module:
    """A copy of a pruned network for fast inference.

    Batch norm is folded into the convolution before it; each convolution with pruned groups runs
    on the native kernels, with a ReLU that follows it in the same pass, unless the dense
    convolution was measured to be faster on this machine, at the example's size and the number
    of threads that torch has now. Outputs stay within 1e-4 of the original's.

    A model that `torch.fx` can't trace keeps its batch norms and ReLUs; a warning says so.

    Args:
        model: any module; it is not changed. Its mode does not matter: the copy evaluates.
        example_input: a batch as the network will get it: the sizes and memory format to
            measure with.
        group: channel-group shape, for all layers or by layer name; a `SparseConv2d` and
            a layer that carries a companion mask keep their own.

    Returns:
        The fast module. `layer_choices` tells what was chosen; `l1sparse.save` writes it.

    Raises:
        TypeError: if `model` is no module or `example_input` no tensor.
        ValueError: if `group` names no group shape, or a layer that does not exist.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected torch.nn.Module")
    if not isinstance(example_input, Tensor):
        raise TypeError(f"example_input: got {type(example_input).__name__}, expected a tensor")
    groups = _group_of_each_layer(model, group)
    fast = inference_copy(model)
    try:
        fast = traced_and_folded(fast)
    except Exception as error:  # fx raises whatever the model's own code does with a proxy
        warnings.warn(
            f"{type(model).__name__} can't be traced ({error}): its convolutions are replaced, "
            "but its batch norms are not folded and its ReLUs not fused",
            stacklevel=2,
        )
    names = conv_names(fast)
    inputs = _inputs_of(fast, names, example_input)
    choices = []
    with torch.no_grad():
        for name in names:
            if name in inputs:
                choices.append(_choose(fast, name, groups[name], inputs[name]))
    setattr(fast, _CHOICES, choices)
    return fast


def layer_choices(fast: nn.Module) -> list[LayerChoice]:
    """What `accelerate` chose for each convolution, in the network's order.

    Raises:
        ValueError: if `fast` does not come from `accelerate`.
    """
    choices = getattr(fast, _CHOICES, None)
    if choices is None:
        raise ValueError(f"fast: this {type(fast).__name__} is no result of accelerate()")
    return list(choices)


def _choose(model: nn.Module, name: str, group: GroupShape, input: Tensor) -> LayerChoice:
    """Replace the convolution if that is faster; `model` changes then."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    sparse = SparseConv2d.from_dense(conv, group)
    density = sparse.density
    native = conv.weight.dtype == torch.float32 and conv.weight.device.type == "cpu"
    if density == 1.0 or not native:
        return LayerChoice(name, str(group), density, None, None, "dense")
    fuse_relu = isinstance(model, fx.GraphModule) and following_relu(model, name) is not None

    def dense_call() -> Tensor:
        output = conv(input)
        return torch.relu_(output) if fuse_relu else output

    sparse.activation = "relu" if fuse_relu else "none"
    sparse.eval().drop_dense_weight()  # as it will run: packed before the clock starts
    times = alternate({"dense": dense_call, "sparse": lambda: sparse(input)})
    dense_ms, sparse_ms = times["dense"].median, times["sparse"].median
    if sparse_ms < dense_ms:
        make_sparse(model, name, group, fuse_relu).eval().drop_dense_weight()
    choice = "sparse" if sparse_ms < dense_ms else "dense"
    return LayerChoice(name, str(group), density, dense_ms, sparse_ms, choice)


def _group_of_each_layer(
    model: nn.Module, group: GroupLike | Mapping[str, GroupLike]
) -> dict[str, GroupShape]:
    by_name = group if isinstance(group, Mapping) else {}
    default = GroupShape() if isinstance(group, Mapping) else GroupShape.of(group)
    shapes = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        shapes[name] = GroupShape.of(by_name[name]) if name in by_name else default
        if isinstance(module, SparseConv2d):
            shapes[name] = module.group
        if parametrize.is_parametrized(module, "weight"):
            for parametrization in module.parametrizations.weight:  # type: ignore[union-attr]
                if isinstance(getattr(parametrization, "group", None), GroupShape):
                    shapes[name] = parametrization.group
    unknown = sorted(set(by_name) - set(shapes))
    if unknown:
        raise ValueError(f"group: names {unknown}, which are no nn.Conv2d layers of the model")
    return shapes


def _inputs_of(model: nn.Module, names: list[str], example_input: Tensor) -> dict[str, Tensor]:
    """What each convolution gets when the network runs on the example."""
    inputs: dict[str, Tensor] = {}

    def remember(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.setdefault(name, args[0] if args else kwargs["input"])

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: remember(name, args, kwargs),
            with_kwargs=True,
        )
        for name in names
    ]
    try:
        with torch.inference_mode():
            model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return inputs
