# SPDX-License-Identifier: MIT
"""What runs the operators on a GPU: the CUDA extension or Triton, and which of them is taken."""

from __future__ import annotations

import functools
import importlib
from typing import Protocol

import torch
from torch import Tensor

from l1sparse.format import GroupShape
from l1sparse.gpu.layout import LAYOUTS, Layout
from l1sparse.gpu.plan import Plan
from l1sparse.gpu.problem import Conv2dProblem

MODULES = {"cuda": "l1sparse.gpu.cuda", "triton": "l1sparse.triton.backend"}
"""Best first. Importing one fails where it can't run."""
REMEDY = (
    "install a build of l1sparse with L1SPARSE_CUDA=1, or triton (pip install 'l1sparse[triton]')"
)


class Backend(Protocol):
    """Runs checked problems. All tensors are on one device, which is the current one."""

    name: str
    layouts: tuple[str, ...]
    """Of `LAYOUTS` those that it has kernels for."""

    def plan(
        self, layout: Layout, weight: Tensor, mask: Tensor, groups: int, dtype: torch.dtype
    ) -> Plan:
        """A weight in the order in which this backend's kernels read it; see `gpu.plan`."""

    def conv2d(
        self,
        problem: Conv2dProblem,
        plan: Plan,
        input: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        """The output, in the input's memory format; `bias` is contiguous float32."""

    def group_l1_norm(self, weight: Tensor, group: GroupShape) -> Tensor:
        """The group norms of a contiguous weight."""


@functools.lru_cache(maxsize=64)
def resolve(backend: str) -> tuple[Backend, str | None]:
    """The backend that `backend` names, and the layout that it forces, if any.

    Args:
        backend: ``"auto"``, ``"cuda"`` or ``"triton"``, with ``"/"`` and one of `LAYOUTS` after it
            where a layout is forced.

    Raises:
        RuntimeError: if there is no such backend, or it can't run here; the message says why, and
            what to install.
    """
    name, slash, layout = backend.partition("/")
    if (name != "auto" and name not in MODULES) or (slash and layout not in LAYOUTS):
        raise RuntimeError(
            f"backend: got {backend!r}, expected 'auto', 'cuda' or 'triton', with "
            f"{', '.join(f'/{layout}' for layout in LAYOUTS)} after it to force a layout"
        )
    reasons = []
    for candidate in MODULES if name == "auto" else (name,):
        try:
            module = importlib.import_module(MODULES[candidate])
        except ImportError as error:
            reasons.append(f"{candidate}: {error}")
        else:
            runner: Backend = module.BACKEND
            if not layout or layout in runner.layouts:
                return runner, layout or None
            reasons.append(f"{candidate}: has no kernel for layout {layout!r}")
    raise RuntimeError(
        f"backend: {backend!r} can't run on a GPU here ({'; '.join(reasons)}); {REMEDY}"
    )


@functools.lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether any backend can run here."""
    try:
        resolve("auto")
    except RuntimeError:
        return False
    return True
