# SPDX-License-Identifier: MIT
"""The PTX that Triton makes of its kernels, run by the interpreter of ``tests/ptx``.

Where Triton's own interpreter can't be trusted this is what shows the kernels right: bfloat16,
TF32, NaN, out-of-bounds reads, waits for asynchronous copies; and it counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_case import CASES, TRITON_CASES, tensors_of
from ptx import Hazard, Memory, Module, Report
from ptx import launch as run_ptx
from torch import Tensor
from triton_launch import NORMS, Launch, conv2d_launch, norms_launch, signature

from l1sparse import reference
from l1sparse.gpu.plan import Plan
from l1sparse.gpu.weights import weight_of
from l1sparse.triton import tune

BFLOAT = {
    f"{name}, bfloat16": CASES[name].but(dtype=torch.bfloat16)
    for name in ("half", "everything at once")
}
ALL = {**TRITON_CASES, **BFLOAT}
NUMPY = {torch.bfloat16: torch.int16}


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel of sm_80."""

    module: Module
    about: dict[str, Any]
    number: int
    """Of the configuration."""

    @classmethod
    def read(
        cls,
        folder: Path,
        name: str,
        number: int = 0,
        edit: Callable[[str], str] = lambda text: text,
    ) -> Kernel:
        about = json.loads((folder / f"{name}, {number}, 80.json").read_text())
        text = (folder / f"{name}, {number}, 80.ptx").read_text()
        return cls(Module.parse(edit(text)), about, number)

    def run(self, launch: Launch) -> Report:
        """Run it on copies of the launch's tensors; fills in its output."""
        config = launch.configs[self.number]
        types, _, attributes = signature(launch, config)
        # Else Triton would compile another kernel for this launch.
        assert self.about["types"] == types
        assert self.about["divisible"] == [i for (i,) in attributes]
        memory = Memory()
        values = {name: self._value(memory, launch, name) for name in self.about["parameters"]}
        # Two more parameters are for scratch memory, which these kernels do not use.
        report = run_ptx(
            self.module,
            self.about["entry"],
            grid=(*launch.programs({**launch.arguments, **config.kwargs}), 1),
            block=(self.about["threads"], 1, 1),
            arguments=[*values.values(), np.uint64(0), np.uint64(0)],
            memory=memory,
            dynamic_shared=self.about["shared"],
        )
        name = "norms" if "norms" in values else "output"
        extent(launch.output).copy_(torch.from_numpy(memory.download(values[name]).copy()))
        return report

    def _value(self, memory: Memory, launch: Launch, name: str) -> Any:
        value = launch.arguments[name]
        if isinstance(value, Tensor):
            return memory.upload(extent(value).numpy())
        kinds = {"fp32": np.float32, "i32": np.int32, "i64": np.int64}
        return kinds[self.about["types"][name]](value)


def extent(tensor: Tensor) -> Tensor:
    """The memory from a tensor's first number to its last, as numbers that numpy knows."""
    count = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    if 0 in tensor.shape:
        count = 0
    flat = tensor.as_strided((count,), (1,))
    return flat.view(NUMPY.get(tensor.dtype, tensor.dtype))


