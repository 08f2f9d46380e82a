# SPDX-License-Identifier: MIT
"""Integer and bit arithmetic on arrays, as PTX defines it. Types are those of the arrays."""

from __future__ import annotations

import numpy as np

from .types import UNSIGNED


def bits_of(x: np.ndarray) -> int:
    """Width of its elements."""
    return x.dtype.itemsize * 8


def unsigned(x: np.ndarray) -> np.ndarray:
    """The same bits as unsigned integers."""
    return x.view(UNSIGNED[x.dtype.itemsize])


def multiply_wide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The whole product, of twice the width (16 and 32 bits)."""
    wide = np.dtype(f"{a.dtype.kind}{a.dtype.itemsize * 2}")
    return a.astype(wide) * b.astype(wide)


def multiply_high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product."""
    if bits_of(a) < 64:
        return (multiply_wide(a, b) >> bits_of(a)).astype(a.dtype)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = np.broadcast_arrays(unsigned(a), unsigned(b))
    x0, x1, y0, y1 = x & low, x >> shift, y & low, y >> shift
    middle = x1 * y0 + (x0 * y0 >> shift)
    upper = x1 * y1 + (middle >> shift) + ((x0 * y1 + (middle & low)) >> shift)
    if a.dtype.kind == "i":  # each negative factor counts 2^64 too much of the other
        upper = upper - np.where(a < 0, y, 0) - np.where(b < 0, x, 0)
    return upper.view(a.dtype)


