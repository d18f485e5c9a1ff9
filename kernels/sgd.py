"""SGD: the scalars of one parameter, and the update of a block of elements; see rules.py."""

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from .fields import load_field, load_fields
from .layout import DAMPENING, FLAGS_FIELD, LR, MAXIMIZE, MOMENTUM, NESTEROV, WEIGHT_DECAY

if TYPE_CHECKING:
    from .variants import Options


@triton.jit
def scalars(row, count, has_buffer, T: tl.constexpr, BOUND: tl.constexpr):
    """Scalars of SGD, as type T; see :class:`rules.KernelRule`."""
    used = (load_field(row + MOMENTUM, BOUND) != 0.0) & has_buffer
    flags = tl.load(row + FLAGS_FIELD).to(tl.int32)
    values = (
        tl.where((flags & MAXIMIZE) != 0, -1.0, 1.0).to(T),
        load_field(row + WEIGHT_DECAY, BOUND).to(T),
        load_field(row + MOMENTUM, BOUND).to(T),
        (1.0 - load_field(row + DAMPENING, BOUND)).to(T),
        (flags & NESTEROV) != 0,
        used,
        count == 0,
        (load_field(row + LR, BOUND) * -1.0).to(T),
    )
    return values, used


@triton.jit
def block(scalars, p, g, buffer, state1, state2, has_buffer, MOMENTUM_USED: tl.constexpr):
    """New (p, buffer, ...); see :class:`rules.KernelRule`."""
    sign, decay, momentum, grad_weight, nesterov, used, first, step = scalars
    g = g * sign
    g = tl.where(decay != 0.0, tl.fma(decay, p, g), g)
    if MOMENTUM_USED:
        buffer = tl.where(first, g, tl.fma(grad_weight, g, momentum * buffer))
        along = tl.where(nesterov, tl.fma(momentum, buffer, g), buffer)
        g = tl.where(used, along, g)
    p = tl.fma(step, g, p)
    return p, buffer, state1, state2


@triton.jit
def counts(rows, mask, BOUND: tl.constexpr):
    """Whether an update counts; see :class:`rules.KernelRule`."""
    return load_fields(rows + MOMENTUM, mask, BOUND) != 0.0


def most_registers(width: int, options: "Options") -> int | None:
    """See :class:`rules.KernelRule`.

    Left alone, the assembler takes 56 for scaled gradients of 16 bits, or spills to fit in more programs.
    """
    return 48 if width == 2 and options.scaled and options.advance is None else None
