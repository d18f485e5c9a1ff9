"""Arithmetic that kernels share, rounded as csrc/arithmetic.h and csrc/program.h do.

The interpreter knows no libdevice and truncates to bfloat16: there, numpy stands in.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret

if INTERPRETED:
    import numpy as np
    from triton.runtime.interpreter import TensorHandle

    def quiet() -> AbstractContextManager[Any]:
        """No warnings about infinities and NaN, which are values like others here."""
        return np.errstate(all="ignore")

    def _apply(function: Any, a: Any, b: Any) -> Any:
        data = function(a.handle.data, b.handle.data)
        return tl.tensor(TensorHandle(data, tl.float64), tl.where(a < b, a, b).type)

    def _apply_one(function: Any, a: Any) -> Any:
        return tl.tensor(TensorHandle(function(a.handle.data), tl.float64), a.type)

    def power(a: Any, b: Any) -> Any:
        return _apply(np.power, a, b)

    def remainder(a: Any, b: Any) -> Any:
        return _apply(np.fmod, a, b)

    def expm1(a: Any) -> Any:
        return _apply_one(np.expm1, a)

    def log2(a: Any) -> Any:
        return _apply_one(np.log2, a)

    def log10(a: Any) -> Any:
        return _apply_one(np.log10, a)

    def log1p(a: Any) -> Any:
        return _apply_one(np.log1p, a)

    def tan(a: Any) -> Any:
        return _apply_one(np.tan, a)

    def atan(a: Any) -> Any:
        return _apply_one(np.arctan, a)

    def tanh(a: Any) -> Any:
        return _apply_one(np.tanh, a)

    def narrow(x: Any, T: Any) -> Any:
        if tl.bfloat16 != T or x.dtype == tl.bfloat16:
            return x.to(T)
        bits = x.handle.data.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
        data = np.where(np.isnan(x.handle.data), np.uint32(0x7FC0), rounded).astype(np.uint16)
        return tl.tensor(TensorHandle(data, tl.bfloat16), x.to(tl.bfloat16).type)

else:
    quiet = nullcontext

    from triton.language.extra import libdevice

    @triton.jit
    def power(a, b):
        """C's pow, float64."""
        return libdevice.pow(a, b)

    @triton.jit
    def remainder(a, b):
        """C's fmod, float64: exact, with the sign of a."""
        return libdevice.fmod(a, b)

    @triton.jit
    def expm1(a):
        """C's expm1, float64."""
        return libdevice.expm1(a)

    @triton.jit
    def log2(a):
        """C's log2, float64."""
        return libdevice.log2(a)

    @triton.jit
    def log10(a):
        """C's log10, float64."""
        return libdevice.log10(a)

    @triton.jit
    def log1p(a):
        """C's log1p, float64."""
        return libdevice.log1p(a)

    @triton.jit
    def tan(a):
        """C's tan, float64."""
        return libdevice.tan(a)

    @triton.jit
    def atan(a):
        """C's atan, float64."""
        return libdevice.atan(a)

    @triton.jit
    def tanh(a):
        """C's tanh, float64."""
        return libdevice.tanh(a)

    @triton.jit
    def narrow(x, T: tl.constexpr):
        """As type T, rounded to nearest even."""
        return x.to(T)


@triton.jit
def square_root(x):
    """IEEE square root."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def divide(a, b):
    """IEEE division; float32's ``/`` is an approximation on a GPU."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def maximum(a, b):
    """The larger of two numbers; NaN if either is, as torch.maximum."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def signed_zero(x):
    """0 with the sign of x; x must not be a zero."""
    # not a literal -0.0, which Triton 3.6 takes for 0.0
    return tl.where(x < 0.0, -1.0, 1.0).to(tl.float64) * 0.0


@triton.jit
def python_mod(a, b):
    """Python's ``a % b``: the sign of the divisor."""
    rest = remainder(a, b)
    wrapped = tl.where((b < 0.0) != (rest < 0.0), rest + b, rest)
    return tl.where(rest == 0.0, signed_zero(b), wrapped)


@triton.jit
def python_floordiv(a, b):
    """Python's ``a // b``, with the IEEE quotient where Python raises."""
    rest = remainder(a, b)
    exact = a / b
    quotient = (a - rest) / b
    quotient = tl.where((rest != 0.0) & ((b < 0.0) != (rest < 0.0)), quotient - 1.0, quotient)
    whole = tl.floor(quotient)
    whole = tl.where(quotient - whole > 0.5, whole + 1.0, whole)
    whole = tl.where(quotient == 0.0, tl.where(exact == 0.0, exact, signed_zero(exact)), whole)
    return tl.where(b == 0.0, exact, whole)


@triton.jit
def truncate(a):
    """Towards zero, keeping the sign of zero."""
    return tl.where(a < 0.0, tl.ceil(a), tl.floor(a))


@triton.jit
def round_even(a):
    """To the nearest whole number, ties to even, keeping the sign of zero."""
    below = tl.floor(a)
    above = a - below
    half = below * 0.5
    up = (above > 0.5) | ((above == 0.5) & (half != tl.floor(half)))
    whole = tl.where(up, below + 1.0, below)
    return tl.where(whole == 0.0, a * 0.0, whole)


@triton.jit
def table_row(x, last):
    """Row of a table, int64: clamped to [0, last], and row 0 for NaN."""
    return tl.where(x > 0.0, tl.where(x < last, x, last), 0.0).to(tl.int64)
