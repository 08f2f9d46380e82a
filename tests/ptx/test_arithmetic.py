# SPDX-License-Identifier: MIT
"""Integers, bits, floats, comparisons and choices: what they give, worked out by hand."""

from __future__ import annotations

import pytest

from .harness import bits, compute

M = 0xFFFFFFFF  # -1 in 32 bits
MIN = 0x80000000

# Instruction, sources, result, kinds of the sources' registers (b32), of the result's.
INTEGER = [
    ("add.s32 {d}, {a}, {b};", (M, 2), 1),
    ("add.s32 {d}, {a}, {b};", (0x7FFFFFFF, 1), MIN),
    ("add.sat.s32 {d}, {a}, {b};", (0x7FFFFFFF, 1), 0x7FFFFFFF),
    ("sub.s32 {d}, {a}, {b};", (3, 5), M - 1),
    ("sub.sat.s32 {d}, {a}, {b};", (MIN, 1), MIN),
    ("add.s64 {d}, {a}, {b};", (2**63, 2**63 + 5), 5, "b64", "b64"),
    ("add.s16 {d}, {a}, {b};", (0xFFFF, 3), 2, "b16", "b16"),
    ("mul.lo.s32 {d}, {a}, {b};", (0x10001, 0x10001), 0x20001),
    ("mul.hi.u32 {d}, {a}, {b};", (M, M), M - 1),
    ("mul.hi.s32 {d}, {a}, {b};", (M, M), 0),
    ("mul.wide.u32 {d}, {a}, {b};", (M, M), 0xFFFFFFFE00000001, "b32", "b64"),
    ("mul.wide.s32 {d}, {a}, {b};", (M, 7), 2**64 - 7, "b32", "b64"),
    ("mul.hi.u64 {d}, {a}, {b};", (2**64 - 1, 2**64 - 1), 2**64 - 2, "b64", "b64"),
    ("mul.hi.s64 {d}, {a}, {b};", (2**64 - 1, 5), 2**64 - 1, "b64", "b64"),
    ("mad.lo.s32 {d}, {a}, {b}, {c};", (7, M, 3), M - 3),
    ("mad.wide.s32 {d}, {a}, {b}, {c};", (M, 3, 10), 7, "b32 b32 b64", "b64"),
    ("mul24.lo.u32 {d}, {a}, {b};", (0xFF000003, 5), 15),
    ("div.s32 {d}, {a}, {b};", (M - 6, 2), M - 2),  # -7 / 2 = -3
    ("div.u32 {d}, {a}, {b};", (M - 6, 2), 0x7FFFFFFC),
    ("rem.s32 {d}, {a}, {b};", (M - 6, 2), M),  # -7 = -3 * 2 - 1
    ("rem.u32 {d}, {a}, {b};", (17, 5), 2),
    ("abs.s32 {d}, {a};", (M - 4,), 5),
    ("neg.s32 {d}, {a};", (5,), M - 4),
    ("min.s32 {d}, {a}, {b};", (M, 1), M),
    ("min.u32 {d}, {a}, {b};", (M, 1), 1),
    ("max.s32 {d}, {a}, {b};", (M, 1), 1),
    ("max.u32 {d}, {a}, {b};", (M, 1), M),
    ("and.b32 {d}, {a}, {b};", (0b1100, 0b1010), 0b1000),
    ("or.b32 {d}, {a}, {b};", (0b1100, 0b1010), 0b1110),
    ("xor.b32 {d}, {a}, {b};", (0b1100, 0b1010), 0b0110),
    ("not.b32 {d}, {a};", (1,), M - 1),
    ("cnot.b32 {d}, {a};", (0,), 1),
    ("cnot.b32 {d}, {a};", (9,), 0),
    ("shl.b32 {d}, {a}, {b};", (3, 31), MIN),
    ("shl.b32 {d}, {a}, {b};", (3, 32), 0),
    ("shr.u32 {d}, {a}, {b};", (MIN, 31), 1),
    ("shr.s32 {d}, {a}, {b};", (MIN, 99), M),
    ("shr.u32 {d}, {a}, 32;", (MIN,), 0),
    ("shf.l.wrap.b32 {d}, {a}, {b}, {c};", (0x80000001, 0x12345678, 36), 0x23456788),
    ("shf.r.clamp.b32 {d}, {a}, {b}, {c};", (0x80000001, 0x12345678, 40), 0x12345678),
    ("popc.b32 {d}, {a};", (0xF0F1,), 9),
    ("clz.b32 {d}, {a};", (0x00800000,), 8),
    ("clz.b32 {d}, {a};", (0,), 32),
    ("brev.b32 {d}, {a};", (0b1011,), 0xD0000000),
    ("bfind.u32 {d}, {a};", (0x500,), 10),
    ("bfind.s32 {d}, {a};", (M,), M),
    ("bfind.shiftamt.u32 {d}, {a};", (0x500,), 21),
    ("bfe.u32 {d}, {a}, {b}, {c};", (0xABCD1234, 8, 12), 0xD12),
    ("bfe.s32 {d}, {a}, {b}, {c};", (0xABCD1234, 8, 12), 0xFFFFFD12),
    ("bfi.b32 {d}, {a}, {b}, 8, 4;", (0xF5, M), 0xFFFFF5FF),
    ("prmt.b32 {d}, {a}, {b}, {c};", (0x33221100, 0x77665544, 0x7140), 0x77114400),
    ("prmt.b32 {d}, {a}, {b}, {c};", (0x80, 0, 0x9998), 0x000000FF),
    ("lop3.b32 {d}, {a}, {b}, {c}, 0x96;", (0b1100, 0b1010, 0b1001), 0b1111),
    ("lop3.b32 {d}, {a}, {b}, {c}, 0xCA;", (0b1100, 0b1010, 0b0101), 0b1001),
    ("dp4a.u32.u32 {d}, {a}, {b}, {c};", (0x01020304, 0x05060708, 100), 170),
    ("dp4a.s32.s32 {d}, {a}, {b}, {c};", (0xFF000000, 0x02000000, 5), 3),
    ("slct.b32.s32 {d}, {a}, {b}, {c};", (4, 5, M), 5),
    ("slct.b32.s32 {d}, {a}, {b}, {c};", (4, 5, 0), 4),
    ("mov.b32 {d}, {a};", (77,), 77),
    ("mov.b32 {d}, {{{a}, {b}}};", (0x1234, 0xABCD), 0xABCD1234, "b16", "b32"),
    ("mov.b32 {{_, {d}}}, {a};", (0xABCD1234,), 0xABCD, "b32", "b16"),
    ("mov.b64 {d}, {{{a}, {b}}};", (1, 2), 0x200000001, "b32", "b64"),
]  # fmt: skip


