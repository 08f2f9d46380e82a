# SPDX-License-Identifier: MIT
"""The CUDA backend over something that stands in for its extension, on tensors of the CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from l1sparse.gpu import backend


@contextmanager
def cuda_over(extension: Any, device: int) -> Iterator[tuple[Any, pytest.MonkeyPatch]]:
    """The backend's module, imported over `extension`, and what undoes changes at the end.

    Args:
        extension: stands in for ``l1sparse._cuda``.
        device: number of the GPU on which every tensor is said to lie.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(sys.modules, "l1sparse._cuda", extension)
        monkeypatch.setattr("l1sparse._cuda", extension, raising=False)
        monkeypatch.delitem(sys.modules, "l1sparse.gpu.cuda", raising=False)
        backend.resolve.cache_clear()
        module = importlib.import_module("l1sparse.gpu.cuda")

        def target(tensor: Any) -> dict[str, Any]:
            return {"device": device, "stream": 7, "dtype": str(tensor.dtype)[len("torch.") :]}

        monkeypatch.setattr(module, "_target", target)
        try:
            yield module, monkeypatch
        finally:
            backend.resolve.cache_clear()
            sys.modules.pop("l1sparse.gpu.cuda", None)
