"""Rounding to float32 inside of a program, whose arithmetic is float64."""

from __future__ import annotations

from .builder import Builder, Value

_LEAST, _MOST = 2.0**-126, 2.0**127  # from here to there float32 has 24 bits
_TINY = 1.5 * 2.0**-97  # its last place is that of float32 below _LEAST


def to_single(b: Builder, x: Value) -> Value:
    """``x`` as the nearest float32, halves to even; beyond 1.7e38 it stays as it is, and what is too small is 0."""
    near = _nearest(x, 24)
    other = near + 2 * (x - near)  # on the other side of x, if x is half way between two
    tie = (other != near) & (_nearest(other, 24) == other)
    odd = _nearest(near, 23) != near
    rounded = b.where(tie & odd, other, near)
    size = abs(x)
    tiny = (size > 0) & (size < _LEAST)
    return b.where(tiny, (x + _TINY) - _TINY, b.where(size < _MOST, rounded, x))


def _nearest(x: Value, bits: int) -> Value:
    """A nearest number of so many bits (Veltkamp, 1968), one of two at half way."""
    large = x * (2.0 ** (53 - bits) + 1)
    return large - (large - x)
