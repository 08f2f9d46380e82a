# SPDX-License-Identifier: MIT
"""`mma.sync` against a product of matrices, and `ldmatrix` against where it must read."""

from __future__ import annotations

import numpy as np
import pytest

from .harness import run

RANDOM = np.random.default_rng(0)


def small(*shape: int) -> np.ndarray:
    """Numbers that all types hold, and whose sums are exact."""
    return RANDOM.integers(-8, 9, shape).astype(np.float32)


def words(matrix: np.ndarray, kind: str) -> np.ndarray:
    """Rows of values as 32-bit words: one float32, or two neighbouring 16-bit values."""
    if kind == "tf32":
        return matrix.view(np.uint32)
    if kind == "f16":
        return np.ascontiguousarray(matrix.astype(np.float16)).view(np.uint32)
    return np.ascontiguousarray((matrix.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint32)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("m16n8k16", "f16"), ("m16n8k8", "f16"), ("m16n8k16", "bf16"), ("m16n8k8", "bf16"),
     ("m16n8k8", "tf32"), ("m16n8k4", "tf32")],
)  # fmt: skip
def test_mma(shape: str, kind: str) -> None:
    depth = int(shape.split("k")[1])
    a, b, c = small(16, depth), small(depth, 8), small(16, 8)
    rows, columns = words(a, kind), words(np.ascontiguousarray(b.T), kind)  # [16][w], [8][w]
    halves = rows.shape[1] // 4
    g, t = np.arange(32) // 4, np.arange(32) % 4
    # PTX ISA, "Matrix Fragments for mma": a0 (g, t), a1 (g + 8, t), a2 (g, t + 4), a3 (g + 8, ...).
    of_a = [rows[g + 8 * (i % 2), t + 4 * (i // 2)] for i in range(2 * halves)]
    of_b = [columns[g, t + 4 * i] for i in range(halves)]
    of_c = [c[g + 8 * (i // 2), 2 * t + i % 2].view(np.uint32) for i in range(4)]
    fragments = np.stack([*of_a, *of_b, *of_c], 1).astype(np.uint32)
    n, m = len(of_a), len(of_b)
    body = f"mov.u32 %r1, %tid.x;\nmul.wide.u32 %rd4, %r1, {4 * (n + m + 4)};\n"
    body += "add.s64 %rd5, %rd0, %rd4;\n"
    for i in range(n + m + 4):
        name = f"%r{10 + i}" if i < n + m else f"%f{i - n - m}"
        body += f"ld.global.b32 {name}, [%rd5+{4 * i}];\n"
    of = ", ".join
    registers = [f"%r{10 + i}" for i in range(n + m)]
    sums = "{%f0, %f1, %f2, %f3}"
    body += f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {sums}, "
    body += f"{{{of(registers[:n])}}}, {{{of(registers[n:])}}}, {sums};\n"
    body += "mul.wide.u32 %rd4, %r1, 16;\nadd.s64 %rd5, %rd1, %rd4;\n"
    body += f"st.global.v4.f32 [%rd5], {sums};"
    (_, got), report = run(body, fragments, np.zeros((32, 4), np.float32))
    result = np.zeros((16, 8), np.float32)
    for i in range(4):
        result[g + 8 * (i // 2), 2 * t + i % 2] = got[:, i]
    assert np.array_equal(result, a @ b + c)
    assert report.counts.mma == 1


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count: int, transposed: bool) -> None:
    matrices = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    registers = ", ".join(f"%r{10 + i}" for i in range(count))
    body = f""".shared .align 16 .b8 rows[{128 * count}];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, rows;
    mad.lo.s32 %r3, %r1, 16, %r2;
    mul.wide.u32 %rd4, %r1, 16;
    add.s64 %rd5, %rd0, %rd4;
    setp.lt.u32 %p1, %r1, {8 * count};
    @%p1 ld.global.v2.b64 {{%rd6, %rd7}}, [%rd5];
    @%p1 st.shared.v2.b64 [%r3], {{%rd6, %rd7}};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x{count}{".trans" * transposed}.shared.b16 {{{registers}}}, [%r3];
    mul.wide.u32 %rd4, %r1, {4 * count};
    add.s64 %rd5, %rd1, %rd4;
    """
    body += "".join(f"st.global.b32 [%rd5+{4 * i}], %r{10 + i};\n" for i in range(count))
    (_, got), _ = run(body, matrices, np.zeros((32, count), np.uint32))
    lane = np.arange(32)
    for i, matrix in enumerate(matrices):
        source = matrix.T if transposed else matrix
        low, high = source[lane // 4, lane % 4 * 2], source[lane // 4, lane % 4 * 2 + 1]
        assert np.array_equal(got[:, i], low.astype(np.uint32) | high.astype(np.uint32) << 16)
