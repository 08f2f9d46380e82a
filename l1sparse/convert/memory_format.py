# SPDX-License-Identifier: MIT
"""In which memory format a network runs: native kernels and torch's own prefer different ones."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx, nn

from l1sparse.convert.rewrite import remember

_NAME = "_l1sparse_memory_format"
NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last

FORMATS = {
    "NCHW": (NCHW, NCHW),
    "channels_last": (CHANNELS_LAST, CHANNELS_LAST),
    "NCHW, dense layers channels_last": (NCHW, CHANNELS_LAST),
}
"""What `accelerate` tries: the format of what sparse convolutions read, and of everything else."""


def set_format(model: fx.GraphModule, name: str) -> None:
    """Run `model` in one of `FORMATS`, whatever the format of its input; it is changed.

    What sparse convolutions read is for `set_sparse_format`, once it is known which these are.
    """
    dense_format = FORMATS[name][1]
    model.to(memory_format=dense_format)  # type: ignore[call-overload]
    convert_inputs(model, None, dense_format)
    remember(model, **{_NAME: name})


def memory_format_of(model: nn.Module) -> str | None:
    """In which of `FORMATS` the whole of `model` runs; None where that was not set."""
    return getattr(model, _NAME, None)


def set_sparse_format(model: fx.GraphModule, name: str, sparse: Collection[str]) -> None:
    """Convert what the convolutions called `sparse` read to the format that they want."""
    convert_inputs(model, sparse, FORMATS[name][0])


def convert_inputs(
    model: fx.GraphModule, layers: Collection[str] | None, memory_format: torch.memory_format
) -> None:
    """Convert what some layers read, once for all that read it; `model` is changed.

    Where a tensor has the format already, converting it costs nothing.

    Args:
        model: a traced network.
        layers: names of modules of which all arguments are converted, unless they come from
            another of them; None: the network's first input.
        memory_format: the format to convert to.
    """
    if layers is None:
        producers = [next(node for node in model.graph.nodes if node.op == "placeholder")]
        readers = set(producers[0].users)
    else:
        readers = {n for n in model.graph.nodes if n.op == "call_module" and n.target in layers}
        producers = [
            node
            for node in model.graph.nodes
            if node not in readers and not readers.isdisjoint(node.users)
        ]
    for producer in producers:
        with model.graph.inserting_after(producer):
            converted = model.graph.call_method(
                "contiguous", (producer,), {"memory_format": memory_format}
            )
        for reader in readers.intersection(producer.users):
            reader.replace_input_with(producer, converted)
    model.graph.lint()
    model.recompile()
