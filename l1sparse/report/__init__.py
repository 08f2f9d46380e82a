# SPDX-License-Identifier: MIT
"""How results are shown: text tables, and a run as one HTML file."""

from l1sparse.report.patterns import pack_mask, unpack_mask, weight_histogram
from l1sparse.report.report import write_report
from l1sparse.report.run_folder import read_run
from l1sparse.report.table import table

__all__ = ["pack_mask", "read_run", "table", "unpack_mask", "weight_histogram", "write_report"]
