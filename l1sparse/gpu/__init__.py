# SPDX-License-Identifier: MIT
"""The operators on a GPU: plans of packed weights, checks, and the backends that launch kernels."""
