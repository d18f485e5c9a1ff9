"""What is kept beside a parameter of 16 bits so that the two have all digits of a float32; see csrc/master.h."""

import triton
import triton.language as tl

from .arrays import at
from .numerics import narrow
from .stochastic import draw_bits, round_by_chance


@triton.jit
def load_master(p, address, first, end, M: tl.constexpr, BLOCK: tl.constexpr, HINT: tl.constexpr):
    """Elements of a master of type M, which begins at ``address``; ``p`` where there is none."""
    if M is None:
        return p
    else:
        i = first + tl.arange(0, BLOCK)
        return tl.load(at(address, M, HINT) + i, mask=i < end, other=0)


@triton.jit
def value_of(p, master, P: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """The value of a parameter, as type T: its master, unless the parameter is no rounding of that."""
    if M is None:
        return p.to(T)
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
    HINT: tl.constexpr,  # of the parameter, and of the master
    MASTER_HINT: tl.constexpr,
):
    """The one place where new values become what a parameter stores; returns what averages follow."""
    i = first + tl.arange(0, BLOCK)
    mask = i < end
    if draw is None:
        stored = narrow(value, P)
    else:
        stored = round_by_chance(value, draw_bits(draw, first, BLOCK), P)
    tl.store(at(param, P, HINT) + i, stored, mask=mask)
    if M is None:
        return stored
    else:
        tl.store(at(master, M, MASTER_HINT) + i, value, mask=mask)
        return value
