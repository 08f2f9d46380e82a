# SPDX-License-Identifier: MIT
"""Kernels broken on purpose: the interpreter and the comparison have to notice each of them.

A bug is an edit of the source. The kernel is compiled again with it and run in place of the good
one; it must be a `Hazard` or give a wrong result.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_kernels import CSRC, compile_ptx, plain_name
from gpu_case import Case, tensors_of
from kernel_runner import Runner
from ptx import Hazard, Module
from test_cuda_kernels import BFLOAT, CP, FLOAT, HALF, SIMT, TC

from l1sparse import GroupShape, reference


@dataclass(frozen=True)
class Bug:
    """An edit, and what is run with it."""

    file: str
    find: str
    replace: str
    case: str
    caught_by: str = ""
    """A kind of hazard that it must be; else a wrong result will do as well."""


CONV = "kernels/conv2d/"
DOT, PLAIN, EPILOGUE = CONV + "tensor_core.cu", CONV + "simt.cu", CONV + "epilogue.cuh"
REDUCE, PIXELS = CONV + "reduce.cuh", CONV + "pixels.cuh"
NORM = "kernels/group_l1/group_l1.cu"

# Case, how it is run, and the kernels that it needs as explicit instantiations.
DOT_KERNEL = "tensor_core_conv2d<__half, 4, 64>(const __grid_constant__ GpuConv2d)"
TF32_KERNEL = "tensor_core_conv2d<float, 4, 64>(const __grid_constant__ GpuConv2d)"
PIECES_KERNEL = "compressed_conv2d<__half>(const __grid_constant__ CompressedConv2d)"
DOT_REDUCE = "reduce_splits<__half, 64>(const __grid_constant__ GpuConv2d)"
PLAIN_KERNEL = "simt_conv2d<{}>(const __grid_constant__ SimtArguments)"

CASES: dict[str, tuple[Case, dict[str, Any], list[str]]] = {
    "dot": (TC.but(channels=96, filters=80, residual=True), {}, [DOT_KERNEL]),
    "dot, odd": (TC.but(channels=32, filters=37, batch=2), {}, [DOT_KERNEL]),
    "dot, tf32": (TC.but(dtype=FLOAT, group="16x8"), {}, [TF32_KERNEL]),
    "dot, split": (TC.but(channels=48, residual=True), {"splits": 2}, [DOT_KERNEL, DOT_REDUCE]),
    "pieces": (CP.but(channels=48, residual=True), {}, [PIECES_KERNEL]),
    "pieces, odd": (
        CP.but(kernel=(1, 1), padding=(0, 0), channels=48, filters=37, density=0.9),
        {},
        [PIECES_KERNEL],
    ),
    "pieces, split": (CP.but(channels=48), {"splits": 2}, [PIECES_KERNEL, DOT_REDUCE]),
    "plain": (SIMT.but(channels=48, residual=True), {}, [PLAIN_KERNEL.format("__half, 8, 8")]),
    "plain, blocks": (SIMT.but(filters=80), {}, [PLAIN_KERNEL.format("__half, 8, 8")]),
    "plain, float": (
        SIMT.but(channels=48, dtype=FLOAT),
        {},
        [PLAIN_KERNEL.format("float, 8, 4")],
    ),
    "plain, tail": (
        SIMT.but(channels=12, dtype=FLOAT, groups=2, filters=9, kernel=(1, 1), padding=(0, 0)),
        {},
        [PLAIN_KERNEL.format("float, 8, 4")],
    ),
    "plain, split": (
        SIMT.but(channels=24, dtype=BFLOAT),
        {"splits": 2},
        [
            PLAIN_KERNEL.format("__nv_bfloat16, 8, 8"),
            "reduce_splits<__nv_bfloat16, 64>(const __grid_constant__ GpuConv2d)",
        ],
    ),
}

STEP_BARRIER = "    __syncthreads();  // the step's data is there"
BUGS = {
    # ---- tensor cores
    "no barrier between steps": Bug(DOT, STEP_BARRIER, "    // is there", "dot", "shared race"),
    "one copy too few is waited for": Bug(
        DOT, "wait_for_all_steps_but<S::kStages - 2>()", "wait_for_all_steps_but<S::kStages - 1>()",
        "dot", "unwaited copy",
    ),
    "no wait before the epilogue": Bug(
        DOT, "  wait_for_all_steps_but<0>();\n  __syncthreads();", "", "dot",
    ),
    "steps are not closed": Bug(
        DOT, "    close_step();  // empty", "    // empty", "dot", "unwaited copy",
    ),
    "pixels outside are not zero": Bug(DOT, '"r"(inside ? 16 : 0)', '"r"(16)', "dot"),
    "the second half of a pixel is the first": Bug(DOT, "conv.input) + half * 16", "conv.input)",
                                                   "dot"),
    "sums are not cleared": Bug(
        DOT, "for (int i = 0; i < 4; ++i) sums[s][m][i] = 0.0f;",
        "for (int i = 0; i < 4; ++i) sums[s][m][i] = 1.0f;", "dot",
    ),
    "halves are exchanged on one side only": Bug(
        DOT, "((half ^ (thread / 8 % 2)) * 16)", "(half * 16)", "dot",
    ),
    "rows of matrices in another order": Bug(
        DOT, "lane / 16 * 8 + lane % 8;", "lane / 8 % 2 * 8 + lane % 8;", "dot",
    ),
    "a tile is used twice": Bug(DOT, "        tile += kTileBytes;\n", "", "dot"),
    "tiles begin one too late": Bug(
        DOT, "static_cast<std::int64_t>(columns.first_tile) * kTileBytes",
        "static_cast<std::int64_t>(columns.first_tile + 1) * kTileBytes", "dot",
    ),
    "not all tiles are copied": Bug(
        DOT, "weight_bytes = tiles * kTileBytes;", "weight_bytes = tiles * kTileBytes - 16;", "dot",
    ),
    "pixels beyond the last are written": Bug(
        DOT, "min(pixels - own_pixel, std::int64_t{kPixels})", "std::int64_t{kPixels}", "dot, odd",
        "out of bounds",
    ),
    "the next block's columns are read": Bug(DOT, "first + i < end\n", "true\n", "dot"),
    "a split begins one column late": Bug(
        DOT, "static_cast<int>(of_block * split / conv.splits);",
        "static_cast<int>(of_block * split / conv.splits) + (split > 0);", "dot, split",
    ),
    "a split ends one column late": Bug(
        DOT, "static_cast<int>(of_block * (split + 1) / conv.splits);",
        "static_cast<int>(of_block * (split + 1) / conv.splits) + (split == 0);", "dot, split",
    ),
    "the slot in use is filled": Bug(DOT, "    free_slot = slot;\n", "", "dot"),
    "the same columns twice": Bug(
        DOT, "begin + (started + 1) * kColumns, end)", "begin + started * kColumns, end)", "dot",
    ),
    "no warp barrier in the epilogue": Bug(
        DOT, "    }\n    __syncwarp();\n    const float* const from",
        "    }\n    const float* const from", "dot", "shared race",
    ),
    "words of TF32 exchanged": Bug(DOT, "b[m / 2][m % 2 * 2], b", "b[m / 2][m % 2 * 2 ^ 1], b",
                                   "dot, tf32"),
    # ---- compressed weights
    "no barrier between steps of pieces": Bug(DOT, STEP_BARRIER, "    // is there", "pieces",
                                              "shared race"),
    "one copy of pieces too few is waited for": Bug(
        DOT, "wait_for_all_steps_but<S::kStages - 2>()", "wait_for_all_steps_but<S::kStages - 1>()",
        "pieces", "unwaited copy",
    ),
    "zeros are not cleared": Bug(
        DOT, "if (thread < kBankBytes / 4) reinterpret_cast<int*>(shared + S::kZeros)[thread] = 0;",
        "", "pieces", "uninitialised",
    ),
    "only half of the zeros are cleared": Bug(
        DOT, "if (thread < kBankBytes / 4) r", "if (thread < kBankBytes / 8) r", "pieces",
        "uninitialised",
    ),
    "zeros hold a number": Bug(DOT, "(shared + S::kZeros)[thread] = 0;",
                               "(shared + S::kZeros)[thread] = 0x3c003c00;", "pieces"),
    "a pruned piece is the next kept one": Bug(
        DOT, "kept ? behind(before) : zeros + behind(of_matrix) % kBankBytes", "behind(before)",
        "pieces",
    ),
    "pieces are counted with the lane's own": Bug(
        DOT, "before = (1u << lane) - 1,", "before = (2u << lane) - 1,", "pieces",
    ),
    "halves of the mask exchanged": Bug(
        DOT, "const bool kept = (mask >> lane & 1)", "const bool kept = (mask >> (lane ^ 16) & 1)",
        "pieces",
    ),
    "pieces of the strip before": Bug(
        DOT, "piece += static_cast<unsigned>(__popc(kept[s]) * kPieceBytes);", "", "pieces",
    ),
    "masks of another strip": Bug(DOT, "kept[s + 1] = four.y", "kept[s + 1] = four.z", "pieces"),
    "piece masks of the step before": Bug(
        DOT, "static_cast<std::int64_t>(columns.first) * kStrips * 4",
        "static_cast<std::int64_t>(columns.first - (columns.first > begin)) * kStrips * 4",
        "pieces",
    ),
    "masks in one place for all steps": Bug(
        DOT, "piece_masks_to + static_cast<unsigned>(slot * S::kMaskBytes)", "piece_masks_to",
        "pieces",
    ),
    "masks beyond the last column are read": Bug(
        DOT, "columns.first + thread / kOfColumn < end", "true", "pieces, odd", "out of bounds",
    ),
    "masks of the second column are not copied": Bug(
        DOT, "thread < kColumns * kOfColumn)", "thread < kOfColumn)", "pieces",
        "uninitialised",
    ),
    "pieces of the step before": Bug(DOT, "      next_piece += pieces;\n", "", "pieces"),
    "pieces begin one too late": Bug(
        DOT, "static_cast<std::int64_t>(next_piece) * kPieceBytes",
        "static_cast<std::int64_t>(next_piece + 1) * kPieceBytes", "pieces",
    ),
    "not all pieces are copied": Bug(
        DOT, "weight_bytes = pieces * kPieceBytes;", "weight_bytes = (pieces - 1) * kPieceBytes;",
        "pieces",
    ),
    "pieces of one column only": Bug(DOT, "pieces += kCompressed", "pieces = kCompressed",
                                     "pieces"),
    "a split begins with the block's pieces": Bug(
        DOT, "__ldg(conv.tile_offsets + begin)", "__ldg(conv.tile_offsets + first_of_block)",
        "pieces, split",
    ),
    # ---- all convolutions
    "the bias of another filter": Bug(
        DOT, "conv.bias + filters.first + f)", "conv.bias + f)", "dot",
    ),
    "the bias of another quad": Bug(
        EPILOGUE, "conv.bias + filter)", "conv.bias + first)", "plain, blocks",
    ),
    "the residual of another pixel": Bug(
        EPILOGUE, "::load(residual + at)", "::load(residual + at % 64)", "dot",
    ),
    "filters beyond the last are written": Bug(
        EPILOGUE, "if (first + i >= filters.count) continue;\n", "", "dot, odd",
    ),
    "filters of a block beyond the last are written": Bug(
        DOT, "run * R::kRun < filters.count\n", "filters.count > 0\n", "dot",
    ),
    "the last split is left out": Bug(
        REDUCE, "split < conv.splits", "split < conv.splits - 1", "dot, split",
    ),
    "the first split is left out": Bug(REDUCE, "int split = 0;", "int split = 1;", "plain, split"),
    "splits in each other's place": Bug(
        DOT, "((split * pixels + pixel) * conv.blocks", "(pixel * conv.blocks", "dot, split",
        "global race",
    ),
    "splits in each other's place without tensor cores": Bug(
        EPILOGUE, "(split * pixels + pixel) * conv.blocks", "(pixel) * conv.blocks", "plain, split",
        "global race",
    ),
    "the left edge is not an edge": Bug(
        PIXELS, "static_cast<unsigned>(x + dx) < static_cast<unsigned>(conv.in_w)",
        "x + dx < conv.in_w", "plain",
    ),
    "the left edge is not an edge of a copy": Bug(
        DOT, "static_cast<unsigned>(corner_x[i] + dx) < static_cast<unsigned>(conv.in_w)",
        "corner_x[i] + dx < conv.in_w", "dot",
    ),
    "the lower edge is not an edge of a copy": Bug(
        DOT, "static_cast<unsigned>(corner_y[i] + dy) < static_cast<unsigned>(conv.in_h)",
        "corner_y[i] + dy >= 0", "dot",
    ),
    "the lower edge is not an edge": Bug(
        PIXELS, "static_cast<unsigned>(y + dy) < static_cast<unsigned>(conv.in_h)",
        "y + dy >= 0", "plain", "out of bounds",
    ),
    "rows and columns of the image exchanged": Bug(
        PIXELS, "static_cast<unsigned>(dy) * static_cast<unsigned>(conv.in_w)",
        "static_cast<unsigned>(dy) * static_cast<unsigned>(conv.in_h)", "plain",
    ),
    # ---- ordinary arithmetic
    "no barrier between SIMT steps": Bug(PLAIN, STEP_BARRIER, "    // there", "plain",
                                         "shared race"),
    "no barrier before the SIMT epilogue": Bug(
        PLAIN, "  __syncthreads();\n\n  // 32 pixels", "  // 32 pixels", "plain", "shared race",
    ),
    "no barrier after the corners": Bug(
        PLAIN, "  __syncthreads();\n\n  // The column", "  // The column",
        "plain",
    ),
    "pixels are exchanged on one side only": Bug(
        PLAIN, "L::pixel(i) ^ (L::part(i) * L::kExchange)", "L::pixel(i)", "plain, float",
    ),
    "a SIMT tile is used twice": Bug(PLAIN, "        ++tile;\n", "", "plain"),
    "tiles of the column before": Bug(
        PLAIN, "first_tile += __popc(low) + __popc(high);", "first_tile += __popc(low);", "plain",
    ),
    "tiles of the warp before": Bug(
        PLAIN, "(warp < 2 ? 0 : __popc(low))", "0", "plain",
    ),
    "channels beyond the last are read": Bug(
        PLAIN, "inside = inside && channel % kChunk < column.w;", "", "plain, tail",
        "out of bounds",
    ),
    "the buffer in use is filled": Bug(PLAIN, "    now ^= 1;\n", "", "plain"),
    "the first buffer twice": Bug(
        PLAIN, "store_step(loads, values, buffers[now]);",
        "store_step(loads, values, buffers[now ^ 1]);", "plain",
    ),
    "masks of the step before": Bug(
        PLAIN, "static_cast<std::int64_t>(first) * 2 + thread", "thread", "plain",
    ),
    "SIMT sums are not cleared": Bug(PLAIN, "sums[f][p] = 0.0f;", "sums[f][p] = 1.0f;", "plain"),
    "quads are exchanged on one side only": Bug(PLAIN, "q ^ (row / 2 % 4)", "q", "plain"),
    "a SIMT split ends one step early": Bug(
        PLAIN, "static_cast<int>(steps * (split + 1) / conv.splits) *",
        "(static_cast<int>(steps * (split + 1) / conv.splits) - (split == 0)) *", "plain, split",
    ),
}  # fmt: skip


def broken_ptx(bug: Bug, main: str, kernels: list[str], folder: Path) -> str:
    """The PTX of the file `main` with the bug; only the kernels named are compiled."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    edited = csrc / bug.file
    text = edited.read_text()
    assert text.count(bug.find) == 1, f"{bug.find!r} is there {text.count(bug.find)} times"
    edited.write_text(text.replace(bug.find, bug.replace))
    source, launching = (csrc / main).read_text().split("// ---- launching")
    assert launching
    wanted = "\n".join(f"template __global__ void {kernel};" for kernel in kernels)
    (csrc / main).write_text(f"{source}\n{wanted}\n}}\n}}\n")
    return compile_ptx(csrc / main, folder, csrc)


