# SPDX-License-Identifier: MIT
"""Where a network's convolutions put their outputs: where memory is still in the caches.

An allocator gives an output of a new size a place that was last used a whole network ago, so that
writing it first fetches old contents from main memory. Planned, an output takes the place of ones
that nothing reads any more: ResNet-50's fill 5 MB in all instead of 12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

# Cache lines, and vectors of any instruction set.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Life:
    """An output's node, and where in the graph it is computed and last read."""

    name: str
    first: int
    last: int


class OutputMemory:
    """Memory for outputs that never leave the network, for one size of input.

    It belongs to one call at a time: others that run meanwhile, and inputs of other sizes, get
    none and take theirs from torch.

    Args:
        lives: of these outputs.
        hooks: of all modules that return or read them: while there are any, which could keep a
            tensor, there is no memory.
    """

    def __init__(self, lives: Sequence[Life], hooks: Sequence[Mapping[int, Any]]) -> None:
        self._lives, self._hooks = lives, hooks
        self.nothing: Sequence[Tensor | None] = [None] * len(lives)
        self._free: list[Sequence[Tensor]] = []
        self._inputs: Any = None

    def is_to_be_planned(self, inputs: Sequence[Tensor]) -> bool:
        """Whether a call with these inputs should be made by `plan`."""
        plain = all(x.is_cpu for x in inputs) and not any(self._hooks)
        return self._inputs is None and plain and len(self._lives) > 0

    def plan(self, model: fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        """Run `model`, and plan for inputs of this size from now on."""
        run = _OutputsSeen(model, {life.name for life in self._lives})
        result = run.run(*inputs)
        outputs = [run.seen[life.name] for life in self._lives]
        sizes = [x.numel() * x.element_size() for x in outputs]
        offsets, total = place(self._lives, sizes)
        with torch.inference_mode(False):  # so that it can be written to in any mode
            memory = torch.empty(total + _ALIGNMENT, dtype=torch.uint8)
            start = -memory.data_ptr() % _ALIGNMENT
            views = [
                memory[start + offset :][:size].view(x.dtype).as_strided(x.shape, x.stride())
                for offset, size, x in zip(offsets, sizes, outputs, strict=True)
            ]
        self._free, self._inputs = [views], _description(inputs)
        return result

    def take(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """A tensor for each output, to be given back; or `nothing`."""
        if not self._free or _description(inputs) != self._inputs or any(self._hooks):
            return self.nothing
        try:
            return self._free.pop()
        except IndexError:  # another thread was faster
            return self.nothing

    def give_back(self, views: Sequence[Tensor | None]) -> None:
        """Take back what `take` gave."""
        if views is not self.nothing:
            self._free.append(views)  # type: ignore[arg-type]


def place(lives: Sequence[Life], sizes: Sequence[int]) -> tuple[list[int], int]:
    """Places for things of these sizes, of which those that live at the same time do not overlap.

    The largest first, each at the lowest place that is free for as long as it lives (Pisarchyk and
    Lee, "Efficient Memory Management for Deep Neural Net Inference", greedy by size).

    Returns:
        The places, all multiples of 64, and the end of the last one.
    """
    offsets = [0] * len(lives)
    placed: list[int] = []
    for i in sorted(range(len(lives)), key=lambda i: -sizes[i]):
        for other in sorted(placed, key=lambda other: offsets[other]):
            apart = lives[i].last < lives[other].first or lives[other].last < lives[i].first
            if not apart and offsets[i] + sizes[i] > offsets[other]:
                end = offsets[other] + sizes[other]
                offsets[i] = max(offsets[i], -(-end // _ALIGNMENT) * _ALIGNMENT)
        placed.append(i)
    return offsets, max((offsets[i] + sizes[i] for i in placed), default=0)


class _OutputsSeen(fx.Interpreter):
    """Remembers what nodes of these names return, without the data."""

    def __init__(self, model: fx.GraphModule, names: set[str]) -> None:
        super().__init__(model)
        self.names = names
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.seen[n.name] = result.to("meta")
        return result


def _description(inputs: Sequence[Tensor]) -> Any:
    return [(x.shape, x.stride(), x.dtype) for x in inputs]
