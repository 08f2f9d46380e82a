# SPDX-License-Identifier: MIT
"""Arguments that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Commands = Any  # argparse's own type for it has no public name


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    description: str,
    example: str,
    run: Callable[[argparse.Namespace], int],
    extra: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command whose ``--help`` ends with an example.

    Args:
        commands: what ``add_subparsers`` gave.
        name: of the command.
        summary: half a line, for the list of commands.
        description: for its own help.
        example: a command line that works.
        run: from parsed arguments to exit status.
        extra: the package's extra that it needs.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, extra=extra)
    return parser


def add_network_and_data(parser: argparse.ArgumentParser) -> None:
    """Add what names a network and its data."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="module:function that gives the network, or a name of torchvision's, such as resnet50",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights to start from: a .safetensors file or a state_dict of torch.save",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="folder with train/ and val/, one folder of images a class in each (ILSVRC-2012's "
        "layout); folder with IDX files (MNIST's); or module:function that gives two data sets",
    )
    parser.add_argument(
        "--image-size",
        type=count,
        default=224,
        metavar="PIXELS",
        help="of the images of a folder (default: 224)",
    )
    parser.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        help="do not crop, mirror or move training images at random",
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out images that cannot be read"
    )
    parser.add_argument("--cpu", action="store_true", help="use no GPU")


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add where a run is kept and how it goes on."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="of the run: checkpoints and results",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in that folder"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=minutes,
        default=10.0,
        metavar="M",
        help="most time between checkpoints within a round (default: 10; 0: after each step)",
    )


def count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number of at least 1")
    return value


def minutes(text: str) -> float:
    """A number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0.0:
        raise argparse.ArgumentTypeError(f"got {text}, expected a number of at least 0")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"got {text}, expected a fraction from 0 to 1")
    return value


def setting(text: str) -> tuple[str, Any]:
    """``name=value``, the value as YAML reads it."""
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"got {text}, expected name=value, such as momentum=0.9")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"got {text}, the value is no YAML") from error
    if isinstance(found, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 takes 5e-4 for a word
            found = float(found)
    return name, found
