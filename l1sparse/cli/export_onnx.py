# SPDX-License-Identifier: MIT
"""``l1sparse export-onnx``: a compressed file as standard ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from l1sparse.cli.architecture import add_compressed_file, make_network
from l1sparse.cli.arguments import Commands, add_command
from l1sparse.convert import export_onnx, load


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "export-onnx",
        "write a compressed file as standard ONNX",
        "Reads a file of l1sparse.save() into its dense architecture and writes standard ONNX:\n"
        "weights dense, zeros where groups are pruned, what is pruned in the metadata. The batch\n"
        "size is free, the image size that of --input.",
        "l1sparse export-onnx digits.l1s --model l1sparse.train:DigitsNet "
        "--input 1,1,28,28 --output digits.onnx",
        _run,
        extra="runtimes",
    )
    add_compressed_file(parser)
    parser.add_argument("--output", required=True, type=Path, help="the .onnx file to write")


def _run(options: argparse.Namespace) -> int:
    model = load(options.file, make_network(options.model))
    export_onnx(model, torch.zeros(options.input), options.output)
    print(f"written: {options.output} ({options.output.stat().st_size / 1024:.0f} KiB)")
    return 0
