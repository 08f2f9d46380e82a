# SPDX-License-Identifier: MIT
"""What is remembered of packed weights on a GPU, so that only the first call waits for it.

The first call with a packed tensor copies it to the host, checks it there completely, and keeps the
copy; plans for kernels are built from that copy, and kept on the GPU. All of it is forgotten with
the tensor, and built again when the tensor has changed in place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from l1sparse.gpu.device import is_capturing
from l1sparse.gpu.kept import kept_groups
from l1sparse.gpu.plan import Plan
from l1sparse.group_mask import expand_group_mask
from l1sparse.ops import packed_info


class GpuWeight:
    """A packed weight on the host, and what was made from it.

    Args:
        packed: ``[bytes]``, uint8, on any device.

    Raises:
        RuntimeError: if it is damaged or no packed weight; the message says in what.
    """

    def __init__(self, packed: Tensor) -> None:
        self.device = packed.device
        self.state = _state(packed)
        self._host = packed.to("cpu", copy=True)  # into memory of the alignment that is asked for
        self.numbers: list[int] = torch.ops.l1sparse.packed_info(self._host)
        """What ``l1sparse::packed_info`` gives."""
        self.info = packed_info(self._host)
        self._plans: dict[Hashable, Plan] = {}
        self._streams: dict[Hashable, set[int]] = {}
        self._dense: Tensor | None = None
        self._lock = threading.Lock()

    def plan(self, key: Hashable, build: Callable[[GpuWeight], Plan]) -> Plan:
        """The plan remembered as `key`, on this weight's device.

        Args:
            key: of everything but the weight that the plan depends on.
            build: makes it, on the host, if there is none yet.

        Raises:
            RuntimeError: if it has to be made while a CUDA graph is captured.
        """
        plan = self._plans.get(key)
        if plan is None:
            _check_not_capturing(self.device)
            with self._lock, torch.inference_mode(False):
                if key not in self._plans:
                    self._streams[key] = {_stream(self.device)}
                    self._plans[key] = build(self).to(self.device)
            plan = self._plans[key]
        self._hold_for_stream(key, plan)
        return plan

    @property
    def layouts(self) -> list[str]:
        """Of the plans that there are, each once."""
        return sorted({plan.layout for plan in self._plans.values()})

    def dense_on_host(self) -> tuple[Tensor, Tensor]:
        """The dense weight, float32, and the mask, bool, of its shape; checks every byte."""
        shape = self.info.weight_shape
        mask = kept_groups(self._host, self.info)
        weight = torch.ops.l1sparse.unpack(self._host, list(shape))
        return weight, expand_group_mask(mask, shape, self.info.group)

    def dense(self) -> Tensor:
        """The dense weight, float32, on this weight's device: a tensor of the caller's own."""
        if self._dense is None:
            _check_not_capturing(self.device)
            with torch.inference_mode(False):
                self._dense = self.dense_on_host()[0].to(self.device)
        return self._dense.clone()

    def _hold_for_stream(self, key: Hashable, plan: Plan) -> None:
        """See to it that memory is not given to others while another stream still reads it."""
        stream = _stream(self.device)
        if stream not in self._streams[key]:
            for tensor in plan.tensors():
                tensor.record_stream(torch.cuda.current_stream(self.device))
            self._streams[key].add(stream)


_weights = WeakTensorKeyDictionary()


def weight_of(packed: Tensor) -> GpuWeight:
    """What is known of `packed`; reads and checks it if it is new or has changed.

    Raises:
        RuntimeError: if it is damaged or no packed weight; or new, and a CUDA graph is captured.
    """
    known: GpuWeight | None = _weights.get(packed)
    if known is not None and known.state is not None and known.state == _state(packed):
        return known
    _check_not_capturing(packed.device)
    weight = GpuWeight(packed)
    _weights[packed] = weight
    return weight


def _state(packed: Tensor) -> tuple[int, int] | None:
    if packed.is_inference():
        return None  # such tensors count no changes: read again at every call
    return packed.data_ptr(), packed._version


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _check_not_capturing(device: torch.device) -> None:
    if is_capturing(device):
        raise RuntimeError(
            "packed: is new to the GPU, and can't be read while a CUDA graph is captured; call the "
            "operator once with the same arguments before"
        )