passed: set[str] = set()


def must_be_caught(bug: Bug, runner: Runner, text: str, work: Callable[[], None]) -> None:
    """Run `work` with the kernels of `text` in place of those of the same name."""
    module = Module.parse(text)
    entries = {plain_name(name): name for name in re.findall(r"\.entry (\w+)\(", text)}
    if bug.case not in passed:  # with the good kernels
        work()
        passed.add(bug.case)
        for call in runner.extension.calls:
            assert set(entries) <= {plain_name(launch.kernel) for launch in call.launches}
    runner.extension.options["replaced"] = {k: (module, name) for k, name in entries.items()}
    if bug.caught_by:
        with pytest.raises(Hazard, match=bug.caught_by):
            work()
    else:
        with pytest.raises((Hazard, AssertionError)):
            work()


@pytest.mark.parametrize("name", BUGS)
def test_a_broken_convolution_is_caught(name: str, runner: Runner, tmp_path: Path) -> None:
    bug = BUGS[name]
    case, how, kernels = CASES[bug.case]
    main = PLAIN if case.layout == "simt" else DOT
    text = broken_ptx(bug, main, kernels, tmp_path)
    tensors = tensors_of(case)
    must_be_caught(
        bug, runner, text,
        lambda: tensors.check(runner.conv2d(tensors, **how), tf32_activations=True),
    )  # fmt: skip


