# SPDX-License-Identifier: MIT
"""What was built, and which instruction set kernels run on."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch

from l1sparse import _C
from l1sparse.version import installed_version

FORCE_VARIABLE = "L1SPARSE_FORCE_ARCH"


def build_info() -> dict[str, Any]:
    """What this installation has.

    Returns:
        ``version``; ``compiled`` and ``usable`` (lists of instruction sets, best first: built in,
        and of these the ones that this processor runs); ``chosen`` (the one kernels run on,
        which is the first but for `avx512_bf16` on Intel's processors, where it is slow);
        ``torch`` (its version); ``cuda`` (bool, whether GPU kernels were built) and
        ``cuda_reason`` (why not, or nothing).
    """
    reason = _cuda_reason()
    return {
        "version": installed_version(),
        "compiled": _C.compiled_isas(),
        "usable": _C.usable_isas(),
        "chosen": _C.selected_isa(),
        "torch": torch.__version__,
        "cuda": not reason,
        "cuda_reason": reason,
    }


def force_arch(name: str) -> None:
    """Run all kernels on the instruction set called `name`; an empty name frees the choice.

    Raises:
        ValueError: if `name` is unknown or this processor can't run it; nothing changes then.
    """
    if not _C.select_isa(name):
        raise ValueError(
            f"{FORCE_VARIABLE}: got {name!r}, expected one of the instruction sets usable here: "
            f"{', '.join(_C.usable_isas())}"
        )


def force_arch_from_environment() -> None:
    """Obey ``L1SPARSE_FORCE_ARCH``, read once when the package is imported."""
    force_arch(os.environ.get(FORCE_VARIABLE, ""))


def _cuda_reason() -> str:
    try:
        importlib.import_module("l1sparse._cuda")
    except ImportError as error:
        # The build wrote it where it left the module out.
        written = Path(__file__).with_name("_cuda_reason.txt")
        return written.read_text().strip() if written.exists() else str(error)
    return ""
