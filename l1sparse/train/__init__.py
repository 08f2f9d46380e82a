# SPDX-License-Identifier: MIT
"""Training for the command line; the library takes training as callables and needs none of this."""

from l1sparse.train.digits import DigitsNet, load_digits
from l1sparse.train.fit import Trainer

__all__ = ["DigitsNet", "Trainer", "load_digits"]
