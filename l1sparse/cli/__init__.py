# SPDX-License-Identifier: MIT
"""The command ``l1sparse``: one file a command; `main` finds them."""

from l1sparse.cli.main import main

__all__ = ["main"]