NORM_BUGS = {
    "no barrier before the sums": Bug(
        NORM, "stretch);\n      __syncthreads();", "stretch);", "", "shared race",
    ),
    "no barrier after the sums": Bug(
        NORM, "      __syncthreads();\n      read_stretch", "      read_stretch", "",
        "shared race",
    ),
    "no barrier before the parts are added": Bug(
        NORM, "+ tap] = sum;\n  __syncthreads();", "+ tap] = sum;", "", "shared race",
    ),
    "a sharer is left out": Bug(NORM, "int i = 1; i < job.sharers", "int i = 2; i < job.sharers",
                                ""),
    "the last channel is left out": Bug(NORM, "c < end; c += job", "c < end - 1; c += job", ""),
    "parts of two groups in one place": Bug(
        NORM, "parts[group * job.group_parts", "parts[group * job.taps", "",
    ),
    "the size of a whole group": Bug(
        NORM, "filters * of_channels", "problem.group_filters * problem.group_channels", "",
    ),
    "rest of a stretch is not read": Bug(NORM, "int i = vectors * kVector + thread",
                                         "int i = count", ""),
    "banks are spread on one side only": Bug(NORM, "sum += stretch[spread(c * job.taps + tap)]",
                                             "sum += stretch[c * job.taps + tap]", ""),
    "without the absolute value": Bug(NORM, "= fabsf(x[v]);", "= x[v];", ""),
    "rows one filter apart": Bug(NORM, "row * problem.group_filters;\n  const std::int64_t filters",
                                 "row;\n  const std::int64_t filters", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", NORM_BUGS)
def test_a_broken_norm_is_caught(name: str, runner: Runner, tmp_path: Path) -> None:
    bug = NORM_BUGS[name]
    kernel = "group_l1<__half>(const __grid_constant__ Job)"
    text = broken_ptx(bug, NORM, [kernel], tmp_path)
    shape, group = (7, 84, 3, 3), "3x8"
    weight = torch.randn(shape).to(HALF)
    expected = reference.group_l1_norm(weight.double(), group)

    def work() -> None:
        norms = runner.module.BACKEND.group_l1_norm(weight, GroupShape.of(group))
        assert ((norms - expected).abs() <= 1e-5 * expected).all()

    must_be_caught(bug, runner, text, work)
