# SPDX-License-Identifier: MIT
"""What the Triton backend launches for a case, and its compilation without a GPU.

As a script it compiles everything that the tests look at; it has to run where Triton does not
interpret, so in a process of its own: ``python triton_launch.py FOLDER``.
"""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from gpu_case import CASES, Tensors, tensors_of
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from l1sparse import GroupShape
from l1sparse.gpu import run
from l1sparse.gpu.problem import Conv2dProblem, conv2d_problem, dtype_text, is_channels_last
from l1sparse.gpu.weights import weight_of
from l1sparse.triton import backend, tune

CAPABILITIES = (80, 90, 100, 120)
ON_EVERY_CHIP = ("half", "half, bfloat16", "tf32", "simt", "simt half", "norms 1x8 float32")
IN_EVERY_CONFIGURATION = ("half", "tf32", "simt", "everything at once")
NORMS = {"norms 1x8": ("1x8", (3, 3)), "norms 1x16": ("1x16", (1, 1)), "norms 4x4": ("4x4", (3, 3))}


@dataclass(frozen=True)
class Launch:
    """A kernel and its arguments, but those that a configuration gives."""

    kernel: Any
    arguments: dict[str, Any]
    output: Tensor
    configs: tuple[triton.Config, ...]
    programs: Any
    """Programs in x and y for the values of a configuration."""


def conv2d_launch(tensors: Tensors) -> Launch:
    case, given = tensors.case, tensors.arguments()
    problem = conv2d_problem(
        tuple(tensors.input.shape), case.weight_shape, *case.geometry,
        case.activation, given["clamp_min"], given["clamp_max"],
    )  # fmt: skip
    plan = run.plan_for(
        backend.BACKEND, case.layout, weight_of(tensors.packed), problem, case.dtype
    )
    last = is_channels_last(tensors.input)
    format_ = torch.channels_last if last else torch.contiguous_format
    output = torch.empty(problem.output_shape, dtype=case.dtype, memory_format=format_)
    residual = tensors.residual
    if residual is not None:
        residual = residual.contiguous(memory_format=format_)
    arguments = backend.common_arguments(problem, plan, output, tensors.bias, residual)
    dot = case.layout == "tensor_core"
    own = backend.dot_arguments if dot else backend.simt_arguments
    return Launch(
        kernel=backend.conv2d_dot_kernel if dot else backend.conv2d_simt_kernel,
        arguments=arguments | own(problem, plan, tensors.input),
        output=output,
        configs=tune.CONV2D_DOT if dot else tune.CONV2D_SIMT,
        programs=lambda values: (_tiles(problem, values) * plan.blocks, 1),
    )


def norms_launch(group: str, kernel: tuple[int, int], dtype: torch.dtype) -> Launch:
    weight = torch.randn(21, 75, *kernel, generator=torch.Generator().manual_seed(0)).to(dtype)
    shape = GroupShape.of(group)
    norms = torch.empty(shape.grid(weight.shape))
    arguments, grid = backend.group_l1_arguments(weight, norms, shape)
    no_choice = (triton.Config({}, num_warps=4),)
    return Launch(backend.group_l1_kernel, arguments, norms, no_choice, lambda _: grid)


def launches() -> dict[str, Launch]:
    """Everything that is compiled, by name; no two kernels differ only in their inputs."""
    found = {name: conv2d_launch(tensors_of(case)) for name, case in CASES.items()}
    for name in ("half", "everything at once"):
        case = CASES[name].but(dtype=torch.bfloat16)
        found[f"{name}, bfloat16"] = conv2d_launch(tensors_of(case))
    for name, (group, kernel) in NORMS.items():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            found[f"{name} {dtype_text(dtype)}"] = norms_launch(group, kernel, dtype)
    return found


def _tiles(problem: Conv2dProblem, values: dict[str, Any]) -> int:
    return -(-problem.pixels // int(values["PIXELS"]))


def signature(launch: Launch, config: triton.Config) -> tuple[Any, ...]:
    """As Triton specialises a launch: types, values that are compiled in, and attributes."""
    values = {**launch.arguments, **config.kwargs}
    types: dict[str, str] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    for i, parameter in enumerate(inspect.signature(launch.kernel.fn).parameters.values()):
        value = values[parameter.name]
        divisible = False
        if (
            "constexpr" in str(parameter.annotation)
            or value is None
            or (type(value) is int and value == 1)
        ):
            types[parameter.name] = "constexpr"
            constants[i,] = value
        elif isinstance(value, Tensor):
            names = {torch.int32: "*i32", torch.float32: "*fp32", torch.float16: "*fp16"}
            types[parameter.name] = {**names, torch.bfloat16: "*bf16"}[value.dtype]
            divisible = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            types[parameter.name] = "fp32"
        else:
            types[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0
        if divisible:
            attributes[i,] = [["tt.divisibility", 16]]
    return types, constants, attributes


def compile_to(folder: Path, name: str, launch: Launch, number: int, capability: int) -> None:
    """Write the PTX, the machine code, and what a launcher has to know of them."""
    config = launch.configs[number]
    types, constants, attributes = signature(launch, config)
    source = ASTSource(launch.kernel, types, constants, attributes)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    at = folder / f"{name}, {number}, {capability}"
    at.with_suffix(".ptx").write_text(done.asm["ptx"])
    at.with_suffix(".cubin").write_bytes(done.asm["cubin"])
    about = {
        "entry": done.metadata.name,
        "shared": done.metadata.shared,
        "threads": 32 * config.num_warps,
        "parameters": [parameter for parameter, type_ in types.items() if type_ != "constexpr"],
        "types": types,
        "divisible": [i for (i,) in attributes],
    }
    at.with_suffix(".json").write_text(json.dumps(about))


def main(folder: Path) -> None:
    for name, launch in launches().items():
        for number in range(len(launch.configs) if name in IN_EVERY_CONFIGURATION else 1):
            compile_to(folder, name, launch, number, 80)
        for capability in CAPABILITIES[1:] if name in ON_EVERY_CHIP else ():
            compile_to(folder, name, launch, 0, capability)
        if launch.kernel is not backend.conv2d_dot_kernel and name in ON_EVERY_CHIP:
            compile_to(folder, name, launch, 0, 75)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
