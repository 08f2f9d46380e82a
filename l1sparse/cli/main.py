# SPDX-License-Identifier: MIT
"""The command line as a whole: which commands there are, and how errors are told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from l1sparse.cli import (
    demo,
    export_executorch,
    export_onnx,
    info,
    inspect,
    plan,
    prune,
    report,
    sensitivity,
    train,
)

_COMMANDS = (
    train,
    sensitivity,
    plan,
    prune,
    report,
    inspect,
    export_onnx,
    export_executorch,
    demo,
    info,
)
_PACKAGES_OF_EXTRAS = ("accelerate", "executorch", "matplotlib", "mlxtend", "onnx", "PIL", "tqdm")
_INTERRUPTED = 130  # as shells count a program that SIGINT ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit status: 0 for success, 1 for an error that was printed, 130 if it was
        interrupted. (`argparse` itself exits with 2 at a wrong argument.)
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ModuleNotFoundError as error:
        ours = options.extra is not None and error.name in _PACKAGES_OF_EXTRAS
        extra = f"; pip install 'l1sparse[{options.extra}]'" if ours else ""
        print(f"l1sparse: this needs the package {error.name!r}{extra}", file=sys.stderr)
        return 1
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"l1sparse: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("l1sparse: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="l1sparse",
        description="Channel-group pruning and group-sparse convolution for PyTorch.",
        epilog="example: l1sparse demo --output demo.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
