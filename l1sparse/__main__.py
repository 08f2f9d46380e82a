# SPDX-License-Identifier: MIT
"""``python -m l1sparse``, which is how ``torchrun -m`` and ``accelerate launch -m`` start it."""

import os
import sys

from l1sparse.cli import main

if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # One of several processes ends without the interpreter's own end, in which gloo's threads
        # may still let go of a tensor of Python's: that aborts (torch 2.14). All files are closed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
