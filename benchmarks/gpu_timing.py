# SPDX-License-Identifier: MIT
"""Timing on a GPU that compares: CUDA graphs between CUDA events, candidates in turn, medians."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from l1sparse.convert.measure import Timing, summary

Call = Callable[[], object]

WARM_UP = 3
"""Calls before anything else: plans are made, kernels loaded, cuDNN and Triton choose theirs."""
MOST_REPEATS = 256
"""Calls in a graph."""
LEAST_FLUSH_BYTES = 64 << 20


class Event(Protocol):
    """A point on the GPU's own clock."""

    def record(self) -> object:
        """Mark the point that the stream reaches next."""

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds to `end`; both have to have been reached."""


class Gpu(Protocol):
    """What timing needs of a GPU."""

    device: torch.device

    def event(self) -> Event:
        """A new event."""

    def graph(self, call: Call, repeats: int) -> Call:
        """A call that makes `repeats` of `call`, launched all at once.

        Raises:
            RuntimeError: if `call` can't be captured.
        """

    def flush(self) -> None:
        """Fill the L2 cache with something else, without waiting."""

    def wait(self) -> None:
        """Until the GPU has done all."""

    def guard(self) -> AbstractContextManager[object]:
        """Makes the GPU the current one."""

    def describe(self) -> dict[str, Any]:
        """What every record of times has to say about it."""


@dataclass(frozen=True)
class Replay:
    """A candidate, ready to be timed."""

    run: Call
    repeats: int
    """Calls of the candidate that `run` makes."""
    call: Call | None = None
    """The candidate itself: a graph reads its tensors where they were, and does not keep them."""


def prepare(gpu: Gpu, call: Call, turn_ms: float, *, flushed: bool, graphs: bool = True) -> Replay:
    """Warm a candidate up and capture it.

    Args:
        gpu: to run on.
        call: what to time.
        turn_ms: about how long `Replay.run` takes, if `call` is shorter and may be repeated.
        flushed: whether it will be timed with the L2 cache flushed: then it is one call.
        graphs: False makes the calls one by one, with what the host needs for each.

    Raises:
        RuntimeError: if it does not run or can't be captured.
    """
    for _ in range(WARM_UP):
        call()
    gpu.wait()
    repeats = 1
    if not flushed:
        once = _elapsed(gpu, call)
        repeats = min(MOST_REPEATS, max(1, round(turn_ms / max(once, 1e-6))))
    if graphs:
        return Replay(gpu.graph(call, repeats), repeats, call)

    def one_by_one() -> None:
        for _ in range(repeats):
            call()

    return Replay(one_by_one, repeats)


def alternate(
    gpu: Gpu, candidates: Mapping[str, Replay], rounds: int, *, flushed: bool
) -> dict[str, Timing]:
    """Time candidates in turn, A B A B, so that a drift of clocks hits all alike.

    What comes before the first event keeps the GPU busy until all of the turn is launched, so that
    no launch is timed: a flush of the L2 cache, or a run that is not timed, which also leaves the
    cache as the candidate itself leaves it and not as another one did.

    Args:
        gpu: to run on.
        candidates: results of `prepare`, by name.
        rounds: how many turns each gets.
        flushed: whether the L2 cache is flushed before each turn.

    Returns:
        Per name, the time of one call.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, replay in candidates.items():
            if flushed:
                gpu.flush()
            else:
                replay.run()
            samples[name].append(_elapsed(gpu, replay.run) / replay.repeats)
    return {name: summary(values) for name, values in samples.items()}


def _elapsed(gpu: Gpu, call: Call) -> float:
    start, end = gpu.event(), gpu.event()
    start.record()
    call()
    end.record()
    gpu.wait()
    return start.elapsed_time(end)


class CudaGpu:
    """torch's current CUDA device."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._properties: Any = torch.cuda.get_device_properties(self.device)
        size = max(2 * self._properties.L2_cache_size, LEAST_FLUSH_BYTES)
        self._other = torch.zeros(size // 4, device=self.device)
        self._sum = torch.zeros((), device=self.device)

    def event(self) -> Event:
        """See `Gpu.event`."""
        return cast(Event, torch.cuda.Event(enable_timing=True))

    def graph(self, call: Call, repeats: int) -> Call:
        """See `Gpu.graph`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                call()
        return cast(Call, graph.replay)

    def flush(self) -> None:
        """See `Gpu.flush`. Reads: written lines would have to go to DRAM on somebody's time."""
        torch.sum(self._other, dim=0, out=self._sum)

    def wait(self) -> None:
        """See `Gpu.wait`."""
        torch.cuda.synchronize(self.device)

    def guard(self) -> AbstractContextManager[object]:
        """See `Gpu.guard`."""
        return torch.cuda.device(self.device)

    def describe(self) -> dict[str, Any]:
        """See `Gpu.describe`."""
        return {
            "gpu": self._properties.name,
            "capability": f"{self._properties.major}.{self._properties.minor}",
            "multiprocessors": self._properties.multi_processor_count,
            "memory_bytes": self._properties.total_memory,
            "l2_bytes": self._properties.L2_cache_size,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nvidia_smi": nvidia_smi(),
        }


NVIDIA_SMI_FIELDS = (
    "name,driver_version,vbios_version,pstate,persistence_mode,ecc.mode.current,mig.mode.current,"
    "temperature.gpu,power.draw,power.limit,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,"
    "clocks_throttle_reasons.active"
)


def nvidia_smi() -> list[dict[str, str]]:
    """What ``nvidia-smi`` says of each GPU; empty where it can't be asked."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={NVIDIA_SMI_FIELDS}", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_nvidia_smi(text.stdout)


def parse_nvidia_smi(text: str) -> list[dict[str, str]]:
    """Lines of values as ``{field: value}``, one a GPU."""
    names = NVIDIA_SMI_FIELDS.split(",")
    lines = [line for line in text.splitlines() if line.strip()]
    return [dict(zip(names, map(str.strip, line.split(",")), strict=False)) for line in lines]


def gpu_headline(machine: Mapping[str, Any]) -> str:
    """`Gpu.describe` in a line."""
    smi = machine.get("nvidia_smi") or [{}]
    driver = smi[0].get("driver_version", "unknown")
    return (
        f"{machine['gpu']}, compute capability {machine['capability']}, driver {driver}, "
        f"CUDA {machine['cuda']}, cuDNN {machine['cudnn']}, torch {machine['torch']}"
    )


@contextmanager
def cudnn_benchmark(*, tf32: bool) -> Iterator[None]:
    """CuDNN measures which of its kernels is fastest; float32 convolutions in TF32, or not."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    cudnn.benchmark, cudnn.conv.fp32_precision = True, "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.conv.fp32_precision = before
