# SPDX-License-Identifier: MIT
"""Time of pruned networks on this machine, from the weights that the runs left in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fashion_cells import Cell
from fashion_training import make_network
from json_files import write_json
from l1sparse.convert import accelerate
from l1sparse.convert.dense import dense_variants
from l1sparse.convert.measure import alternate

BATCHES = (1, 64)
_ROUNDS, _ROUND_SECONDS = 21, 0.01


def measure_cells(cells: Sequence[Cell], seed: int, cache: Path, results: Path) -> None:
    """Write ``times.json``: milliseconds of a forward pass, dense ways and each cell in turns.

    Cells whose weights are not in the cache are left out.
    """
    found = [cell for cell in cells if (cache / f"{cell.name(seed)}.safetensors").exists()]
    dense = _network(cache / f"dense-{seed}-start.safetensors")
    networks = {cell: _network(cache / f"{cell.name(seed)}.safetensors") for cell in found}
    record: dict[str, Any] = {"seed": seed, "threads": torch.get_num_threads(), "batches": {}}
    for batch in BATCHES:
        images = torch.randn(batch, 1, 28, 28).contiguous(memory_format=torch.channels_last)
        record["batches"][str(batch)] = _times(dense, networks, seed, images)
    write_json(results / "times.json", record)


def _times(
    dense: nn.Module, networks: dict[Cell, nn.Module], seed: int, images: Tensor
) -> dict[str, float]:
    with torch.no_grad():
        calls = dict(dense_variants(dense, images))
        for cell, network in networks.items():
            fast = accelerate(network, images, cell.group)
            calls[cell.name(seed)] = partial(fast, images)
        timings = alternate(calls, _ROUNDS, _ROUND_SECONDS)
    return {name: timing.median for name, timing in timings.items()}


def _network(path: Path) -> nn.Module:
    network = make_network()
    network.load_state_dict(load_file(path))
    return network.eval()
