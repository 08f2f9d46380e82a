# SPDX-License-Identifier: MIT
"""The operators as Triton kernels, for where the CUDA extension was not built.

Importing this package imports triton, which is an optional dependency (``l1sparse[triton]``).
"""
