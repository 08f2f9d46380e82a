# SPDX-License-Identifier: MIT
"""``l1sparse export-executorch``: a compressed file as a program for a device."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from torch import nn

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
    parser.add_argument("file", type=Path, help="the compressed file")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:NAME",
        help="what makes the dense network: a class or function without arguments",
    )
    parser.add_argument(
        "--input", required=True, type=_sizes, metavar="N,C,H,W", help="size of the input"
    )
    parser.add_argument("--output", required=True, type=Path, help="the .pte file to write")


def _run(options: argparse.Namespace) -> int:
    model = load(options.file, _network(options.model))
    export_executorch(model, torch.zeros(options.input), options.output)
    print(f"written: {options.output} ({options.output.stat().st_size / 1024:.0f} KiB)")
    return 0


def _network(name: str) -> nn.Module:
    module, _, attribute = name.partition(":")
    make = getattr(importlib.import_module(module), attribute, None) if attribute else None
    try:
        network = make() if callable(make) else None
    except TypeError as error:  # it wants arguments
        raise ValueError(f"--model: {name!r} can't be called: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"--model: {name!r} makes no torch.nn.Module, expected MODULE:NAME such as "
            "torchvision.models:resnet50"
        )
    return network


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(",") if part.strip().isdigit())
    if len(sizes) != 4 or text.count(",") != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected four sizes such as 1,3,224,224")
    return sizes
