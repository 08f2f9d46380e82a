# SPDX-License-Identifier: MIT
"""``l1sparse export-executorch``: a compressed file as a program for a device."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from l1sparse.cli.architecture import add_compressed_file, make_network
from l1sparse.cli.arguments import Commands, add_command
from l1sparse.convert import export_executorch, load


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "export-executorch",
        "write a compressed file as an ExecuTorch program (.pte)",
        "Reads a file of l1sparse.save() into its dense architecture and writes an ExecuTorch\n"
        "program: pruned convolutions on this project's kernels, the rest on XNNPACK.",
        "l1sparse export-executorch digits.l1s --model l1sparse.train:DigitsNet "
        "--input 1,1,28,28 --output digits.pte",
        _run,
        extra="executorch",
    )
    add_compressed_file(parser)
    parser.add_argument("--output", required=True, type=Path, help="the .pte file to write")


def _run(options: argparse.Namespace) -> int:
    model = load(options.file, make_network(options.model))
    export_executorch(model, torch.zeros(options.input), options.output)
    print(f"written: {options.output} ({options.output.stat().st_size / 1024:.0f} KiB)")
    return 0
