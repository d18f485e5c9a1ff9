"""Operations: the table of all that is known of each, for programs and for those who write them.

All are IEEE float64 without contraction. Where Python raises (``1/0``, an overflowing power), an operation gives the
IEEE value instead: a kernel cannot raise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from . import bounds
from .bounds import Interval, table_row

NUMPY = "numpy"


class Traits(NamedTuple):
    """What is known of an operation.

    Attributes:
        operands: how many values it takes.
        host: how the host computes it, in Python; "" for what is no arithmetic.
        bounds: of its value; see :mod:`fused_sched.program.bounds`.
        whole: whether it gives whole numbers; None: if its operands are whole.
        units: in the last place, by which two evaluators of a program may differ: what the C library's, numpy's and
            CUDA's functions are off, of the two worst together.
    """

    operands: int
    host: str = ""
    bounds: Callable[..., Interval] = bounds.at_ends
    whole: bool | None = False
    units: int = 0


# The position is the op code, shared with csrc/program.h.
OPERATIONS: dict[str, Traits] = {
    "load": Traits(0),  # memory[offset]: a register or a constant
    "load_group": Traits(0),  # memory[offset + lane]
    "field": Traits(0),  # control block, field of the row that the lane drives
    "lookup": Traits(1, "", bounds.table_entry, None),  # memory[offset + row * width + (lane if width > 1)]
    "store": Traits(1),
    "store_group": Traits(1),
    "store_field": Traits(1),
    "add": Traits(2, "{0} + {1}", whole=None),
    "sub": Traits(2, "{0} - {1}", whole=None),
    "mul": Traits(2, "{0} * {1}", bounds.unless(bounds.loses_the_infinite), None),
    "div": Traits(2, "_div({0}, {1})", bounds.unless(bounds.divides_by_0)),
    "pow": Traits(2, "_pow({0}, {1})", bounds.unless(bounds.has_no_power), units=2),
    "mod": Traits(2, "_mod({0}, {1})", bounds.remainder, None),  # Python's %: the sign of the divisor
    "floordiv": Traits(2, "_floordiv({0}, {1})", bounds.unless(bounds.divides_by_0), None),  # Python's //
    "min": Traits(2, "({1} if {1} < {0} else {0})", whole=None),  # Python's min(a, b): a unless b < a
    "max": Traits(2, "({1} if {1} > {0} else {0})", whole=None),
    "lt": Traits(2, "(1.0 if {0} < {1} else 0.0)", whole=True),
    "le": Traits(2, "(1.0 if {0} <= {1} else 0.0)", whole=True),
    "eq": Traits(2, "(1.0 if {0} == {1} else 0.0)", bounds.equality, True),
    "ne": Traits(2, "(1.0 if {0} != {1} else 0.0)", bounds.equality, True),
    "and": Traits(2, "(1.0 if {0} != 0.0 and {1} != 0.0 else 0.0)", whole=True),
    "or": Traits(2, "(1.0 if {0} != 0.0 or {1} != 0.0 else 0.0)", whole=True),
    "not": Traits(1, "(1.0 if {0} == 0.0 else 0.0)", whole=True),
    "neg": Traits(1, "-{0}", whole=None),
    "abs": Traits(1, "abs({0})", bounds.absolute, None),
    "sqrt": Traits(1, "_sqrt({0})"),
    "exp": Traits(1, "_exp({0})", units=2),
    "expm1": Traits(1, "_expm1({0})", units=2),
    "log": Traits(1, "_log({0})", units=2),
    "log2": Traits(1, "_log2({0})", units=2),
    "log10": Traits(1, "_log10({0})", units=2),
    "log1p": Traits(1, "_log1p({0})", units=2),
    "cos": Traits(1, "_cos({0})", bounds.wave, units=2),
    "sin": Traits(1, "_sin({0})", bounds.wave, units=2),
    "tan": Traits(1, "_tan({0})", bounds.anything, units=2),
    "atan": Traits(1, "math.atan({0})", units=2),
    "tanh": Traits(1, "math.tanh({0})", units=4),  # of the C library alone up to 2.2
    "floor": Traits(1, "_whole(math.floor, {0})", whole=True),
    "ceil": Traits(1, "_whole(math.ceil, {0})", whole=True),
    "trunc": Traits(1, "_whole(math.trunc, {0})", whole=True),
    "round": Traits(1, "_whole(round, {0})", whole=True),  # half to even
    "where": Traits(3, "({1} if {0} != 0.0 else {2})", bounds.selection, None),  # a condition is true when it is not 0
    "bound_field": Traits(0),  # a field that follows a tensor: see memory/bindings.py
    "store_bound": Traits(1),  # ... and into the tensor
}
OP_CODES: dict[str, int] = {name: code for code, name in enumerate(OPERATIONS)}

LOADS = ("load", "load_group", "field", "bound_field")
STORES = ("store", "store_group", "store_field", "store_bound")
FIELD_STORES = ("store_field", "store_bound")
FIELD_OPERATIONS = ("field", "bound_field", *FIELD_STORES)  # their symbol is a field of the control block
ARITHMETIC = tuple(name for name, traits in OPERATIONS.items() if traits.host)


# -- how the host computes them ----------------------------------------------------------------------------


def _div(a: float, b: float) -> float:
    if b != 0.0:
        return a / b
    if a == 0.0 or a != a or b != b:
        return math.nan
    return math.copysign(math.inf, math.copysign(1.0, a) * math.copysign(1.0, b))


def _pow(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0.0 and b % 2.0 == 1.0 else math.inf
    except ValueError:
        # pow(0, negative) is an infinity; a negative base with a fraction has no real power.
        if a == 0.0:
            return math.copysign(math.inf, a) if b % 2.0 == 1.0 else math.inf
        return math.nan


def _mod(a: float, b: float) -> float:
    return a % b if b != 0.0 and math.isfinite(a) else math.nan


def _floordiv(a: float, b: float) -> float:
    if b == 0.0:
        return math.nan if a == 0.0 or a != a else _div(a, b)
    return a // b if math.isfinite(a) else math.nan


def _sqrt(a: float) -> float:
    return math.sqrt(a) if a >= 0.0 else math.nan


def _exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def _expm1(a: float) -> float:
    try:
        return math.expm1(a)
    except OverflowError:
        return math.inf


def _log(a: float) -> float:
    if a > 0.0:
        return math.log(a)
    return -math.inf if a == 0.0 else math.nan


def _log2(a: float) -> float:
    return math.log2(a) if a > 0.0 else _log(a)


def _log10(a: float) -> float:
    return math.log10(a) if a > 0.0 else _log(a)


def _log1p(a: float) -> float:
    return math.log1p(a) if a > -1.0 else _log(a + 1.0)


def _cos(a: float) -> float:
    return math.cos(a) if math.isfinite(a) else math.nan


def _sin(a: float) -> float:
    return math.sin(a) if math.isfinite(a) else math.nan


def _tan(a: float) -> float:
    return math.tan(a) if math.isfinite(a) else math.nan


def _whole(function: Callable[[float], int], a: float) -> float:
    # copysign keeps the sign of zero, as the C functions do
    return math.copysign(float(function(a)), a) if math.isfinite(a) else a


HOST_FUNCTIONS: dict[str, object] = {
    "math": math,
    "table_row": table_row,
    **{name: made for name, made in globals().items() if name.startswith("_") and callable(made)},
}


@functools.cache
def host_function(name: str, library: str | None = None) -> Callable[..., float]:
    """Arithmetic operation ``name`` as the host computes it; ``library`` as :attr:`Operation.symbol`."""
    if library == NUMPY:
        import numpy  # an extra of the tests and of users' functions, not a requirement

        function = getattr(numpy, {"pow": "power", "atan": "arctan"}.get(name, name))

        def rounded_by_numpy(*operands: float) -> float:
            with numpy.errstate(all="ignore"):
                return float(function(*operands))

        return rounded_by_numpy
    names = "abc"[: OPERATIONS[name].operands]
    source = f"lambda {', '.join(names)}: {OPERATIONS[name].host.format(*names)}"
    return eval(source, dict(HOST_FUNCTIONS))  # type: ignore[no-any-return]  # noqa: S307 - from the table above
