# SPDX-License-Identifier: MIT
"""Command-line arguments of the benchmarks, and how these end: 0, 1 (failed), 2 (used wrongly)."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from l1sparse import GroupShape
from l1sparse.cli.arguments import count
from l1sparse.gpu.backend import resolve
from suites import SUITES

# What random masks are made of unless arguments say.
GROUPS = [GroupShape(1, 8)]
SPARSITIES = [0.5, 0.75, 0.9]

Run = Callable[[Any, argparse.Namespace], None]


class OneLineParser(argparse.ArgumentParser):
    """Its errors take one line, without the usage."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        line = " ".join(message.removeprefix("argument ").split())
        self.exit(2, f"{self.prog}: {line}\n")


class Parser(OneLineParser):
    """Has the flags that every benchmark that measures takes."""

    def __init__(self, prog: str, description: str, examples: str, suites: bool = True) -> None:
        super().__init__(prog, description, examples)
        self.add_argument(
            "--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)"
        )
        if suites:
            self.add_argument(
                "--suite", choices=SUITES, default="demo", help="layers (default: %(default)s)"
            )
        self.add_argument(
            "--threads",
            type=thread_count,
            default=1,
            metavar="N",
            help="of torch; a single one is held to one core (default: %(default)s)",
        )
        self.add_argument(
            "--rounds",
            type=count,
            default=21,
            metavar="N",
            help="turns of each candidate (default: %(default)s)",
        )
        self.add_argument(
            "--seed", type=int, default=0, metavar="N", help="of all randomness (default: 0)"
        )
        self.add_argument(
            "--json", type=output_file, metavar="FILE", help="write rows and totals there"
        )


def run_benchmark(parser: OneLineParser, run: Run, arguments: Sequence[str] | None) -> int:
    """Parse, run, and turn what went wrong into a line on stderr.

    Args:
        parser: of the benchmark.
        run: the benchmark.
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit status: 0, 1 for an error, 130 where the user interrupted.

    Raises:
        SystemExit: with 2, where arguments are wrong.
    """
    try:
        options = parser.parse_args(arguments)
        if isinstance(parser, Parser):
            check_device(parser, options.device)
        run(parser, options)
        return 0
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130


def check_device(parser: OneLineParser, device: str) -> None:
    """Exit where `device` is not to be had."""
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        parser.error(f"--device {device}: no CUDA GPU is available to this torch")
    try:
        resolve("auto")
    except RuntimeError as error:
        parser.error(f"--device {device}: this build of l1sparse has no CUDA kernels: {error}")


def add_masks(parser: argparse.ArgumentParser, group: str = "1x8") -> None:
    """Add ``--group`` and ``--sparsity``; both are None where they are not given.

    Args:
        parser: of the benchmark.
        group: what its help names as the default.
    """
    parser.add_argument(
        "--group",
        type=groups,
        metavar="SHAPES",
        help=f"filters x channels, with commas between them (default: {group})",
    )
    parser.add_argument(
        "--sparsity",
        type=fractions,
        metavar="SHARES",
        help="of groups pruned at random, 0 to 1 (default: 0.5,0.75,0.9)",
    )


def groups(text: str) -> list[GroupShape]:
    """``1x8,4x4`` as group shapes, each once."""
    try:
        return list(dict.fromkeys(GroupShape.of(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected group shapes such as 1x8,4x4 (filters x channels, at least 1)"
        ) from None


def fractions(text: str) -> list[float]:
    """``0.5,0.9`` as numbers from 0 to 1, each once."""
    try:
        values = list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        values = []
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected fractions from 0 to 1 such as 0.5,0.9"
        )
    return values


def thread_count(text: str) -> int:
    """A number of threads that this machine runs at once."""
    value, cores = count(text), os.cpu_count() or 1
    if value > cores:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected at most this machine's {cores}")
    return value


def input_file(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    return path


def add_plot(parser: argparse.ArgumentParser, drawn: str) -> None:
    """Add ``--plot``, whose picture shows what `drawn` says."""
    parser.add_argument("--plot", type=_plot_file, metavar="FILE", help=f"draw {drawn}, a PNG")


def _plot_file(text: str) -> Path:
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("needs matplotlib; pip install 'l1sparse[benchmark]'")
    return output_file(text)


def output_file(text: str) -> Path:
    """A file that can be made: known before minutes are spent on what goes into it."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} can't be written")
    return path
