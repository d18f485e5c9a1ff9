"""Fields of a row of the control block, some of which follow a tensor of the user's; see memory/bindings.py."""

import triton
import triton.language as tl

from .layout import BOUND_WORDS, IS_SILENT, IS_SINGLE


@triton.jit
def bound_field(places, inside):
    """Fields, where they follow a tensor as that says; ``places``: pointers to them."""
    kept = tl.load(places, mask=inside, other=0.0)
    word = tl.load(places.to(tl.pointer_type(tl.int64)) + BOUND_WORDS, mask=inside, other=0)
    follows, single = word != 0, (word & IS_SINGLE) != 0
    address = word & -4
    narrow = tl.load(address.to(tl.pointer_type(tl.float32)), mask=follows & single, other=0.0).to(tl.float64)
    wide = tl.load(address.to(tl.pointer_type(tl.float64)), mask=follows & (word & IS_SINGLE == 0), other=0.0)
    given = tl.where(single, narrow, wide)
    written = tl.where(single, kept.to(tl.float32).to(tl.float64), kept) != given
    return tl.where(follows & written, given, kept)


@triton.jit
def store_bound(places, values, inside):
    """Write fields, and the tensors that they follow."""
    word = tl.load(places.to(tl.pointer_type(tl.int64)) + BOUND_WORDS, mask=inside, other=0)
    writes = (word != 0) & (word & IS_SILENT == 0)
    address = word & -4
    tl.store(places, values, mask=inside)
    tl.store(address.to(tl.pointer_type(tl.float32)), values.to(tl.float32), mask=writes & (word & IS_SINGLE != 0))
    tl.store(address.to(tl.pointer_type(tl.float64)), values, mask=writes & (word & IS_SINGLE == 0))


@triton.jit
def load_fields(places, inside, BOUND: tl.constexpr):
    """Fields; ``BOUND``: some field of some row follows a tensor."""
    if BOUND:
        return bound_field(places, inside)
    else:
        return tl.load(places, mask=inside, other=0.0)


@triton.jit
def load_field(place, BOUND: tl.constexpr):
    """One field; ``BOUND``: some field of some row follows a tensor."""
    if BOUND:
        return bound_field(place, True)
    else:
        return tl.load(place)
