# SPDX-License-Identifier: MIT
"""What a process runs that is to be a command line. Not in a conftest.py, of which there are many
by one name: the process has to find it."""

from __future__ import annotations

import contextlib
import sys

import torch

from l1sparse.cli import main


def run_command(arguments: list[str], log: str) -> None:
    torch.set_num_threads(1)
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.exit(main(arguments))
