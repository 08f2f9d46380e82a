# SPDX-License-Identifier: MIT
"""Launches a kernel with whichever of a handful of configurations is fastest for its shape.

Configurations differ in speed only: a kernel adds in the same order with each of them, so results
do not depend on which one won.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton

from l1sparse.gpu.device import is_capturing

# Where a load needs another one's result, as activations need a column's place, Triton shares the
# stages between the two: of 7, 3 are for activations, of 5, 2, and of 4 only one.
CONV2D_DOT = (
    triton.Config({"PIXELS": 128, "COLUMNS": 2}, num_warps=4, num_stages=7),
    triton.Config({"PIXELS": 128, "COLUMNS": 4}, num_warps=4, num_stages=5),
    triton.Config({"PIXELS": 64, "COLUMNS": 2}, num_warps=2, num_stages=7),
    triton.Config({"PIXELS": 64, "COLUMNS": 4}, num_warps=2, num_stages=7),
    triton.Config({"PIXELS": 32, "COLUMNS": 4}, num_warps=1, num_stages=7),
)
CONV2D_SIMT = (
    triton.Config({"PIXELS": 512}, num_warps=4),
    triton.Config({"PIXELS": 256}, num_warps=4),
    triton.Config({"PIXELS": 128}, num_warps=4),
    triton.Config({"PIXELS": 64}, num_warps=2),
)


class Tuned:
    """A kernel and its configurations.

    Args:
        kernel: of ``@triton.jit``.
        configs: to choose from. Triton's interpreter, where time means nothing, takes the first.
        key: names of the arguments that make up a shape; each new one is timed once.
    """

    def __init__(self, kernel: Any, configs: Sequence[triton.Config], key: Sequence[str]) -> None:
        self.configs, self.key = tuple(configs), tuple(key)
        self.kernel = kernel
        self._tuner: Any = None
        if isinstance(kernel, triton.JITFunction):  # and not the interpreter's
            self._tuner = triton.autotune(list(configs), list(key))(kernel)
        self._seen: set[tuple[Any, ...]] = set()

    def launch(
        self,
        device: torch.device,
        dtype: torch.dtype,
        grid: Callable[[dict[str, Any]], tuple[int, ...]],
        arguments: dict[str, Any],
    ) -> None:
        """Launch on the current stream of `device`, the current device.

        Args:
            device: see above.
            dtype: of the input.
            grid: programs for the configuration's values.
            arguments: of the kernel, by name.

        Raises:
            RuntimeError: if the shape is new and a CUDA graph is captured.
        """
        if self._tuner is None:
            values = {**arguments, **self.configs[0].kwargs}
            self.kernel[grid(values)](**values)
            return
        shape = (device, dtype, *(arguments[name] for name in self.key))
        if shape not in self._seen:
            if is_capturing(device):
                raise RuntimeError(
                    "input: this shape is new to Triton, which can't time kernels while a CUDA "
                    "graph is captured; call the operator once with the same arguments before"
                )
            self._seen.add(shape)
        self._tuner[grid](**arguments)
