# SPDX-License-Identifier: MIT
"""Loads, stores, atomics and asynchronous copies, in every space and width."""

from __future__ import annotations

import numpy as np
import pytest

from .harness import run

LANES = "mov.u32 %r1, %tid.x;\n"
SPACES = {"global": "%rd1", "shared": "buffer", "local": "buffer"}


@pytest.mark.parametrize(
    ("width", "vector"), [(w, v) for w in (8, 16, 32, 64) for v in (1, 2, 4) if w * v <= 128]
)
@pytest.mark.parametrize("space", ["global", "shared", "local", "generic"])
def test_what_was_stored_is_loaded(space: str, width: int, vector: int) -> None:
    size = width // 8 * vector
    register = {8: "%h", 16: "%h", 32: "%r", 64: "%rd"}[width]
    names = [f"{register}{i + 8}" for i in range(vector)]
    group = names[0] if vector == 1 else f"{{{', '.join(names)}}}"
    v = "" if vector == 1 else f".v{vector}"
    body = LANES + f"mul.wide.u32 %rd4, %r1, {size};\nadd.s64 %rd5, %rd0, %rd4;\n"
    body += f"add.s64 %rd6, %rd1, %rd4;\nld.global{v}.b{width} {group}, [%rd5];\n"
    if space != "global":
        kind = "local" if space == "local" else "shared"
        body = f".{kind} .align 16 .b8 buffer[{32 * size}];\n" + body
        body += "mov.u64 %rd7, buffer;\nadd.s64 %rd7, %rd7, %rd4;\n"
        name = f".{kind}"
        if space == "generic":
            body += "cvta.shared.u64 %rd7, %rd7;\n"
            name = ""
        body += f"st{name}{v}.b{width} [%rd7], {group};\n"
        body += "".join(f"mov.b{max(width, 16)} {n}, 0;\n" for n in names)
        body += f"ld{name}{v}.b{width} {group}, [%rd7];\n"
    body += f"st.global{v}.b{width} [%rd6], {group};"
    data = np.random.default_rng(0).integers(0, 256, 32 * size, np.uint8)
    (_, got), _ = run(body, data, np.zeros_like(data))
    assert np.array_equal(got, data)


@pytest.mark.parametrize(("kind", "expected"), [("s8", 2**32 - 2), ("u8", 254), ("s16", 2**32 - 2)])
def test_a_narrow_load_is_extended(kind: str, expected: int) -> None:
    data = np.array([0xFFFE], np.uint16)
    body = f"ld.global.{kind} %r1, [%rd0];\nst.global.b32 [%rd1], %r1;"
    (_, got), _ = run(
        body, data.view(np.uint8) if kind[1:] == "8" else data, np.zeros(1, np.uint32)
    )
    assert got[0] == expected


def test_constants_and_parameters() -> None:
    from ptx import Memory, Module, launch

    text = """
    .version 8.0
    .target sm_80
    .address_size 64
    .const .align 4 .u32 table[2] = {11, 22};
    .visible .entry k(.param .u64 out, .param .align 4 .b8 both[8]) {
      .reg .b32 %r<4>; .reg .b64 %rd<2>;
      ld.param.u64 %rd0, [out];
      ld.param.u32 %r0, [both+4];
      ld.const.u32 %r1, [table+4];
      add.s32 %r2, %r0, %r1;
      st.global.u32 [%rd0], %r2;
      ret;
    }"""
    memory = Memory()
    out = memory.upload(np.zeros(1, np.uint32))
    both = np.array([3, 400], np.uint32)
    launch(Module.parse(text), "k", grid=(1,), block=(1,), arguments=[out, both], memory=memory)
    assert memory.download(out)[0] == 422


