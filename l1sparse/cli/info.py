# SPDX-License-Identifier: MIT
"""``l1sparse info``."""

from __future__ import annotations

import argparse
import json

from l1sparse.build import build_info
from l1sparse.cli.arguments import Commands, add_command


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "info",
        "print what was built and which instruction set is used",
        "Prints the versions, the instruction sets built in and the one in use.",
        "l1sparse info --json",
        _run,
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def _run(options: argparse.Namespace) -> int:
    info = build_info()
    if options.json:
        print(json.dumps(info, indent=2))
        return 0
    for name, value in info.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        print(f"{name:<9} {text}")
    return 0
