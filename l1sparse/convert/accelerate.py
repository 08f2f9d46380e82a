# SPDX-License-Identifier: MIT
"""`accelerate`: the pruned network as it runs fastest here, layer by layer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from l1sparse.convert.choice import LayerChoice, explain_choices
from l1sparse.convert.measure import alternate
from l1sparse.convert.memory_format import FORMATS, set_format, set_sparse_format
from l1sparse.convert.network import FastNetwork
from l1sparse.convert.rewrite import (
    conv_inputs,
    conv_names,
    inference_copy,
    make_sparse,
    optimised_graph,
    remember,
    sparse_like,
)
from l1sparse.format import GroupShape
from l1sparse.nn import DenseConv2d, SparseConv2d
from l1sparse.ops import DTYPES

GroupLike = GroupShape | Sequence[int] | str

_ROUNDS = 7
_CHOICES = "_l1sparse_choices"


def accelerate(
    model: nn.Module,
    example_input: Tensor,
    group: GroupLike | Mapping[str, GroupLike] = (1, 8),
) -> nn.Module:
    """A copy of a pruned network for fast inference.

    Batch norm is folded into the convolution before it; ReLU, ReLU6, clamp, Hardswish and the
    residual add that follow a convolution run in the same pass. Each convolution with pruned
    groups runs on the native kernels, unless the fastest of torch's own (eager, or oneDNN with
    its weight reordered once) was measured to be faster on this machine, at the example's size
    and the number of threads that torch has now. The network as a whole runs as NCHW,
    channels_last, or a mix of both, whichever was measured faster, whatever its input is. Other
    sizes of input work; they are not measured again. Outputs stay within 1e-4 of the original's in
    float32. Networks in bfloat16 and float16 run in these types, with weights rounded to them when
    batch norm is folded; other types stay dense.

    A model that `torch.fx` can't trace keeps its batch norms and activations as they are, and runs
    in the example's memory format; a warning says so.

    Args:
        model: any module; it is not changed. Its mode does not matter: the copy evaluates.
        example_input: a batch as the network will get it: the sizes to measure with.
        group: channel-group shape, for all layers or by layer name; a `SparseConv2d` and
            a layer that carries a companion mask keep their own.

    Returns:
        The fast module. `layer_choices` tells what was chosen, and the module's ``explain()``
        says it as a table; `l1sparse.save` writes the module.

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
        fast = optimised_graph(fast)
    except Exception as error:  # fx raises whatever the model's own code does with a proxy
        warnings.warn(
            f"{type(model).__name__} can't be traced ({error}): its convolutions are replaced, "
            "but its batch norms are not folded and nothing is fused with them",
            stacklevel=2,
        )
        return _accelerated(fast, example_input, groups)
    if example_input.dim() != 4:
        return _accelerated(fast, example_input, groups)
    candidates: dict[str, nn.Module] = {}
    for name in FORMATS:
        network = copy.deepcopy(fast)
        set_format(network, name)
        candidates[name] = _accelerated(network, example_input, groups, name)
    with torch.inference_mode():
        times = alternate(
            {name: partial(network, example_input) for name, network in candidates.items()}
        )
    return candidates[min(times, key=lambda name: times[name].median)]


def layer_choices(fast: nn.Module) -> list[LayerChoice]:
    """What `accelerate` chose for each convolution, in the network's order.

    Raises:
        ValueError: if `fast` does not come from `accelerate`.
    """
    choices = getattr(fast, _CHOICES, None)
    if choices is None:
        raise ValueError(f"fast: this {type(fast).__name__} is no result of accelerate()")
    return list(choices)


def _accelerated(
    fast: nn.Module,
    example_input: Tensor,
    groups: dict[str, GroupShape],
    memory_format: str | None = None,
) -> nn.Module:
    """Choose for every convolution of `fast`, which is changed."""
    names = conv_names(fast)
    inputs = conv_inputs(fast, names, example_input)
    sparse_format = torch.preserve_format if memory_format is None else FORMATS[memory_format][0]
    choices = []
    with torch.no_grad():
        for name in names:
            if name in inputs:
                choices.append(_choose(fast, name, groups[name], inputs[name], sparse_format))
    if memory_format is not None:
        assert isinstance(fast, fx.GraphModule)
        sparse = {choice.name for choice in choices if choice.choice == "sparse"}
        set_sparse_format(fast, memory_format, sparse)
        fast = FastNetwork.of(fast)
    explain = partial(explain_choices, choices, memory_format)
    remember(fast, **{_CHOICES: choices, "explain": explain})
    return fast


def _choose(
    model: nn.Module,
    name: str,
    group: GroupShape,
    inputs: tuple[Any, ...],
    sparse_format: torch.memory_format,
) -> LayerChoice:
    """Replace the convolution called `name` by whatever runs it fastest."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    calls: dict[str, Callable[[], Tensor]] = {"dense": partial(conv, *inputs)}
    if isinstance(conv, DenseConv2d):
        prepacked = DenseConv2d(conv, conv.activation, conv.clamp, "prepacked")
        if prepacked.can_be_prepacked(inputs[0]):
            calls["dense, prepacked"] = partial(prepacked, *inputs)
    sparse = sparse_like(conv, group)
    density = sparse.density
    native = conv.weight.dtype in DTYPES and conv.weight.device.type == "cpu"
    if density < 1.0 and native:
        sparse.eval().drop_dense_weight()  # as it will run: packed before the clock starts
        converted = [
            x.contiguous(memory_format=sparse_format) if isinstance(x, Tensor) else x
            for x in inputs
        ]
        calls["sparse"] = partial(sparse, *converted)
    if len(calls) == 1:
        reason = "nothing is pruned" if density == 1.0 else _not_native(conv)
        return LayerChoice(name, str(group), density, None, None, "dense", reason)
    times = {way: timing.median for way, timing in alternate(calls, rounds=_ROUNDS).items()}
    best = min(times, key=lambda way: times[way])
    if best == "sparse":
        make_sparse(model, name, group).eval().drop_dense_weight()
    elif best != "dense":
        model.set_submodule(name, prepacked)
    dense_ms = min(ms for way, ms in times.items() if way != "sparse")
    sparse_ms = times.get("sparse")
    reason = "nothing is pruned" if density == 1.0 else "measured faster"
    return LayerChoice(name, str(group), density, dense_ms, sparse_ms, best.split(",")[0], reason)


def _not_native(conv: nn.Conv2d) -> str:
    return f"no kernels for {str(conv.weight.dtype).removeprefix('torch.')} on {conv.weight.device}"


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
