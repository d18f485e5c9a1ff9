"""Between which numbers the value of an operation lies, by the bounds of its operands.

Each function takes the node of a graph that has the operation, see :mod:`fused_sched.trace.graph`, and an
:class:`Interval` for each operand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """Where a value is: between two numbers, both of them possible, or NaN where that is possible."""

    low: float = -math.inf
    high: float = math.inf
    nan: bool = False

    def has(self, x: float) -> bool:
        return self.low <= x <= self.high

    @property
    def endless(self) -> bool:
        return self.low == -math.inf or self.high == math.inf

    @property
    def truth(self) -> bool | None:
        """Of a condition, which is true where it is not 0; None: either."""
        return True if self.low > 0 or self.high < 0 else False if self.low == self.high == 0 and not self.nan else None

    def joined(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high), self.nan or other.nan)


ANY = Interval(nan=True)


def at_ends(node: Any, *of: Interval) -> Interval:
    """For what rises or falls in each operand, up to its last place: IEEE rounding is monotone. Truths are 0 and 1."""
    f = node.function
    ends = [(x.low, x.high, math.nan) if x.nan else (x.low, x.high) for x in of]
    made = [(f(*x), any(a != a for a in x)) for x in itertools.product(*ends)]
    values = [value for value, _ in made if value == value]
    if any(value != value and not of_nan for value, of_nan in made):
        return ANY
    low, high = min(values), max(values)
    if node.traits.units:
        low, high = (x + d * abs(x) if math.isfinite(x) else x for x, d in ((low, -1e-14), (high, 1e-14)))
    return Interval(low, high, len(values) < len(made))


def unless(jumps: Callable[..., bool]) -> Callable[..., Interval]:
    """As :func:`at_ends`, but for operands where it does not rise or fall."""
    return lambda node, *of: ANY if jumps(*of) else at_ends(node, *of)


def absolute(node: Any, a: Interval) -> Interval:
    low, high = sorted((abs(a.low), abs(a.high)))
    return Interval(0.0 if a.has(0.0) else low, high, a.nan)


def remainder(node: Any, a: Interval, b: Interval) -> Interval:
    nan = a.nan or b.nan or a.endless
    if b.has(0.0) or b.low < 0:
        return ANY if b.has(0.0) else Interval(b.low, 0.0, nan)
    inside = a.low >= 0 and a.high < b.low
    return a._replace(nan=nan) if inside else Interval(0.0, b.high - 1 if node.whole else b.high, nan)


def equality(node: Any, a: Interval, b: Interval) -> Interval:
    never, nan = a.high < b.low or b.high < a.low, a.nan or b.nan
    always = a.low == a.high == b.low == b.high and not nan
    found = Interval(float(always), float(not never))
    return found if node.op == "eq" else Interval(1.0 - found.high, 1.0 - found.low)


def selection(node: Any, condition: Interval, a: Interval, b: Interval) -> Interval:
    return a.joined(b) if condition.truth is None else a if condition.truth else b


def table_entry(node: Any, a: Interval) -> Interval:
    first, last = (table_row(x, len(node.value) - 1) for x in a[:2])
    rows = node.value[0 if a.nan else first : last + 1]
    return Interval(min(rows), max(rows))


def wave(node: Any, a: Interval) -> Interval:
    return Interval(-1.0, 1.0, a.nan or a.endless)


def anything(node: Any, *of: Interval) -> Interval:
    return ANY


# Where an operation does not rise or fall.


def loses_the_infinite(a: Interval, b: Interval) -> bool:
    return (a.has(0.0) and b.endless) or (b.has(0.0) and a.endless)


def divides_by_0(a: Interval, b: Interval) -> bool:
    return b.has(0.0)


def has_no_power(a: Interval, b: Interval) -> bool:
    return a.low < 0 or (a.low == 0 and b.low < 0)


# -- tables ------------------------------------------------------------------------------------------------


def table_row(x: float, last: int) -> int:
    """The row that a lookup reads: the nearest that there is; of a NaN the first, as the clamped conversion in C."""
    return int(min(max(x, 0.0), float(last))) if x == x else 0
