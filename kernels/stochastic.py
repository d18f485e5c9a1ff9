"""Rounding to 16 bits up or down by chance: the same words and the same results as csrc/stochastic.h."""

import triton
import triton.language as tl

from .layout import SEED, UPDATES
from .numerics import narrow

DRAWN = tl.constexpr(8)  # elements whose bits are drawn at a time


@triton.jit
def draw_of(control, stream, start):
    """What the random bits of a chunk's elements depend on.

    Args:
        control: the control block.
        stream: int64, of the parameter's state.
        start: int64, the chunk's first element.
    """
    header = control.to(tl.pointer_type(tl.int64))
    seed, updates = tl.load(header + SEED), tl.load(header + UPDATES)
    return seed, updates.to(tl.uint32), stream.to(tl.uint32), start // DRAWN


@triton.jit
def draw_bits(draw, first, BLOCK: tl.constexpr):
    """16 random bits, int32, for elements [first, first + BLOCK) of a chunk; ``first`` is a multiple of 8."""
    number = draw[3] + first // DRAWN + tl.arange(0, BLOCK // DRAWN)
    zero = number.to(tl.uint32) * 0
    a, b, c, d = tl.philox(draw[0], number.to(tl.uint32), (number >> 32).to(tl.uint32), zero + draw[2], zero + draw[1])
    # the words and then their halves in the order of the elements
    lower = tl.join(tl.join(a & 0xFFFF, c & 0xFFFF), tl.join(b & 0xFFFF, d & 0xFFFF))
    upper = tl.join(tl.join(a >> 16, c >> 16), tl.join(b >> 16, d >> 16))
    return tl.reshape(tl.join(lower, upper), [BLOCK]).to(tl.int32)


@triton.jit
def round_by_chance(value, chance, P: tl.constexpr):
    """float32 as type P of 16 bits, by 16 random bits each; infinities and NaN as ever."""
    bits = value.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    if P is tl.bfloat16:
        finite = (magnitude + chance) >> 16
        special = magnitude >= 0x7F800000
    else:
        small = magnitude < 0x38800000  # 2**-14
        normal = (magnitude - 0x38000000 + (chance >> 3)) >> 13
        # in units of 2**-40, of which a subnormal's last digit has 2**16
        units = tl.where(small, tl.abs(value), 0.0) * 1099511627776.0
        finite = tl.where(small, (units.to(tl.int32) + chance) >> 16, normal)
        special = magnitude >= 0x47800000  # 2**16
    stored = finite | tl.where(bits < 0, 0x8000, 0)
    nearest = narrow(value, P).to(tl.int16, bitcast=True)
    return tl.where(special, nearest, stored.to(tl.int16)).to(P, bitcast=True)
