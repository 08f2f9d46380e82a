# SPDX-License-Identifier: MIT
"""``l1sparse inspect``: what a compressed file holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from l1sparse.cli.arguments import Commands, add_command
from l1sparse.convert import summarize


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "inspect",
        "print what a compressed file holds",
        "Prints the format version, what wrote the file, each packed layer, the tensors that are\n"
        "stored dense, and the sizes. Every packed weight is checked; the network is not needed.",
        "l1sparse inspect fast.safetensors",
        _run,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of l1sparse.save()")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def _run(options: argparse.Namespace) -> int:
    summary = summarize(options.file)
    print(json.dumps(summary.to_dict(), indent=2) if options.json else summary)
    return 0
