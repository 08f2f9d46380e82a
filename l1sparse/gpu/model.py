# SPDX-License-Identifier: MIT
"""The least time that a convolution can take on a GPU, from counts: a floor, not a forecast.

A kernel's work is counted (`tensor_core_work`, `compressed_work`, `simt_work`, `dense_work`) and
each count divided by the rate at which a chip can do it at best; the floor is the longest of these
times. What a floor leaves out: launches (counted, see `Work.launches`, not timed), latencies, waves
of blocks that do not fill the chip, index arithmetic, clocks below boost. A kernel takes longer
than its floor, and a ratio of two floors is no speedup.

What a dense library re-reads on the chip is not counted, because its tiles are not ours to know:
that makes dense floors lower, and ratios smaller, than they would otherwise be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from l1sparse.format import GroupShape
from l1sparse.gpu.cells import Kept, KeptAtRandom
from l1sparse.gpu.chips import Chip

Pair = tuple[int, int]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MMA_FILTERS, MMA_PIXELS = 16, 8
MMA_CHANNELS = {"float32": 8, "bfloat16": 16, "float16": 16}
"""K of ``mma.m16n8k8`` on TF32 and of ``mma.m16n8k16``: one is done a kept tile and 8 pixels."""
TILE_BYTES = 512
"""Of a packed 16-filter tile: 32 lanes x 16 bytes, TF32 or 16-bit."""
PIECE_BYTES = 16
"""Of what is kept or pruned by itself where weights are compressed: half a row of a tile."""
COLUMN_BYTES = {"tensor_core": 20, "compressed": 36, "simt": 28}
"""Index bytes a column: position and tile offset; `compressed` has a mask of 32 pieces for each of
four strips besides, SIMT one of 64 filters."""
CHUNKS = (8, 4, 1)
"""Channels that a SIMT column may have."""
WAVEFRONT = 128
"""Bytes that shared memory moves a clock."""


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolution, activations channels_last."""

    batch: int
    weight_shape: tuple[int, int, int, int]
    """``(O, C / groups, kH, kW)``."""
    size: Pair
    """Height and width of the input."""
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    dtype: str = "float16"

    @property
    def output_size(self) -> Pair:
        """Height and width of the output."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                self.size,
                self.weight_shape[2:],
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        )
        return height, width

    @property
    def pixels(self) -> int:
        """Of all images' outputs."""
        height, width = self.output_size
        return self.batch * height * width

    @property
    def read_pixels(self) -> int:
        """Of all images' inputs, without those that no tap meets, as of 1x1 with stride 2."""
        number = self.batch
        for axis in range(2):
            taps = range(self.weight_shape[2 + axis])
            met = {
                output * self.stride[axis] + tap * self.dilation[axis] - self.padding[axis]
                for output in range(self.output_size[axis])
                for tap in taps
            }
            number *= len([position for position in met if 0 <= position < self.size[axis]])
        return number

    @property
    def flops(self) -> int:
        """Operations of the dense convolution, a multiply-add counted as two."""
        out, channels, height, width = self.weight_shape
        return 2 * self.pixels * out * channels * height * width


@dataclass(frozen=True)
class Tiling:
    """How one of our kernels cuts a convolution into blocks of threads."""

    filters: int
    """Of a block of threads; a column of activations is brought in once for them all."""
    pixels: int
    warp_filters: int
    """Of one warp; it reads a column from shared memory once for them all."""
    warp_pixels: int


# Of csrc/kernels/conv2d/*.cu.
TENSOR_CORE_TILINGS = (
    Tiling(filters=64, pixels=64, warp_filters=64, warp_pixels=16),
    Tiling(filters=64, pixels=128, warp_filters=64, warp_pixels=32),
    Tiling(filters=128, pixels=128, warp_filters=128, warp_pixels=32),
)
COMPRESSED_TILING = TENSOR_CORE_TILINGS[0]
SIMT_TILING = Tiling(filters=64, pixels=128, warp_filters=16, warp_pixels=128)


@dataclass(frozen=True)
class Work:
    """What is to be done for one convolution."""

    layout: str
    """``"tensor_core"``, ``"compressed"``, ``"simt"``, ``"dense tensor_core"`` or
    ``"dense simt"``."""
    dtype: str
    mma: float
    """``mma`` instructions of a warp, pixels of the last tile filled up."""
    fma: float
    """Multiply-adds of the float32 units, filled up likewise."""
    input_bytes: float
    output_bytes: float
    weight_bytes: float
    """Weights as they are stored, and their index."""
    l2_bytes: float
    """Read by the multiprocessors, with what other blocks of threads read as well."""
    wavefronts: float
    """Accesses to shared memory and to the first-level cache, 128 bytes each."""
    kept_weights: float
    stored_weights: float
    launches: int = 1

    @property
    def flops(self) -> float:
        """Operations done, filling included."""
        per_mma = 2 * MMA_FILTERS * MMA_PIXELS * MMA_CHANNELS[self.dtype]
        return self.mma * per_mma + 2 * self.fma

    @property
    def footprint(self) -> float:
        """Bytes that go to or come from DRAM once, if nothing stays in the L2 cache."""
        return self.input_bytes + self.output_bytes + self.weight_bytes

    @property
    def fill_in(self) -> float:
        """Weights stored over weights kept; 1 where nothing is kept."""
        return self.stored_weights / self.kept_weights if self.kept_weights else 1.0


