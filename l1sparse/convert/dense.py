# SPDX-License-Identifier: MIT
"""The dense network in every form that torch runs fast: what speedups are measured against."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse


def dense_variants(model: nn.Module, example: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Calls that run `model` on `example` in each of torch's own ways, ready to be timed.

    Eager and with batch norm folded, each as NCHW and channels_last; TorchScript optimised for
    inference (oneDNN, weights reordered once); `torch.compile` with frozen weights. A form that
    does not work here is left out, and a warning says why.

    Args:
        model: in evaluation mode; not changed.
        example: a batch ``[N, C, H, W]``.
    """
    channels_last = example.contiguous(memory_format=torch.channels_last)

    def script() -> Callable[[Tensor], Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(copy.deepcopy(model), example)
            return torch.jit.optimize_for_inference(traced)

    def compiled() -> Callable[[Tensor], Tensor]:
        return torch.compile(copy.deepcopy(model), options={"freezing": True})

    def as_channels_last(network: nn.Module) -> nn.Module:
        result: nn.Module = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return result

    builders: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], Tensor]] = {
        "eager": (lambda: model, example),
        "eager, channels_last": (lambda: as_channels_last(model), channels_last),
        "folded": (lambda: fuse(model), example),
        "folded, channels_last": (lambda: as_channels_last(fuse(model)), channels_last),
        "TorchScript, optimised": (script, example),
        "torch.compile, frozen": (compiled, example),
    }
    variants: dict[str, Callable[[], Tensor]] = {}
    for name, (build, input) in builders.items():
        try:
            with torch.no_grad():
                network = build()
                for _ in range(3):  # compilers work at the first calls
                    network(input)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(f"dense variant {name!r} does not run here: {reason}", stacklevel=2)
            continue
        variants[name] = partial(network, input)
    return variants
