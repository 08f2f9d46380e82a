# SPDX-License-Identifier: MIT
"""Short kernels for the interpreter's own tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptx import Memory, Module, Report, launch

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k("
REGISTERS = """\
.reg .pred %p<9>;
.reg .b16 %h<16>;
.reg .b32 %r<64>;
.reg .f32 %f<16>;
.reg .b64 %rd<16>;
.reg .f64 %fd<8>;
"""


def module_of(body: str, arrays: int = 0) -> Module:
    """A kernel `k` of this body; array i is at the address in `%rd<i>`."""
    parameters = ",".join(f".param .u64 a{i}" for i in range(arrays))
    loads = "".join(f"ld.param.u64 %rd{i}, [a{i}];\n" for i in range(arrays))
    return Module.parse(f"{HEAD}{parameters}) {{\n{REGISTERS}{loads}{body}\nret;\n}}\n")


def line_of(module: Module, text: str) -> int:
    """The line at which the first instruction that contains `text` stands."""
    return next(i.line for i in module.kernel("k").body if text in i.text)


def run(
    body: str,
    *arrays: np.ndarray,
    threads: int = 32,
    blocks: int = 1,
    dynamic_shared: int = 0,
    module: Module | None = None,
) -> tuple[list[np.ndarray], Report]:
    """Run a body on arrays; gives what they hold afterwards, and the report."""
    memory = Memory()
    addresses = [memory.upload(a) for a in arrays]
    report = launch(
        module or module_of(body, len(arrays)), "k", grid=(blocks,), block=(threads,),
        arguments=addresses, memory=memory, dynamic_shared=dynamic_shared,
    )  # fmt: skip
    return [memory.download(a) for a in addresses], report


def compute(code: str, inputs: Sequence[int], kinds: str = "b32", out: str = "b32") -> int:
    """What an instruction gives, as bits: `{d}` is its result, `{a}` `{b}` `{c}` its sources.

    Args:
        code: instructions; every thread runs them.
        inputs: bits of the sources.
        kinds: registers' type of the sources: one, or one for each.
        out: of the result.
    """
    registers = {"b16": "%h", "b32": "%r", "b64": "%rd", "f32": "%f", "f64": "%fd"}
    every = kinds.split() * (len(inputs) if len(kinds.split()) == 1 else 1)
    names, body = {}, ""
    for i, (_, kind) in enumerate(zip(inputs, every, strict=True)):
        name = f"{registers[kind]}{i + 4}"
        names["abc"[i]] = name
        wide = "b" + kind[1:]
        body += f"ld.global.{wide} {name}, [%rd0+{8 * i}];\n"
    names["d"] = f"{registers[out]}7"
    body += code.format(**names) + "\n"
    body += f"st.global.b{out[1:]} [%rd1], {names['d']};"
    # Threads store one value each to the same place, which is no race.
    size = int(out[1:])
    result = np.zeros(1, f"u{size // 8}")
    (_, (value,)), _ = run(body, np.array([*inputs, 0], np.uint64), result, threads=32)
    return int(value)


def bits(value: float, kind: str) -> int:
    """A number as the bits of f16, bf16, f32 or f64."""
    if kind == "bf16":
        return int(np.array([value], np.float32).view(np.uint32)[0]) >> 16
    dtype, unsigned = {
        "f16": (np.float16, np.uint16), "f32": (np.float32, np.uint32),
        "f64": (np.float64, np.uint64),
    }[kind]  # fmt: skip
    return int(np.array([value], dtype).view(unsigned)[0])
