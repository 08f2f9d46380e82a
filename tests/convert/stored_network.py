# SPDX-License-Identifier: MIT
"""The network of the files in ``data/``, which later releases have to go on reading.

The files were written once, by ``python stored_network.py FOLDER``, and are not to be written
again: a change of the format gets a file of its own beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import l1sparse
from l1sparse.convert.accelerate import accelerate
from l1sparse.convert.measure import Timing
from l1sparse.pruning import attach, extend

DATA = Path(__file__).with_name("data")


class StoredNetwork(nn.Module):
    """What a file can say: folded, fused, a residual, sparse layers of two groups, dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.first = nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 24, 3, padding=1)
        self.third = nn.Conv2d(24, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.clamp(self.first_norm(self.first(x)), -1.0, 2.0)
        x = torch.relu(self.second(x) + x)
        return self.head(self.third(x).mean((2, 3)))


def _write(folder: Path) -> None:
    torch.manual_seed(7)
    network = StoredNetwork()
    for _ in range(3):
        network(torch.randn(8, 3, 12, 12))  # batch norm gets statistics that matter
    for name, group in (("first", (1, 8)), ("second", (4, 4)), ("third", (1, 8))):
        conv = network.get_submodule(name)
        attach(conv, group)
        grid = l1sparse.GroupShape.of(group).grid(conv.weight.shape)
        extend(conv, torch.rand(grid) < 0.3)

    def alternate(calls: dict[str, object], rounds: int = 0) -> dict[str, Timing]:
        """Says that the stem is fastest prepacked, the first two sparse, the third dense."""
        fastest = {2: "dense, prepacked", 3: "sparse"}[min(3, len(calls))]
        if "sparse" in calls and calls["sparse"].func.kernel_size == (1, 1):  # type: ignore[attr-defined]
            fastest = "dense"
        return {name: Timing(1.0 if name == fastest else 2.0, 0, 0) for name in calls}

    accelerate.__globals__["alternate"] = alternate
    example = torch.randn(2, 3, 12, 12)
    fast = accelerate(network, example)
    l1sparse.save(fast, folder / "version-1.safetensors")
    l1sparse.save(fast, folder / "version-2.safetensors", dtype=torch.float16)
    with torch.inference_mode():
        save_file({"input": example, "output": fast(example)}, folder / "expected.safetensors")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
