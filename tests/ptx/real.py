# SPDX-License-Identifier: MIT
"""Floating-point arithmetic on arrays, rounded as PTX says.

Sums and products are computed in float64 together with the error of that (which is exact), and
rounded once to the type. So `add`, `sub`, `mul` and `fma` of all types but f64 are right to the
last bit in every rounding mode, save f32 results that are subnormal and lie within 2^-29 of the
middle of two. Functions that hardware approximates are computed in float64 and rounded to
nearest: hardware may differ in the last bits. Which NaN comes out of a NaN is not defined here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def bfloat_to_float(x: Array) -> Array:
    """bf16 bits as f32."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def widen(x: Array, kind: str) -> Array:
    """Values of a type as float64."""
    return (bfloat_to_float(x) if kind == "bf16" else x).astype(np.float64)


def float_to_bfloat(x: Array, mode: str = "rn") -> Array:
    """f32 as bf16 bits."""
    bits = x.view(np.uint32)
    if mode == "rn":
        rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    elif mode == "rz":
        rounded = bits
    else:
        up = np.signbit(x) if mode == "rm" else ~np.signbit(x)
        rounded = bits + np.where(up, np.uint32(0xFFFF), np.uint32(0))
    special = ~np.isfinite(x)
    bits = np.where(special, bits, rounded) >> np.uint32(16)
    return np.where(np.isnan(x), 0x7FFF, bits).astype(np.uint16)


def narrow(value: Array, kind: str, mode: str = "rn", error: Array | float = 0.0) -> Array:
    """Rounds ``value + error``, of which the second is far smaller, to a type.

    Args:
        value: float64.
        kind: "f16", "bf16", "f32" or "f64" (which leaves out the error).
        mode: "rn" (ties to even), "rz", "rm" (down) or "rp" (up).
        error: What float64 could not hold.

    Returns:
        An array as the type is held.
    """
    if kind == "f64":
        return value
    if kind == "bf16":
        # Rounding to odd keeps in the last bit whether anything was cut off.
        wide = narrow(value, "f32", "rz", error)
        inexact = ((wide != value) | (error != 0)) & np.isfinite(wide)
        return float_to_bfloat((wide.view(np.uint32) | inexact).view(np.float32), mode)
    dtype = np.float16 if kind == "f16" else np.float32
    result = value.astype(dtype)
    if mode == "rn" and np.all(error == 0):
        return result
    gap = value - result.astype(np.float64)
    toward = np.nextafter(result, np.where(gap > 0, np.inf, -np.inf).astype(dtype))
    if mode == "rn":
        tie = (toward.astype(np.float64) - value == gap) & (gap * error > 0)
        return np.where(tie, toward, result)
    side = np.where(gap != 0, gap, error)  # where the true value lies, seen from the result
    if mode == "rz":
        away = np.where(np.signbit(result), side > 0, side < 0)
    else:
        away = side < 0 if mode == "rm" else side > 0
    step = np.where(side > 0, np.inf, -np.inf).astype(dtype)
    return np.where(away & ~np.isnan(value), np.nextafter(result, step), result).astype(dtype)


def add(a: Array, b: Array, kind: str, mode: str) -> Array:
    """`add`."""
    if mode == "rn" and kind in ("f32", "f64"):
        return a + b
    x, y = widen(a, kind), widen(b, kind)
    total = x + y
    return narrow(total, kind, mode, _error(x, y, total))


def subtract(a: Array, b: Array, kind: str, mode: str) -> Array:
    """`sub`."""
    return a - b if mode == "rn" and kind in ("f32", "f64") else add(a, negate(b, kind), kind, mode)


def multiply(a: Array, b: Array, kind: str, mode: str) -> Array:
    """`mul`."""
    if mode == "rn" and kind in ("f32", "f64"):
        return a * b
    return narrow(widen(a, kind) * widen(b, kind), kind, mode)


def fused(a: Array, b: Array, c: Array, kind: str, mode: str) -> Array:
    """`fma`: one rounding."""
    if kind == "f64":
        return _fused_double(a, b, c)
    product, addend = widen(a, kind) * widen(b, kind), widen(c, kind)
    total = product + addend
    if kind == "f32" and mode == "rn":
        # The error matters only where float64 lies in the middle of two float32.
        middle = (total.view(np.uint64) << np.uint64(35)) == np.uint64(1 << 63)
        if not middle.any():
            return total.astype(np.float32)
    return narrow(total, kind, mode, _error(product, addend, total))


def _error(a: Array, b: Array, total: Array) -> Array:
    """What ``a + b`` lost to rounding."""
    part = total - a
    error = (a - (total - part)) + (b - part)
    return np.where(np.isfinite(total), error, 0.0)


def _fused_double(a: Array, b: Array, c: Array) -> Array:
    from fractions import Fraction

    a, b, c = np.broadcast_arrays(a, b, c)
    result = np.asarray(a * b + c)
    for i in np.flatnonzero(np.isfinite(a) & np.isfinite(b) & np.isfinite(c)):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        if exact:
            try:
                result[i] = float(exact)
            except OverflowError:
                result[i] = np.inf if exact > 0 else -np.inf
    return result


def negate(a: Array, kind: str) -> Array:
    """`neg`."""
    return a ^ np.uint16(0x8000) if kind == "bf16" else -a


def absolute(a: Array, kind: str) -> Array:
    """`abs`."""
    return a & np.uint16(0x7FFF) if kind == "bf16" else np.abs(a)


def minimum(a: Array, b: Array, kind: str, nan: bool) -> Array:
    """`min`: of a number and a NaN the number, unless `nan`; -0 is below +0."""
    return _extreme(a, b, kind, np.minimum if nan else np.fmin, np.bitwise_or)


def maximum(a: Array, b: Array, kind: str, nan: bool) -> Array:
    """`max`."""
    return _extreme(a, b, kind, np.maximum if nan else np.fmax, np.bitwise_and)


def _extreme(a: Array, b: Array, kind: str, choose: np.ufunc, zeros: np.ufunc) -> Array:
    if kind == "bf16":
        chosen = _extreme(bfloat_to_float(a), bfloat_to_float(b), "f32", choose, zeros)
        return float_to_bfloat(chosen)
    result = choose(a, b)
    both = (a == 0) & (b == 0)
    if both.any():
        integer = f"u{result.dtype.itemsize}"
        bits = zeros(a.view(integer), b.view(integer)).view(result.dtype)
        result = np.where(both, bits, result)
    return result


def flush(x: Array) -> Array:
    """Subnormal f32 become zeros of their sign."""
    small = np.abs(x) < np.float32(2.0**-126)
    return np.where(small, np.copysign(np.float32(0), x), x)


def saturate(x: Array) -> Array:
    """`.sat`: to [0, 1], NaN to 0."""
    return np.fmin(np.fmax(x, x.dtype.type(0)), x.dtype.type(1)) + x.dtype.type(0)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "rcp": lambda x: 1 / x,
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}
"""Functions of one argument, in float64."""