@pytest.mark.parametrize("row", INTEGER, ids=str)
def test_integers_and_bits(row: tuple) -> None:
    code, inputs, expected, *kinds = row
    assert compute(code, inputs, *kinds) == expected


# Instruction, sources, result, type; numbers are written as such.
TINY = 2.0**-24
REAL = [
    ("add.rn.f32 {d}, {a}, {b};", (1.0, TINY), 1.0),  # a tie, to even
    ("add.rp.f32 {d}, {a}, {b};", (1.0, TINY), 1.0 + 2.0**-23),
    ("add.rm.f32 {d}, {a}, {b};", (-1.0, -TINY), -1.0 - 2.0**-23),
    ("add.rz.f32 {d}, {a}, {b};", (1.0 + 2.0**-23, TINY), 1.0 + 2.0**-23),
    ("sub.f32 {d}, {a}, {b};", (1.5, 2.25), -0.75),
    ("mul.rn.f32 {d}, {a}, {b};", (1.0 + 2.0**-23, 1.0 + 2.0**-23), 1.0 + 2.0**-22),
    ("mul.rp.f32 {d}, {a}, {b};", (1.0 + 2.0**-23, 1.0 + 2.0**-23), 1.0 + 3 * 2.0**-23),
    ("add.ftz.f32 {d}, {a}, {b};", (2.0**-127, 0.0), 0.0),
    ("add.f32 {d}, {a}, {b};", (2.0**-127, 0.0), 2.0**-127),
    ("add.sat.f32 {d}, {a}, {b};", (3.0, 4.0), 1.0),
    ("add.sat.f32 {d}, {a}, {b};", (-3.0, 1.0), 0.0),
    # One rounding: the product alone would have lost 2^-46.
    ("fma.rn.f32 {d}, {a}, {b}, {c};", (1 + 2.0**-23, 1 - 2.0**-23, -1.0), -(2.0**-46)),
    ("mad.rn.f32 {d}, {a}, {b}, {c};", (3.0, 4.0, 5.0), 17.0),
    ("div.rn.f32 {d}, {a}, {b};", (7.0, 2.0), 3.5),
    ("sqrt.rn.f32 {d}, {a};", (6.25,), 2.5),
    ("rcp.rn.f32 {d}, {a};", (8.0,), 0.125),
    ("rsqrt.approx.f32 {d}, {a};", (16.0,), 0.25),
    ("ex2.approx.f32 {d}, {a};", (-3.0,), 0.125),
    ("lg2.approx.f32 {d}, {a};", (0.25,), -2.0),
    ("sin.approx.f32 {d}, {a};", (0.0,), 0.0),
    ("cos.approx.f32 {d}, {a};", (0.0,), 1.0),
    ("tanh.approx.f32 {d}, {a};", (0.0,), 0.0),
    ("abs.f32 {d}, {a};", (-2.5,), 2.5),
    ("neg.f32 {d}, {a};", (2.5,), -2.5),
    ("min.f32 {d}, {a}, {b};", (2.0, -1.0), -1.0),
    ("max.f32 {d}, {a}, {b};", (2.0, -1.0), 2.0),
    ("max.f32 {d}, {a}, {b};", (float("nan"), 2.0), 2.0),
    ("min.f32 {d}, {a}, {b};", (0.0, -0.0), -0.0),
]  # fmt: skip


