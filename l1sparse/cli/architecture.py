# SPDX-License-Identifier: MIT
"""A compressed file and the dense network that it is of, as commands that export take them."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from torch import nn


def add_compressed_file(parser: argparse.ArgumentParser) -> None:
    """Add the file, its architecture and the size of the input."""
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


def make_network(name: str) -> nn.Module:
    """The network that ``module:name`` makes.

    Raises:
        ImportError: if there is no such module.
        ValueError: if it makes no network.
    """
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
