# SPDX-License-Identifier: MIT
"""The kernels themselves."""