@pytest.mark.parametrize(("code", "inputs", "expected"), REAL)
def test_float32(code: str, inputs: tuple[float, ...], expected: float) -> None:
    sources = [bits(x, "f32") for x in inputs]
    assert compute(code, sources, "f32", "f32") == bits(expected, "f32")


def test_max_nan_keeps_nan() -> None:
    nan, two = bits(float("nan"), "f32"), bits(2.0, "f32")
    result = compute("max.NaN.f32 {d}, {a}, {b};", [nan, two], "f32", "f32")
    assert result & 0x7F800000 == 0x7F800000
    assert result & 0x7FFFFF


# 2^-11 beside 1 is half a unit of f16; 2^-8 that of bf16.
HALF = [
    ("f16", "add.f16 {d}, {a}, {b};", (1.0, 2.0**-11), 1.0),
    ("f16", "add.f16 {d}, {a}, {b};", (1.0, 2.0**-10), 1.0 + 2.0**-10),
    ("f16", "mul.f16 {d}, {a}, {b};", (60000.0, 2.0), float("inf")),
    ("f16", "fma.rn.f16 {d}, {a}, {b}, {c};", (2.0, 3.0, 0.5), 6.5),
    ("f16", "fma.rn.relu.f16 {d}, {a}, {b}, {c};", (2.0, -3.0, 0.5), 0.0),
    ("bf16", "fma.rn.bf16 {d}, {a}, {b}, {c};", (1.0, 1.0, 2.0**-8), 1.0),
    ("bf16", "fma.rn.bf16 {d}, {a}, {b}, {c};", (1.0, 1.0, 2.0**-7), 1.0 + 2.0**-7),
    ("bf16", "max.bf16 {d}, {a}, {b};", (-3.0, 2.0), 2.0),
    ("f64", "add.f64 {d}, {a}, {b};", (1.0, 2.0**-52), 1.0 + 2.0**-52),
    ("f64", "fma.rn.f64 {d}, {a}, {b}, {c};", (1 + 2.0**-52, 1 - 2.0**-52, -1.0), -(2.0**-104)),
    ("f64", "div.rn.f64 {d}, {a}, {b};", (1.0, 4.0), 0.25),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "inputs", "expected"), HALF)
