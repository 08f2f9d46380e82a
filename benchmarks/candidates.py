# SPDX-License-Identifier: MIT
"""The convolutions that are timed, dense and ours, and what their outputs have to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from suites import Layer

Call = Callable[[], Tensor]

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Candidate:
    """One way to compute a layer."""

    name: str
    make: Callable[[], Call]
    """Makes a call that has its input and weight for itself."""
    bytes: int
    """Of these."""

    def calls(self, cache_bytes: int) -> list[Call]:
        """One call, or as many as it takes for their inputs and weights to exceed a cache."""
        number = cache_bytes // self.bytes + 1 if cache_bytes else 1
        return [self.make() for _ in range(number)]


def dense_candidates(
    layer: Layer, input: Tensor, weight: Tensor, dtype: torch.dtype
) -> list[Candidate]:
    """The four ways in which torch runs a dense convolution, see ``docs/benchmarks.md``.

    Args:
        layer: what to compute.
        input: ``[N, C, H, W]``.
        weight: ``[O, C, kH, kW]``.
        dtype: to compute in.
    """
    input, weight = input.to(dtype), weight.to(dtype)
    suffix = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    size = input.nbytes + weight.nbytes
    return [
        Candidate(f"{way} {layout}{suffix}", partial(make, layer, input, weight, layout), size)
        for way, make in (("eager", eager), ("prepacked", _prepacked))
        for layout in LAYOUTS
    ]


def our_candidates(
    layer: Layer, input: Tensor, packed: Tensor, layouts: Sequence[str]
) -> list[Candidate]:
    """`sparse_conv2d` on an input in each of `layouts`, its output in the same.

    Args:
        layer: what to compute.
        input: ``[N, C, H, W]``.
        packed: the packed weight.
        layouts: of `LAYOUTS`; the candidates have these names.
    """
    size = input.nbytes + packed.nbytes
    return [
        Candidate(layout, partial(_ours, layer, input, packed, layout), size) for layout in layouts
    ]


def rotating(calls: list[Call]) -> Call:
    """A call that makes each of `calls` in turn."""
    if len(calls) == 1:
        return calls[0]
    turns = cycle(calls)
    return lambda: next(turns)()


def sparse_conv2d(input: Tensor, packed: Tensor, layer: Layer) -> Call:
    """A call of the operator itself, without the Python around it, as a compiled network's."""
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    operator = torch.ops.l1sparse.sparse_conv2d.default
    return partial(operator, input, packed, layer.weight_shape, None, stride, padding)


def last_isa() -> str:
    """The instruction set that the last `sparse_conv2d` ran on."""
    return str(torch.ops.l1sparse._last_conv2d_isa())


def eager(layer: Layer, input: Tensor, weight: Tensor, layout: str) -> Call:
    """`F.conv2d` on copies in `layout`."""
    weight = _copy(weight, layout)
    return partial(F.conv2d, _copy(input, layout), weight, None, layer.stride, layer.padding)


def _prepacked(layer: Layer, input: Tensor, weight: Tensor, layout: str) -> Call:
    """OneDNN with its weight reordered once, as `torch.compile` with frozen weights runs it."""
    geometry = ([layer.padding] * 2, [layer.stride] * 2, [1, 1], 1)
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight.default
    reordered = reorder(weight.to_mkldnn(), *geometry, list(input.shape))
    operator = torch.ops.mkldnn._convolution_pointwise.default
    return partial(operator, _copy(input, layout), reordered, None, *geometry, "none", [], "")


def _ours(layer: Layer, input: Tensor, packed: Tensor, layout: str) -> Call:
    return sparse_conv2d(_copy(input, layout), packed.clone(), layer)


def _copy(tensor: Tensor, layout: str) -> Tensor:
    return tensor.clone(memory_format=LAYOUTS[layout])


class WrongOutputError(RuntimeError):
    """A candidate computed something else."""


@dataclass(frozen=True)
class Reference:
    """What a layer's output is, in float64, and how far off a computed one may be."""

    value: Tensor
    magnitude: Tensor
    """Sum of the products' absolute values: rounding errors are in proportion to it."""

    @classmethod
    def of(cls, layer: Layer, input: Tensor, weight: Tensor) -> Reference:
        """The reference for the values that `input` and `weight` have in their own dtype."""
        x, w = input.double(), weight.double()
        return cls(
            F.conv2d(x, w, None, layer.stride, layer.padding),
            F.conv2d(x.abs(), w.abs(), None, layer.stride, layer.padding),
        )

    def check(self, output: Tensor, *, dense: bool, sums: float = 2.0**-20) -> None:
        """Compare an output.

        Sums may be off by `sums` of the magnitude, and values by half a unit in the last place of
        the output's dtype. Dense convolutions in 16 bits may sum in 16 bits as well.

        Raises:
            WrongOutputError: if the output is further off, or of another shape.
        """
        if output.shape != self.value.shape:
            raise WrongOutputError(
                f"has shape {list(output.shape)}, expected {list(self.value.shape)}"
            )
        rounding = 0.0
        if output.dtype != torch.float32:
            unit = torch.finfo(output.dtype).eps
            sums, rounding = (max(unit, sums) if dense else sums), unit / 2
        bound = sums * self.magnitude + rounding * self.value.abs()
        error = (output.double() - self.value).abs()
        if not bool((error <= bound).all()):  # also where it is NaN
            raise WrongOutputError(f"is off by up to {error.max().item():.3g}")
