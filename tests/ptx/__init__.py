# SPDX-License-Identifier: MIT
"""An interpreter for the PTX of this project's kernels, in numpy."""

from .counts import Counts
from .errors import Hazard, PtxError
from .launch import Report, launch
from .memory import Memory
from .parse import Module

__all__ = ["Counts", "Hazard", "Memory", "Module", "PtxError", "Report", "launch"]
