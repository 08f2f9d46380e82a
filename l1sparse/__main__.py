# SPDX-License-Identifier: MIT
"""``python -m l1sparse``, which is how ``torchrun -m`` and ``accelerate launch -m`` start it."""

import sys

from l1sparse.cli import main

if __name__ == "__main__":
    sys.exit(main())