# Name, type, start, operand of each of 32 lanes, end.
ATOMICS = [
    ("add", "u32", 5, [1] * 32, 37), ("min", "s32", 5, [-3] * 32, -3),
    ("max", "u32", 5, [9] * 32, 9),
    ("and", "b32", 0xFF, [0xF0] * 32, 0xF0), ("or", "b32", 1, [6] * 32, 7),
    ("xor", "b32", 1, [3] * 31 + [0], 2), ("exch", "b32", 1, [8] * 32, 8),
    ("inc", "u32", 0, [4] * 32, 2), ("dec", "u32", 0, [4] * 32, 3),
    ("add", "f32", 0.5, [0.25] * 32, 8.5),
]  # fmt: skip


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(("name", "kind", "start", "operands", "end"), ATOMICS)
def test_atomics(
    name: str, kind: str, start: float, operands: list[float], end: float, space: str
) -> None:
    dtype = {"u32": np.uint32, "b32": np.uint32, "s32": np.int32, "f32": np.float32}[kind]
    body = LANES + "mul.wide.u32 %rd4, %r1, 4;\nadd.s64 %rd5, %rd1, %rd4;\n"
    body += "ld.global.b32 %r2, [%rd5];\n"
    register = "%f2" if kind == "f32" else "%r2"
    body += "mov.b32 %f2, %r2;\n" if kind == "f32" else ""
    if space == "global":
        body += f"red.global.{name}.{kind} [%rd0], {register};"
    else:
        body = ".shared .align 4 .b32 cell;\n" + body + "ld.global.b32 %r3, [%rd0];\n"
        body += "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.b32 [cell], %r3;\nbar.sync 0;\n"
        body += f"atom.shared.{name}.{kind} _, [cell], {register};\nbar.sync 0;\n"
        body += "ld.shared.b32 %r3, [cell];\n@%p1 st.global.b32 [%rd0], %r3;"
    (cell, _), _ = run(body, np.array([start], dtype), np.array(operands, dtype))
    assert cell[0] == end


def test_an_atomic_gives_the_old_value_and_cas_changes_once() -> None:
    body = LANES + "mul.wide.u32 %rd4, %r1, 4;\nadd.s64 %rd5, %rd1, %rd4;\n"
    add = body + "atom.global.add.u32 %r2, [%rd0], 2;\nst.global.b32 [%rd5], %r2;"
    (cell, old), _ = run(add, np.array([10], np.uint32), np.zeros(32, np.uint32))
    assert cell[0] == 74
    assert sorted(old) == list(range(10, 74, 2))
    cas = body + "add.s32 %r3, %r1, 100;\n"
    cas += "atom.global.cas.b32 %r2, [%rd0], 10, %r3;\nst.global.b32 [%rd5], %r2;"
    (cell, old), _ = run(cas, np.array([10], np.uint32), np.zeros(32, np.uint32))
    assert cell[0] >= 100
    assert list(old).count(10) == 1


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("taken", [None, 0])
def test_asynchronous_copies(size: int, taken: int | None) -> None:
    source = "" if taken is None else f", {taken}"
    body = f".shared .align 16 .b8 buffer[{32 * size}];\n" + LANES
    body += (
        f"mul.wide.u32 %rd4, %r1, {size};\nadd.s64 %rd5, %rd0, %rd4;\nadd.s64 %rd6, %rd1, %rd4;\n"
    )
    body += f"mov.u32 %r2, buffer;\nmad.lo.s32 %r2, %r1, {size}, %r2;\n"
    body += f"cp.async.ca.shared.global [%r2], [%rd5], {size}{source};\n"
    body += "cp.async.commit_group;\ncp.async.wait_group 0;\n"
    for i in range(0, size, 4):
        body += f"ld.shared.b32 %r3, [%r2+{i}];\nst.global.b32 [%rd6+{i}], %r3;\n"
    data = np.arange(1, 8 * size + 1, dtype=np.uint32)
    (_, got), _ = run(body, data, np.zeros_like(data))
    assert np.array_equal(got, data if taken is None else 0 * data)