def multiply_24(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`mul24.lo`: the product of the lower 24 bits."""
    shift = a.dtype.type(8)
    return (a << shift >> shift) * (b << shift >> shift)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The quotient, rounded towards zero; whoever calls has checked that no divisor is zero."""
    b = np.where(b == 0, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        return a // b
    quotient = unsigned(absolute(a)) // unsigned(absolute(b))
    negative = (a < 0) != (b < 0)
    return np.where(negative, np.zeros_like(quotient) - quotient, quotient).view(a.dtype)


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What `divide` leaves; it has the sign of `a`."""
    b = np.where(b == 0, b.dtype.type(1), b)
    return a - divide(a, b) * b


def absolute(a: np.ndarray) -> np.ndarray:
    """The absolute value; the least integer stays as it is."""
    return np.where(a < 0, np.zeros_like(a) - a, a)


def negate(a: np.ndarray) -> np.ndarray:
    """The negative."""
    return np.zeros_like(a) - a


def add_saturating(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`add.sat.s32`."""
    return _saturate(a.astype(np.int64) + b.astype(np.int64))


def subtract_saturating(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`sub.sat.s32`."""
    return _saturate(a.astype(np.int64) - b.astype(np.int64))


def _saturate(wide: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int32)
    return np.clip(wide, limits.min, limits.max).astype(np.int32)


def shift_left(a: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """`shl`: amounts of the width and more give zero."""
    width = bits_of(a)
    shifted = a << (amount & np.uint32(width - 1)).astype(a.dtype)
    return np.where(amount < width, shifted, a.dtype.type(0))


def shift_right(a: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """`shr`: amounts of the width and more give what the sign bit says, or zero."""
    return (
        a
        >> np.minimum(amount, np.uint32(bits_of(a) - 1)).astype(a.dtype)
        >> np.where(amount < bits_of(a), a.dtype.type(0), a.dtype.type(1))
    )


def funnel(low: np.ndarray, high: np.ndarray, amount: np.ndarray, left: bool, wrap: bool):
    """`shf`: a shift of the 64 bits (high, low), of which it keeps 32."""
    amount = amount & np.uint32(31) if wrap else np.minimum(amount, np.uint32(32))
    both = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    wide = amount.astype(np.uint64)
    if left:
        return ((both << wide) >> np.uint64(32)).astype(np.uint32)
    return (both >> wide).astype(np.uint32)


def count_ones(a: np.ndarray) -> np.ndarray:
    """`popc`."""
    return np.bitwise_count(a).astype(np.uint32)


def find_highest(a: np.ndarray) -> np.ndarray:
    """The position of the highest bit that is set, or -1."""
    smeared = unsigned(a).copy()
    for shift in (1, 2, 4, 8, 16, 32)[: bits_of(a).bit_length() - 1]:
        smeared |= smeared >> smeared.dtype.type(shift)
    return np.bitwise_count(smeared).astype(np.int32) - 1


def leading_zeros(a: np.ndarray) -> np.ndarray:
    """`clz`."""
    return (bits_of(a) - 1 - find_highest(a)).astype(np.uint32)


def find(a: np.ndarray, shift_amount: bool) -> np.ndarray:
    """`bfind`: the highest bit that is not the sign; -1 if there is none."""
    bits = unsigned(np.where(a < 0, ~a, a)) if a.dtype.kind == "i" else a
    place = find_highest(bits)
    if shift_amount:
        place = np.where(place < 0, -1, bits_of(a) - 1 - place)
    return place.astype(np.int32).view(np.uint32)


def reverse_bits(a: np.ndarray) -> np.ndarray:
    """`brev`."""
    width = a.dtype.itemsize
    digits = np.unpackbits(a.view(np.uint8).reshape(-1, width), axis=1, bitorder="little")
    return np.packbits(digits[:, ::-1], axis=1, bitorder="little").reshape(-1).view(a.dtype)


def extract_field(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`bfe`: a field of bits; a signed one is extended by its highest bit."""
    width = bits_of(a)
    start, length = (start & np.uint32(255)).astype(np.int64), length & np.uint32(255)
    length = length.astype(np.int64)
    source = unsigned(a)
    cut = lambda position: shift_right(source, position.astype(np.uint32))  # noqa: E731
    mask = ~shift_left(np.full_like(source, -1 & (1 << width) - 1), length.astype(np.uint32))
    field = cut(start) & mask
    if a.dtype.kind == "u":
        return field
    top = np.minimum(start + length - 1, width - 1)
    sign = (cut(np.maximum(top, 0)) & source.dtype.type(1)).astype(bool) & (length > 0)
    # Bits past the width are the sign as well.
    inside = np.clip(width - start, 0, length).astype(np.uint32)
    ones = shift_left(np.full_like(source, (1 << width) - 1), inside)
    return np.where(sign, field | ones, field).astype(source.dtype).view(a.dtype)


def insert_field(
    a: np.ndarray, into: np.ndarray, start: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """`bfi`: puts the low bits of `a` into a field of `into`."""
    start, length = start & np.uint32(255), length & np.uint32(255)
    ones = np.full_like(into, (1 << bits_of(into)) - 1)
    mask = shift_left(~shift_left(ones, length), start)
    return (into & ~mask) | (shift_left(a, start) & mask)


def permute_bytes(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """`prmt` in its default mode: each digit of the selector picks a byte, or its sign."""
    both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
    result = np.zeros(np.broadcast_shapes(both.shape, selector.shape), np.uint32)
    for place in range(4):
        digit = selector >> np.uint32(4 * place) & np.uint32(15)
        byte = (both >> (np.uint64(8) * (digit & np.uint32(7)).astype(np.uint64))).astype(np.uint32)
        byte = byte & np.uint32(255)
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        result |= np.where(digit & np.uint32(8), sign, byte) << np.uint32(8 * place)
    return result


def logic(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: int) -> np.ndarray:
    """`lop3`: any function of three bits, by its table."""
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    for row in range(8):
        if table >> row & 1:
            term = [x if row >> bit & 1 else ~x for x, bit in ((a, 2), (b, 1), (c, 0))]
            result |= term[0] & term[1] & term[2]
    return result


def dot_4(a: np.ndarray, b: np.ndarray, c: np.ndarray, types: tuple[str, str]) -> np.ndarray:
    """`dp4a`: the sum of the products of four bytes, and `c`."""
    x, y = (
        np.ascontiguousarray(v).view(np.int8 if t == "s32" else np.uint8).reshape(-1, 4)
        for v, t in zip((a, b), types, strict=True)
    )
    return ((x.astype(np.int64) * y).sum(axis=1) + c).astype(c.dtype)