@dataclass(frozen=True)
class Floor:
    """The limits of one convolution on one chip, in microseconds."""

    limits: Mapping[str, float]
    """Of ``math``, ``dram``, ``l2`` and ``shared`` those that apply."""

    @property
    def microseconds(self) -> float:
        """The longest."""
        return max(self.limits.values())

    @property
    def binds(self) -> str:
        """Its name."""
        return max(self.limits, key=lambda name: self.limits[name])


def tensor_core_work(conv: Convolution, kept: Kept, tiling: Tiling) -> Work:
    """Of the tensor-core kernel: a tile with any kept weight is stored and multiplied whole.

    Args:
        conv: what to compute.
        kept: of its weight.
        tiling: one of `TENSOR_CORE_TILINGS`.
    """
    depth = MMA_CHANNELS[conv.dtype]
    tiles = kept.cells(MMA_FILTERS, depth)
    columns = kept.cells(tiling.filters, depth)
    warp_columns = kept.cells(tiling.warp_filters, depth)
    pixel_tiles = -(-conv.pixels // tiling.pixels)
    weight_bytes = tiles * TILE_BYTES + columns * COLUMN_BYTES["tensor_core"]
    # Columns and tiles are written to shared memory once; a column is read by each row of warps
    # that needs it, a tile by each column of warps.
    moved = (columns + warp_columns) * tiling.pixels * depth * BYTES[conv.dtype]
    moved += tiles * TILE_BYTES * (1 + tiling.pixels // tiling.warp_pixels)
    return Work(
        layout="tensor_core",
        dtype=conv.dtype,
        mma=tiles * pixel_tiles * (tiling.pixels // MMA_PIXELS),
        fma=0.0,
        input_bytes=_input_bytes(conv, kept, depth),
        output_bytes=_output_bytes(conv),
        weight_bytes=weight_bytes,
        l2_bytes=_activation_reads(conv, kept, tiling, depth) + pixel_tiles * weight_bytes,
        wavefronts=pixel_tiles * moved / WAVEFRONT,
        kept_weights=kept.weights(),
        stored_weights=tiles * MMA_FILTERS * depth,
    )


def compressed_work(conv: Convolution, kept: Kept, tiling: Tiling = COMPRESSED_TILING) -> Work:
    """Of the tensor-core kernel that stores kept pieces and expands them: less to read for as many
    ``mma``.

    Args:
        conv: what to compute.
        kept: of its weight.
        tiling: of the kernel.
    """
    depth = MMA_CHANNELS[conv.dtype]
    whole = tensor_core_work(conv, kept, tiling)
    pieces = kept.cells(1, depth // 2)
    tiles = kept.cells(MMA_FILTERS, depth)
    columns = kept.cells(tiling.filters, depth)
    pixel_tiles = -(-conv.pixels // tiling.pixels)
    warps = tiling.pixels // tiling.warp_pixels
    weight_bytes = pieces * PIECE_BYTES + columns * COLUMN_BYTES["compressed"]
    # Written once as pieces; read as tiles, for which each warp looks at the column's masks.
    less = (tiles * TILE_BYTES - pieces * PIECE_BYTES) / WAVEFRONT - columns * warps
    return replace(
        whole,
        layout="compressed",
        weight_bytes=weight_bytes,
        l2_bytes=whole.l2_bytes + pixel_tiles * (weight_bytes - whole.weight_bytes),
        wavefronts=whole.wavefronts - pixel_tiles * less,
        stored_weights=pieces * depth / 2,
    )


def simt_work(conv: Convolution, kept: Kept, chunk: int, tiling: Tiling = SIMT_TILING) -> Work:
    """Of the kernel without tensor cores: `chunk` channels of one filter are a tile.

    Args:
        conv: what to compute.
        kept: of its weight.
        chunk: one of `CHUNKS`.
        tiling: of the kernel.
    """
    tiles = kept.cells(1, chunk)
    columns = kept.cells(tiling.filters, chunk)
    warp_columns = kept.cells(tiling.warp_filters, chunk)
    pixel_tiles = -(-conv.pixels // tiling.pixels)
    weight_bytes = tiles * 4 * chunk + columns * COLUMN_BYTES["simt"]
    # As float32. A tile is read 16 bytes at a time, which all lanes share: a wavefront each.
    wavefronts = (columns + warp_columns) * tiling.pixels * chunk * 4 / WAVEFRONT
    wavefronts += tiles * 4 * chunk / WAVEFRONT + tiles * -(-chunk // 4)
    return Work(
        layout="simt",
        dtype=conv.dtype,
        mma=0.0,
        fma=tiles * chunk * pixel_tiles * tiling.pixels,
        input_bytes=_input_bytes(conv, kept, chunk),
        output_bytes=_output_bytes(conv),
        weight_bytes=weight_bytes,
        l2_bytes=_activation_reads(conv, kept, tiling, chunk) + pixel_tiles * weight_bytes,
        wavefronts=pixel_tiles * wavefronts,
        kept_weights=kept.weights(),
        stored_weights=tiles * chunk,
    )


def dense_work(conv: Convolution, chip: Chip) -> Work:
    """Of a dense implicit GEMM that re-reads nothing and fills up no more than one ``mma``.

    On tensor cores where the chip has them for the dtype.
    """
    out, depth, height, width = conv.weight_shape
    whole = KeptAtRandom(conv.weight_shape, GroupShape(1, 1), 1.0, conv.groups)
    on_tensor_cores = conv.dtype in chip.tensor
    channels = MMA_CHANNELS[conv.dtype]
    weights = out * depth * height * width
    input_bytes = _input_bytes(conv, whole, depth)
    weight_bytes = float(weights * BYTES[conv.dtype])
    tiles = whole.cells(MMA_FILTERS, channels)
    return Work(
        layout="dense tensor_core" if on_tensor_cores else "dense simt",
        dtype=conv.dtype,
        mma=tiles * -(-conv.pixels // MMA_PIXELS) if on_tensor_cores else 0.0,
        fma=0.0 if on_tensor_cores else float(conv.flops // 2),
        input_bytes=input_bytes,
        output_bytes=_output_bytes(conv),
        weight_bytes=weight_bytes,
        l2_bytes=input_bytes + weight_bytes,
        wavefronts=0.0,
        kept_weights=float(weights),
        stored_weights=float(weights),
    )


def floor(work: Work, chip: Chip, *, warm: bool = False, on_chip: bool = True) -> Floor:
    """Each limit's time.

    Args:
        work: to be done.
        chip: to do it.
        warm: False: the L2 cache was flushed, so all bytes pass DRAM once. True: it holds what it
            can of input, weight and output from the call before, and only what exceeds its size
            must pass DRAM.
        on_chip: whether L2 reads and shared-memory accesses count, as far as published.

    Raises:
        ValueError: if the chip has no tensor cores for the work's dtype.
    """
    limits = {}
    if work.mma:
        if work.dtype not in chip.tensor:
            raise ValueError(f"chip: {chip.name} has no tensor cores for {work.dtype}")
        share = 1.0 if work.layout.startswith("dense") else chip.mma_sync
        limits["math"] = work.flops / (chip.tensor[work.dtype] * share)
    else:
        limits["math"] = work.flops / chip.simt
    travelling = max(0.0, work.footprint - chip.l2_bytes) if warm else work.footprint
    limits["dram"] = travelling / chip.dram
    if on_chip:
        if chip.l2 is not None:
            limits["l2"] = work.l2_bytes / chip.l2
        limits["shared"] = work.wavefronts / chip.wavefronts
    return Floor({name: seconds * 1e6 for name, seconds in limits.items()})


def _input_bytes(conv: Convolution, kept: Kept, channels: int) -> float:
    """Of the pixels and channels that some kept weight meets."""
    depth = conv.weight_shape[1]
    per_group = conv.weight_shape[0] // conv.groups
    pieces = kept.cells(per_group, channels, taps=False)
    met = min(pieces * channels, float(depth * conv.groups))
    return met * conv.read_pixels * BYTES[conv.dtype]


def _activation_reads(conv: Convolution, kept: Kept, tiling: Tiling, channels: int) -> float:
    """Bytes of activations that reach the multiprocessors.

    Every block of filters needs its activations again. Of taps that meet the same pixel only the
    first counts: the first-level cache may have it for the others.
    """
    pieces = kept.cells(tiling.filters, channels, taps=False)
    return pieces * channels * conv.read_pixels * BYTES[conv.dtype]


def _output_bytes(conv: Convolution) -> float:
    return float(conv.pixels * conv.weight_shape[0] * BYTES[conv.dtype])
