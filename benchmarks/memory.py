# SPDX-License-Identifier: MIT
"""How much memory a network takes: a process of its own loads it and runs it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, fx, nn

# Linux tells of the memory that a process has, and the most that it ever had.
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CALLS = 3


def traced(network: nn.Module) -> fx.GraphModule:
    """`network` as a graph that can be written to a file; they share their weights."""
    graph = fx.Tracer().trace(network)
    for node in graph.nodes:
        node.type = None  # a postponed annotation is a string, with which fx can't be pickled
    return fx.GraphModule(network, graph)


def peak_memory(network: fx.GraphModule, example: Tensor, threads: int) -> float | None:
    """Megabytes (10^6) that loading `network` and running it three times adds to a process.

    At most, at any time: weights, activations and working memory count, Python and torch do not.

    Args:
        network: it is written to a file for that process.
        example: its input.
        threads: for torch.

    Returns:
        None where the system does not tell (it has to be Linux).

    Raises:
        RuntimeError: if the process fails; the message is its own.
    """
    if not _RESET.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        torch.save((network, example), path)
        command = [sys.executable, __file__, str(path), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"memory.py: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def _resident(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def _main(path: str, threads: str) -> None:
    import l1sparse  # noqa: F401  # for its operators, and so that it does not count

    torch.set_num_threads(int(threads))
    _RESET.write_text("5")  # forgets the most so far
    before = _resident("VmRSS")
    network, example = torch.load(path, weights_only=False)  # of the process that started this one
    with torch.inference_mode():
        for _ in range(_CALLS):
            network(example)
    print((_resident("VmHWM") - before) / 1e6)


if __name__ == "__main__":
    _main(*sys.argv[1:])
