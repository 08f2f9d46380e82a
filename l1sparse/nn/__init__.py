# SPDX-License-Identifier: MIT
"""Modules that run on the native operators."""

from l1sparse.nn.dense_conv2d import DenseConv2d
from l1sparse.nn.sparse_conv2d import SparseConv2d

__all__ = ["DenseConv2d", "SparseConv2d"]