def test_other_floats(kind: str, code: str, inputs: tuple[float, ...], expected: float) -> None:
    register = "f64" if kind == "f64" else "b16"
    sources = [bits(x, kind) for x in inputs]
    assert compute(code, sources, register, register) == bits(expected, kind)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_pairs(kind: str) -> None:
    pair = lambda high, low: bits(high, kind) << 16 | bits(low, kind)  # noqa: E731
    code = f"fma.rn.{kind}x2 {{d}}, {{a}}, {{b}}, {{c}};"
    got = compute(code, [pair(2.0, 3.0), pair(4.0, -1.0), pair(0.5, 0.25)])
    assert got == pair(8.5, -2.75)


# ---- comparisons --------------------------------------------------------------------------------

NAN = float("nan")
COMPARE = [
    ("eq", "s32", 1, 1, True), ("ne", "s32", 1, 1, False), ("lt", "s32", M, 0, True),
    ("lt", "u32", M, 0, False), ("le", "s32", 3, 3, True), ("gt", "u32", M, 0, True),
    ("ge", "s32", M, 0, False), ("lo", "u32", 1, M, True), ("ls", "u32", 2, 2, True),
    ("hi", "u32", M, 1, True), ("hs", "u32", 1, 2, False), ("eq", "b32", 7, 7, True),
    ("lt", "f32", 1.0, 2.0, True), ("eq", "f32", 0.0, -0.0, True), ("ne", "f32", NAN, 1.0, False),
    ("lt", "f32", NAN, 1.0, False), ("ltu", "f32", NAN, 1.0, True), ("neu", "f32", NAN, NAN, True),
    ("equ", "f32", 1.0, 2.0, False), ("geu", "f32", 3.0, 2.0, True), ("num", "f32", 1.0, 2.0, True),
    ("num", "f32", NAN, 2.0, False), ("nan", "f32", 1.0, NAN, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "a", "b", "expected"), COMPARE)
def test_comparisons(name: str, kind: str, a: float, b: float, expected: bool) -> None:
    register = "f32" if kind == "f32" else "b32"
    sources = [bits(x, "f32") if kind == "f32" else int(x) for x in (a, b)]
    code = f"setp.{name}.{kind} %p1|%p2, {{a}}, {{b}};\nselp.b32 %r1, 1, 0, %p1;\n"
    code += "selp.b32 %r2, 2, 0, %p2;\nor.b32 {d}, %r1, %r2;"
    assert compute(code, sources, register) == (1 if expected else 2)
    assert compute(f"set.{name}.u32.{kind} {{d}}, {{a}}, {{b}};", sources, register) == (
        M if expected else 0
    )


@pytest.mark.parametrize(
    ("combine", "other", "expected"),
    [("and", 1, 1), ("and", 0, 0), ("or", 0, 1), ("xor", 1, 0), ("xor", 0, 1)],
)
def test_comparison_combined_with_a_predicate(combine: str, other: int, expected: int) -> None:
    code = "setp.ne.u32 %p1, {b}, 0;\n"
    code += f"setp.lt.{combine}.u32 %p2, {{a}}, 5, %p1;\nselp.u32 {{d}}, 1, 0, %p2;"
    assert compute(code, [3, other]) == expected


@pytest.mark.parametrize(("chosen", "expected"), [(1, 11), (0, 22)])
def test_select(chosen: int, expected: int) -> None:
    code = "setp.ne.u32 %p1, {c}, 0;\nselp.b32 {d}, {a}, {b}, %p1;"
    assert compute(code, [11, 22, chosen]) == expected


# ---- conversions --------------------------------------------------------------------------------

