# SPDX-License-Identifier: MIT
"""How results are shown."""
