# SPDX-License-Identifier: MIT
"""``l1sparse report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from l1sparse.cli.arguments import Commands, add_command


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "report",
        "show a run of pruning as one HTML file",
        "Reads result.json in the folder of a run and writes report.html, which needs no network,\n"
        "and report.json, the same data.",
        "l1sparse report runs/pruned",
        _run,
        extra="train",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="of `l1sparse prune`")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the HTML file (default: report.html in the folder)",
    )


def _run(options: argparse.Namespace) -> int:
    from l1sparse.report.report import write_report
    from l1sparse.report.run_folder import REPORT, read_run

    path = write_report(read_run(options.folder), options.output or options.folder / REPORT)
    print(f"written: {path}")
    return 0