CONVERT = [
    ("cvt.s64.s32", M, "b32", 2**64 - 1, "b64"),
    ("cvt.u64.u32", M, "b32", M, "b64"),
    ("cvt.u16.u32", 0x12345, "b32", 0x2345, "b16"),
    ("cvt.s32.s16", 0xFFFE, "b16", M - 1, "b32"),
    ("cvt.sat.s16.s32", 70000, "b32", 0x7FFF, "b16"),
    ("cvt.sat.u16.s32", M, "b32", 0, "b16"),
    ("cvt.rn.f32.s32", M, "b32", bits(-1.0, "f32"), "f32"),
    ("cvt.rn.f32.u32", 2**24 + 1, "b32", bits(2.0**24, "f32"), "f32"),
    ("cvt.rp.f32.u32", 2**24 + 1, "b32", bits(2.0**24 + 2, "f32"), "f32"),
    ("cvt.rz.f32.u32", 2**24 + 3, "b32", bits(2.0**24 + 2, "f32"), "f32"),
    ("cvt.rni.s32.f32", bits(2.5, "f32"), "f32", 2, "b32"),
    ("cvt.rni.s32.f32", bits(3.5, "f32"), "f32", 4, "b32"),
    ("cvt.rzi.s32.f32", bits(-2.7, "f32"), "f32", M - 1, "b32"),
    ("cvt.rmi.s32.f32", bits(-2.1, "f32"), "f32", M - 2, "b32"),
    ("cvt.rpi.s32.f32", bits(2.1, "f32"), "f32", 3, "b32"),
    ("cvt.rzi.s32.f32", bits(1e20, "f32"), "f32", 0x7FFFFFFF, "b32"),
    ("cvt.rzi.s32.f32", bits(-1e20, "f32"), "f32", MIN, "b32"),
    ("cvt.rzi.u32.f32", bits(-5.0, "f32"), "f32", 0, "b32"),
    ("cvt.rzi.s32.f32", bits(NAN, "f32"), "f32", 0, "b32"),
    ("cvt.rni.f32.f32", bits(2.5, "f32"), "f32", bits(2.0, "f32"), "f32"),
    ("cvt.sat.f32.f32", bits(1.5, "f32"), "f32", bits(1.0, "f32"), "f32"),
    ("cvt.rn.f16.f32", bits(1 + 2.0**-11, "f32"), "f32", bits(1.0, "f16"), "b16"),
    ("cvt.rn.f16.f32", bits(1 + 3 * 2.0**-11, "f32"), "f32", bits(1 + 2.0**-9, "f16"), "b16"),
    ("cvt.rz.f16.f32", bits(1 + 3 * 2.0**-11, "f32"), "f32", bits(1 + 2.0**-10, "f16"), "b16"),
    ("cvt.rn.f16.f32", bits(1e6, "f32"), "f32", 0x7C00, "b16"),
    ("cvt.rn.bf16.f32", bits(1 + 2.0**-8, "f32"), "f32", bits(1.0, "bf16"), "b16"),
    ("cvt.rn.bf16.f32", bits(1 + 3 * 2.0**-8, "f32"), "f32", bits(1 + 2.0**-6, "bf16"), "b16"),
    ("cvt.f32.f16", bits(-0.375, "f16"), "b16", bits(-0.375, "f32"), "f32"),
    ("cvt.f32.bf16", bits(-0.375, "bf16"), "b16", bits(-0.375, "f32"), "f32"),
    ("cvt.f64.f32", bits(0.1, "f32"), "f32", bits(0.10000000149011612, "f64"), "f64"),
    ("cvt.rn.f32.f64", bits(0.1, "f64"), "f64", bits(0.1, "f32"), "f32"),
    ("cvt.rna.tf32.f32", bits(1 + 2.0**-11, "f32"), "f32", bits(1 + 2.0**-10, "f32"), "b32"),
    ("cvt.rna.tf32.f32", bits(1 + 2.0**-12, "f32"), "f32", bits(1.0, "f32"), "b32"),
    ("cvt.rn.tf32.f32", bits(1 + 2.0**-11, "f32"), "f32", bits(1.0, "f32"), "b32"),
    ("cvt.ftz.f32.f16", 1, "b16", bits(2.0**-24, "f32"), "f32"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "value", "source", "expected", "target"), CONVERT)
def test_conversions(code: str, value: int, source: str, expected: int, target: str) -> None:
    assert compute(f"{code} {{d}}, {{a}};", [value], source, target) == expected


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_two_floats_become_a_pair_whose_first_is_the_upper_half(kind: str) -> None:
    sources = [bits(1.5, "f32"), bits(-2.0, "f32")]
    got = compute(f"cvt.rn.{kind}x2.f32 {{d}}, {{a}}, {{b}};", sources, "f32", "b32")
    assert got == bits(1.5, kind) << 16 | bits(-2.0, kind)
    got = compute(f"cvt.rn.relu.{kind}x2.f32 {{d}}, {{a}}, {{b}};", sources, "f32", "b32")
    assert got == bits(1.5, kind) << 16
