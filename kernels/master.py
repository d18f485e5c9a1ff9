"""What is kept beside a parameter of 16 bits so that the two have all digits of a float32; see csrc/master.h."""

import triton
import triton.language as tl

from .arrays import at
from .numerics import narrow
from .stochastic import draw_bits, round_by_chance


@triton.jit
def load_master(p, address, first, end, M: tl.constexpr, BLOCK: tl.constexpr, HINT: tl.constexpr, HINT16: tl.constexpr):
    """Elements of a master of type M, which begins at ``address``; ``p`` where there is none."""
    if M is None:
        return p
    else:
        i = first + tl.arange(0, BLOCK)
        hint: tl.constexpr = HINT16 if M.primitive_bitwidth == 16 else HINT
        return tl.load(at(address, M, hint) + i, mask=i < end, other=0)


@triton.jit
def value_of(p, master, P: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """The value of a parameter, as type T: its master, unless the parameter is no rounding of that; or of remainder M,
    the sum of their bits, unless that is no number."""
    if M is None:
        return p.to(T)
    elif M.primitive_bitwidth == 16:
        high = p.to(tl.int16, bitcast=True).to(tl.int32) << 16
        joined = (high + master.to(tl.int32)).to(T, bitcast=True)
        return tl.where(joined != joined, high.to(T, bitcast=True), joined)
    else:
        same = narrow(master, P).to(tl.int16, bitcast=True) == p.to(tl.int16, bitcast=True)
        return tl.where(same, master, p.to(T))


@triton.jit
def store_parameter(
    value,
    param,  # int64: address of the parameter, and of its master, at the chunk's first element
    master,
    draw,  # None, or what it is rounded by
    first,
    end,
    BLOCK: tl.constexpr,
    P: tl.constexpr,
    M: tl.constexpr,
    HINT: tl.constexpr,
    HINT16: tl.constexpr,
):
    """The one place where new values become what a parameter stores; returns what averages follow."""
    i = first + tl.arange(0, BLOCK)
    mask = i < end
    hint: tl.constexpr = HINT16 if P.primitive_bitwidth == 16 else HINT
    if M is None:
        if draw is None:
            stored = narrow(value, P)
        else:
            stored = round_by_chance(value, draw_bits(draw, first, BLOCK), P)
        tl.store(at(param, P, hint) + i, stored, mask=mask)
        return stored
    elif M.primitive_bitwidth == 16:
        bits = value.to(tl.int32, bitcast=True)
        high = tl.where(value != value, 0x7FC0, (bits + 0x8000) >> 16).to(tl.int16)
        tl.store(at(param, M, hint) + i, high, mask=mask)
        tl.store(at(master, M, hint) + i, tl.where(value != value, 0, bits).to(M), mask=mask)
        return value
    else:
        tl.store(at(param, P, hint) + i, narrow(value, P), mask=mask)
        tl.store(at(master, M, HINT) + i, value, mask=mask)
        return value
