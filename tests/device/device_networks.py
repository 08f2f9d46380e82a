# SPDX-License-Identifier: MIT
"""Networks that tests name on the command line."""

from __future__ import annotations

from l1sparse.train import DigitsNet


def digits() -> DigitsNet:
    return DigitsNet((8, 16, 16))
