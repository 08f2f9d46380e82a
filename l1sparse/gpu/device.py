# SPDX-License-Identifier: MIT
"""What the operators need to know of the device that tensors are on."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

LEAST_CAPABILITY = (7, 5)
TENSOR_CORE_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Device:
    """A GPU, or what kernels are interpreted for."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int

    @property
    def has_tensor_cores(self) -> bool:
        """Whether the tensor-core kernels run: they need ``cp.async`` and ``mma.m16n8k16``."""
        return self.capability >= TENSOR_CORE_CAPABILITY


@functools.lru_cache(maxsize=64)
def describe(device: torch.device) -> Device:
    """What `device` is. Triton's interpreter, on any other device, is taken for an A100."""
    if device.type != "cuda":
        return Device("A100, interpreted", (8, 0), 108)
    properties = torch.cuda.get_device_properties(device)
    return Device(
        properties.name, (properties.major, properties.minor), properties.multi_processor_count
    )


def check_capability(name: str, device: torch.device) -> Device:
    """`describe`, for devices that kernels are there for.

    Args:
        name: of the argument that is there.
        device: where it is.

    Raises:
        RuntimeError: if the device is older; the message names both.
    """
    found = describe(device)
    if found.capability < LEAST_CAPABILITY:
        raise RuntimeError(
            f"{name}: is on {device} ({found.name}) of compute capability "
            f"{_version(found.capability)}, expected {_version(LEAST_CAPABILITY)} or later"
        )
    return found


def check_tensor_cores(device: torch.device, backend: str) -> None:
    """Check that tensor-core kernels run on `device`.

    Raises:
        RuntimeError: if not; the message names what asked for them.
    """
    found = describe(device)
    if not found.has_tensor_cores:
        raise RuntimeError(
            f"backend: {backend!r} needs compute capability {_version(TENSOR_CORE_CAPABILITY)} or "
            f"later, and {device} ({found.name}) has {_version(found.capability)}"
        )


def guard(device: torch.device) -> AbstractContextManager[object]:
    """Makes `device` the current one meanwhile, so that launches and streams are its own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_capturing(device: torch.device) -> bool:
    """Whether launches on `device` go into a CUDA graph now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _version(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
