# SPDX-License-Identifier: MIT
"""What public documents say of a few GPUs, for the model of `l1sparse.gpu.model`.

Tensor-core rates are those of dense matrices (not "with sparsity") and of sums in float32. A rate
that no document of the maker gives is None and limits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TERA, GIGA, MIB = 1e12, 1e9, 2**20


@dataclass(frozen=True)
class Chip:
    """A GPU's limits, operations a second counting a multiply-add as two."""

    name: str
    capability: tuple[int, int]
    sms: int
    """Streaming multiprocessors."""
    clock: float
    """Hertz, boost: what `tensor` is given for."""
    tensor: Mapping[str, float]
    """Operations a second of the tensor cores, by the inputs' dtype; float32 runs as TF32."""
    simt: float
    """Operations a second of the float32 units."""
    dram: float
    """Bytes a second."""
    l2_bytes: int
    l2_bytes_per_clock: int | None
    """Read by all multiprocessors together."""
    mma_sync: float = 1.0
    """Share of `tensor` that ``mma.sync`` reaches; a dense library may use other instructions."""

    @property
    def runs_tensor_layout(self) -> bool:
        """Whether the tensor-core kernels run: they need ``cp.async`` and ``mma.m16n8k16``."""
        return self.capability >= (8, 0)

    @property
    def l2(self) -> float | None:
        """Bytes a second that the L2 cache gives out, or None where it is not published."""
        per_clock = self.l2_bytes_per_clock
        return None if per_clock is None else per_clock * self.clock

    @property
    def wavefronts(self) -> float:
        """Shared-memory accesses a second: one of 128 bytes a clock and multiprocessor.

        CUDA C++ Programming Guide, "Shared Memory": 32 banks of 32 bits a clock.
        """
        return self.sms * self.clock


def _tensor(half: float, tf32: float) -> dict[str, float]:
    return {"float16": half * TERA, "bfloat16": half * TERA, "float32": tf32 * TERA}


_T4 = Chip(
    name="T4",
    # NVIDIA Turing GPU Architecture whitepaper (WP-09183-001), table of Tesla T4: 40 SMs, boost
    # 1590 MHz, FP16 tensor 65 TFLOPS, FP32 8.1 TFLOPS, 320 GB/s, L2 4096 KiB; no BF16, no TF32.
    capability=(7, 5),
    sms=40,
    clock=1.590 * GIGA,
    tensor={"float16": 65.1 * TERA},
    simt=8.1 * TERA,
    dram=320 * GIGA,
    l2_bytes=4 * MIB,
    l2_bytes_per_clock=None,
)
_A100 = Chip(
    name="A100",
    # NVIDIA A100 Tensor Core GPU Architecture whitepaper, table 1: 108 SMs, boost 1410 MHz,
    # FP16/BF16 tensor 312 TFLOPS, TF32 156 TFLOPS, FP32 19.5 TFLOPS, L2 40960 KiB; in the text,
    # "L2 cache read bandwidth" 5120 bytes/clk. DRAM: A100 80GB SXM datasheet, 2039 GB/s.
    capability=(8, 0),
    sms=108,
    clock=1.410 * GIGA,
    tensor=_tensor(312, 156),
    simt=19.5 * TERA,
    dram=2039 * GIGA,
    l2_bytes=40 * MIB,
    l2_bytes_per_clock=5120,
)
_H100 = Chip(
    name="H100",
    # NVIDIA H100 Tensor Core GPU Architecture whitepaper, table of the SXM5: 132 SMs, boost 1830
    # MHz for the tensor cores, FP16/BF16 989.4 TFLOPS, TF32 494.7 TFLOPS, FP32 66.9 TFLOPS, 3352
    # GB/s, L2 50 MB. L2 bandwidth is not published: an assumption, A100's 5120 bytes/clk. mma.sync,
    # not from NVIDIA: 62.9 % of the peak that wgmma reaches, arXiv 2402.13499 cited from memory.
    capability=(9, 0),
    sms=132,
    clock=1.830 * GIGA,
    tensor=_tensor(989.4, 494.7),
    simt=66.9 * TERA,
    dram=3352 * GIGA,
    l2_bytes=50 * MIB,
    l2_bytes_per_clock=5120,
    mma_sync=0.629,
)
_RTX_4090 = Chip(
    name="RTX 4090",
    # NVIDIA Ada GPU Architecture whitepaper, appendix A: 128 SMs, boost 2520 MHz, FP16/BF16 tensor
    # with FP32 accumulate 165.2 TFLOPS, TF32 82.6 TFLOPS, FP32 82.6 TFLOPS, 1008 GB/s, L2 73728
    # KiB.
    capability=(8, 9),
    sms=128,
    clock=2.520 * GIGA,
    tensor=_tensor(165.2, 82.6),
    simt=82.6 * TERA,
    dram=1008 * GIGA,
    l2_bytes=72 * MIB,
    l2_bytes_per_clock=None,
)
_ORIN = Chip(
    name="Orin",
    # NVIDIA Jetson AGX Orin Series technical brief (64GB module): 16 SMs, 1.3 GHz, FP32 5.3 TFLOPS,
    # 170 sparse INT8 TOPS = 85 dense, so FP16 42.6 TFLOPS (half of INT8) and TF32 half of that, as
    # in GA100; 204.8 GB/s, L2 4 MB.
    capability=(8, 7),
    sms=16,
    clock=1.300 * GIGA,
    tensor=_tensor(42.6, 21.3),
    simt=5.3 * TERA,
    dram=204.8 * GIGA,
    l2_bytes=4 * MIB,
    l2_bytes_per_clock=None,
)

CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in (_T4, _A100, _H100, _RTX_4090, _ORIN)}


def chip_like(name: str, capability: tuple[int, int]) -> Chip:
    """The chip whose figures stand for a device's.

    A device that is none of `CHIPS` is taken for the one of its family: before 8.0 the T4, 8.0 the
    A100, 8.7 and 11.0 (modules with shared memory) Orin, 9 and 10 (data centre) the H100, all
    others the RTX 4090. That is enough to choose a layout with; it is no forecast for that device.

    Args:
        name: as `torch.cuda.get_device_name` has it.
        capability: as `torch.cuda.get_device_capability` has it.
    """
    for chip in CHIPS.values():
        if chip.name in name and chip.capability == tuple(capability):
            return chip
    if capability < (8, 0):
        return _T4
    if capability == (8, 0):
        return _A100
    if capability in ((8, 7), (11, 0)):
        return _ORIN
    return _H100 if capability[0] in (9, 10) else _RTX_4090
