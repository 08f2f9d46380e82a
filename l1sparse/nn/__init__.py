# SPDX-License-Identifier: MIT
"""Modules that run on the native operators."""

from l1sparse.nn.sparse_conv2d import SparseConv2d

__all__ = ["SparseConv2d"]
