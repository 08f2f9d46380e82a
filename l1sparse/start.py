# SPDX-License-Identifier: MIT
"""What importing the package does once torch is wanted: importing this module does it."""

from __future__ import annotations

from l1sparse.build import force_arch_from_environment
from l1sparse.gpu.dispatch import register

force_arch_from_environment()
register()
