"""The update rules as kernels: a module each, with the arithmetic of csrc/<name>.h.

The same operations in the same order, explicit fused multiply-adds included, so that the backends agree bit for bit
wherever no power is involved. (A product with -1.0 stands for a minus, which Triton 3.6 computes as 0 - x, with the
wrong zero.) Kernels must be compiled without floating-point fusion. Scalars are computed in float64 and rounded once
to the compute type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import rules
from ..kernels import adam, sgd

if TYPE_CHECKING:
    from .variants import Options


@dataclass(frozen=True)
class KernelRule:
    """What the kernels do by a rule.

    Attributes:
        scalars: jitted, (row, count, has_optional, T, BOUND) -> the scalars of a parameter as type T, and whether its
            optional state is in use. ``row``: pointer to the group's fields, float64; ``count``: updates so far, int64;
            ``has_optional``: whether it has that state; ``BOUND``: some field follows a tensor.
        block: jitted, (scalars, p, g, three states, optional_used, EXTRA) -> new p and states. A state that the rule
            does not have is whatever it was given, and is not stored. ``EXTRA``: some parameter has the optional state.
        required: how many states every parameter has.
        counts: jitted, (pointers to rows of fields, mask, BOUND) -> whether an update counts; None: always.
        most_registers: (bytes of the widest type, what the kernel is compiled for) -> the most registers a thread may
            have; None: what the compiler takes is right.
    """

    scalars: Any
    block: Any
    required: int
    counts: Any = None
    most_registers: Callable[[int, Options], int | None] | None = None


# By name. A rule that is not here runs as torch operations.
RULES: dict[str, KernelRule] = {
    rules.SGD.name: KernelRule(sgd.scalars, sgd.block, rules.SGD.optional_state, sgd.counts, sgd.most_registers),
    rules.ADAM.name: KernelRule(
        adam.scalars, adam.block, rules.ADAM.optional_state, most_registers=adam.most_registers
    ),
}