@pytest.mark.parametrize("name", ALL)
def test_equals_the_reference_in_float64(compiled: Path, name: str) -> None:
    tensors = tensors_of(ALL[name])
    launch = conv2d_launch(tensors)
    Kernel.read(compiled, name).run(launch)
    tensors.check(launch.output, tf32_activations=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_equal_the_reference_in_float64(compiled: Path, name: str, dtype: str) -> None:
    group, kernel = NORMS[name]
    launch = norms_launch(group, kernel, getattr(torch, dtype))
    Kernel.read(compiled, f"{name} {dtype}").run(launch)
    expected = reference.group_l1_norm(launch.arguments["weight"].double(), group)
    torch.testing.assert_close(launch.output.double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", ["half", "tf32", "simt", "everything at once"])
def test_configurations_differ_in_no_bit(compiled: Path, name: str) -> None:
    outputs = []
    for number in range(len(tune.CONV2D_SIMT if name == "simt" else tune.CONV2D_DOT)):
        launch = conv2d_launch(tensors_of(CASES[name]))
        Kernel.read(compiled, name, number).run(launch)
        outputs.append(launch.output)
    assert len(outputs) > 1
    assert all(torch.equal(outputs[0], output) for output in outputs)


@pytest.mark.parametrize("name", ["NCHW", "a slice", "everything at once", "simt NCHW"])
def test_nan_is_not_lost_in_the_last_step(compiled: Path, name: str) -> None:
    tensors = tensors_of(CASES[name])
    assert tensors.bias is not None
    tensors.bias.fill_(torch.nan)
    launch = conv2d_launch(tensors)
    Kernel.read(compiled, name).run(launch)
    assert launch.output.isnan().all()


# ---- counts -------------------------------------------------------------------------------------

LAYER = {"filters": 64, "channels": 128, "size": (15, 15), "density": 0.25}


def counted(compiled: Path, name: str, number: int = 0, **changes: Any) -> tuple[Report, Plan]:
    tensors = tensors_of(ALL[name].but(**changes))
    report = Kernel.read(compiled, name, number).run(conv2d_launch(tensors))
    (plan,) = weight_of(tensors.packed)._plans.values()
    return report, plan


@pytest.mark.parametrize("number", range(len(tune.CONV2D_DOT)))
@pytest.mark.parametrize("name", ["half", "tf32"])
def test_there_is_one_matrix_instruction_a_kept_tile_and_eight_pixels(
    compiled: Path, name: str, number: int
) -> None:
    report, plan = counted(compiled, name, number, **LAYER)
    values = tune.CONV2D_DOT[number].kwargs
    kept = plan.block_offsets.diff()  # a block is a strip, and a column one tile of it
    # A strip's columns go several at once; the last ones may have tiles of zeros beside them.
    tiles = int((-(-kept // values["COLUMNS"])).sum()) * values["COLUMNS"]
    pixels = -(-15 * 15 // values["PIXELS"]) * values["PIXELS"]
    assert report.counts.mma == tiles * pixels // 8
    assert len(plan.values) <= tiles < len(plan.values) + plan.blocks * values["COLUMNS"]


@pytest.mark.parametrize("name", ["half", "tf32"])
def test_the_tensor_core_kernel_keeps_to_its_budgets(compiled: Path, name: str) -> None:
    for number in range(len(tune.CONV2D_DOT)):
        counts = counted(compiled, name, number, **LAYER)[0].counts
        # Of each sector that is asked for, every byte is.
        assert counts.global_load_sectors <= 1.1 * counts.global_load_bytes / 32
        assert counts.global_store_sectors <= 1.1 * counts.global_store_ideal
        assert counts.bank_conflicts <= 0.05 * counts.shared_phases, number
        assert counts.total <= 30 * counts.mma, number


def test_nothing_kept_is_nothing_multiplied(compiled: Path) -> None:
    assert counted(compiled, "nothing kept")[0].counts.mma == 0


def test_simt_multiplies_kept_weights_only(compiled: Path) -> None:
    report, plan = counted(compiled, "simt")
    pixels = tune.CONV2D_SIMT[0].kwargs["PIXELS"]  # more than there are
    assert report.counts.of("fma") == plan.values.numel() * pixels // 32
    assert report.counts.total <= 5 * report.counts.of("fma")


# ---- bugs on purpose ----------------------------------------------------------------------------


def edited(pattern: str, replacement: str, number: int | None = None) -> Callable[[str], str]:
    """An edit of the PTX at every match, or at one of them, counted from 0 or from the end."""

    def edit(text: str) -> str:
        matches = list(re.finditer(pattern, text, re.M))
        if not matches:
            raise ValueError(f"nothing in the PTX is like {pattern!r}")
        for match in reversed(matches if number is None else [matches[number]]):
            text = text[: match.start()] + match.expand(replacement) + text[match.end() :]
        return text

    return edit


_SUM = r"(fma\.rn\.f32\s+%r\d+), (%r\d+), %r\d+, (%r\d+;)"
_PAIR = r"\{ (%r\d+), (%r\d+) \}(, \{ %r\d+, %r\d+, %r\d+, %r\d+ \};)"
_BARRIER = r"^\s*bar\.sync\s+0;"
BUGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "no wait for a step's copies": ("half", edited(r"(cp\.async\.wait_group\s+)10", r"\g<1>12")),
    "no barrier before a step's reads": ("half", edited(_BARRIER, "", -4)),
    "no barrier after a step's reads": ("half", edited(_BARRIER, "", -3)),
    "no barrier in the last step": ("half", edited(_BARRIER, "", -1)),
    "pixels outside are read": ("half", edited(r"0x10, %r\d+;", "0x10, 16;")),
    "pixels outside are written": ("half", edited(r"@%p\d+ (st\.global)", r"\1")),
    "an accumulator is not cleared": ("half", edited("0f00000000", "0f3F800000")),
    "channels change places": ("half", edited(_PAIR, r"{ \2, \1 }\3", 0)),
    "the bias of another filter": ("half", edited(r"(%p\d+ ld\.global.*) \+ 0 \]", r"\1 + 4 ]")),
    "a tile too far": ("half", edited(r"(ldmatrix.* \[%r\d+)\]", r"\1+16]", 1)),
    "simt: no mask": ("simt", edited(r"@%p\d+ (ld\.global\.b32)", r"\1")),
    "simt: pixels outside are written": ("simt", edited(r"@%p\d+ (st\.global)", r"\1")),
    "simt: an activation for a weight": ("simt", edited(_SUM, r"\1, \2, \2, \3")),
    "norms: a sign": ("norms 1x8 float32", edited(r"(and\.b32.*), 2147483647", r"\1, -1")),
    "norms: no mask": ("norms 1x8 float32", edited(r"@%p\d+ (ld\.global)", r"\1")),
}


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_on_purpose_are_noticed(compiled: Path, bug: str) -> None:
    name, edit = BUGS[bug]

    def run_and_check() -> None:
        kernel = Kernel.read(compiled, name, edit=edit)
        if name.startswith("norms"):
            launch = norms_launch(*NORMS["norms 1x8"], torch.float32)
            kernel.run(launch)
            expected = reference.group_l1_norm(launch.arguments["weight"].double(), "1x8")
            torch.testing.assert_close(launch.output.double(), expected, rtol=2e-6, atol=0)
        else:
            tensors = tensors_of(ALL[name])
            launch = conv2d_launch(tensors)
            kernel.run(launch)
            tensors.check(launch.output, tf32_activations=True)

    with pytest.raises((Hazard, AssertionError)):
        run_and_check()
