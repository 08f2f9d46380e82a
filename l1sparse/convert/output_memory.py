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

    That is the size of the first call, and then any that comes twice in a row. The memory belongs
    to one call at a time: others that run meanwhile, and inputs of other sizes, get none and take
    theirs from torch.

    Args:
        lives: of these outputs.
        hooks: of all modules that return or read them: while there are any, which could keep a
            tensor, there is no memory.
    """

    def __init__(self, lives: Sequence[Life], hooks: Sequence[Mapping[int, Any]]) -> None:
        self._lives, self._hooks = lives, hooks
        self.nothing: Sequence[Tensor | None] = [None] * len(lives)
        self._last: Any = None
        self._plan: _Plan | None = None

    def take(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None] | None:
        """A tensor for each output, to be given back; `nothing`; or None: `plan` has to be called.

        Args:
            inputs: of the network.
        """
        if not self._lives or any(self._hooks):
            return self.nothing
        size = _size(inputs)
        repeated, self._last = size == self._last, size
        plan = self._plan
        if plan is None or size != plan.size:
            wanted = plan is None or repeated
            return None if wanted and all(x.is_cpu for x in inputs) else self.nothing
        try:
            return plan.free.pop()
        except IndexError:  # another call has it
            return self.nothing

    def give_back(self, views: Sequence[Tensor | None]) -> None:
        """Take back what `take` gave."""
        plan = self._plan
        if plan is not None and views is plan.views:
            plan.free.append(plan.views)

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
        self._plan = _Plan(_size(inputs), views, [views])
        return result


@dataclass(frozen=True)
class _Plan:
    """The outputs for inputs of one size, in a list that is empty while a call has them."""

    size: Any
    views: list[Tensor]
    free: list[list[Tensor]]


def _size(inputs: Sequence[Tensor]) -> Any:
    return [(x.shape, x.stride(), x.dtype, x.device) for x in inputs]


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
