"""Operations: the one form between a function and a program, and the table of what is known of each.

A traced function becomes nodes of a graph. A node is an operation of the program
(:data:`fused_sched.program.program.OPERATIONS`), a constant, an input, or a place in a table that is sorted or not.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..program.program import host_function, table_row

COMPARISONS = frozenset(("lt", "le", "eq", "ne"))
JUMPS = COMPARISONS | {"floor", "ceil", "trunc", "round", "floordiv", "mod", "lookup", "count_lt"}


class Node:
    """One value.

    ``value`` is the number of a constant, the name of an input ("lr 3" is param group 3's; its ``field`` is "lr"), the
    tuple of a table, or the library whose rounding an operation has. ``whole``: it is a whole number wherever it is a
    number. ``inexact`` names an operation below whose last place is not the same for every evaluator. ``spans``: bounds
    by those of the operands, as paths have found them.
    """

    __slots__ = ("args", "field", "id", "inexact", "inputs", "is_const", "op", "spans", "value", "whole")

    def __init__(self, number: int, op: str, args: tuple[Node, ...], value: Any, whole: bool) -> None:
        self.id, self.op, self.args, self.value, self.whole = number, op, args, value, whole
        self.is_const, self.field = op == "const", value.partition(" ")[0] if op == "input" else ""
        self.inputs: frozenset[str] = frozenset((value,) if op == "input" else ()).union(*(a.inputs for a in args))
        below = () if op in COMPARISONS or op in ("and", "or", "not") else args[1:] if op == "where" else args
        self.spans: dict[tuple[Interval, ...], Interval] = {}
        units = op in TABLE and TABLE[op].units
        self.inexact: str = op if units else next((a.inexact for a in below if a.inexact), "")

    def __str__(self) -> str:
        words = [self.op, *(f"%{a.id}" for a in self.args), *([] if self.value is None else [str(self.value)])]
        return f"%{self.id} = {' '.join(words)}"


class Graph:
    """Makes nodes; equal ones are one object."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Node] = {}

    def const(self, value: float) -> Node:
        value = float(value) if value == value else math.nan
        return self._node("const", (), value, (value, math.copysign(1.0, value)), value.is_integer())

    def input(self, name: str, *, whole: bool) -> Node:
        return self._node("input", (), name, (name,), whole)

    def apply(self, op: str, *args: Node, value: Any = None) -> Node:
        """``op`` of ``args``; constants are computed at once, as the host would."""
        key = op, (repr(value), *[a.id for a in args])  # its zeros differ in repr()
        if key not in self._nodes:
            self._nodes[key] = self._applied(op, args, value, key[1])
        return self._nodes[key]

    def _applied(self, op: str, args: tuple[Node, ...], value: Any, key: tuple[Any, ...]) -> Node:
        if all(a.is_const for a in args):
            return self.const(function_of(op, value)(*(a.value for a in args)))
        parts = args[1:] if op == "where" else args
        if op == "where" and parts[0] is parts[1]:
            return parts[0]
        whole = TABLE[op].whole
        if whole is None:
            whole = all(x.is_integer() for x in value) if op == "lookup" else all(a.whole for a in parts)
        return self._node(op, args, value, key, whole)

    def numbers(self) -> set[float]:
        """All that occur in constants and tables."""
        parts = [n.value if isinstance(n.value, tuple) else (n.value,) for n in self._nodes.values() if n.op != "input"]
        return {x for values in parts for x in values if isinstance(x, float) and math.isfinite(x)}

    def _node(self, op: str, args: tuple[Node, ...], value: Any, key: tuple[Any, ...], whole: bool) -> Node:
        if (op, key) not in self._nodes:
            self._nodes[op, key] = Node(len(self._nodes), op, args, value, whole)
        return self._nodes[op, key]


def function_of(op: str, value: Any) -> Callable[..., float]:
    """The host's function of a node's operation."""
    if op == "lookup":
        return lambda row: float(value[table_row(row, len(value) - 1)])
    return (lambda x: float(bisect.bisect_left(value, x))) if op == "count_lt" else host_function(op, value)


# -- the table ---------------------------------------------------------------------------------------------


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


def _at_ends(node: Node, *of: Interval) -> Interval:
    """For what rises or falls in each operand, up to its last place: IEEE rounding is monotone. Truths are 0 and 1."""
    f = function_of(node.op, node.value)
    ends = [(x.low, x.high, math.nan) if x.nan else (x.low, x.high) for x in of]
    made = [(f(*x), any(a != a for a in x)) for x in itertools.product(*ends)]
    values = [value for value, _ in made if value == value]
    if any(value != value and not of_nan for value, of_nan in made):
        return ANY
    low, high = min(values), max(values)
    if TABLE[node.op].units:
        low, high = (x + d * abs(x) if math.isfinite(x) else x for x, d in ((low, -1e-14), (high, 1e-14)))
    return Interval(low, high, len(values) < len(made))


def _unless(jumps: Callable[..., bool]) -> Callable[..., Interval]:
    """As :func:`_at_ends`, but for operands where it does not rise or fall."""
    return lambda node, *of: ANY if jumps(*of) else _at_ends(node, *of)


def _abs(node: Node, a: Interval) -> Interval:
    low, high = sorted((abs(a.low), abs(a.high)))
    return Interval(0.0 if a.has(0.0) else low, high, a.nan)


def _mod(node: Node, a: Interval, b: Interval) -> Interval:
    nan = a.nan or b.nan or a.endless
    if b.has(0.0) or b.low < 0:
        return ANY if b.has(0.0) else Interval(b.low, 0.0, nan)
    inside = a.low >= 0 and a.high < b.low
    return a._replace(nan=nan) if inside else Interval(0.0, b.high - 1 if node.whole else b.high, nan)


def _equal(node: Node, a: Interval, b: Interval) -> Interval:
    never, nan = a.high < b.low or b.high < a.low, a.nan or b.nan
    always = a.low == a.high == b.low == b.high and not nan
    found = Interval(float(always), float(not never))
    return found if node.op == "eq" else Interval(1.0 - found.high, 1.0 - found.low)


def _where(node: Node, condition: Interval, a: Interval, b: Interval) -> Interval:
    return a.joined(b) if condition.truth is None else a if condition.truth else b


def _lookup(node: Node, a: Interval) -> Interval:
    first, last = (table_row(x, len(node.value) - 1) for x in a[:2])
    rows = node.value[0 if a.nan else first : last + 1]
    return Interval(min(rows), max(rows))


class Facts(NamedTuple):
    """What is known of an operation: the bounds of its value, from its node and the bounds of its operands.

    ``whole``: whether it gives whole numbers; None: if its operands are whole. ``units``, in the last place, by which
    two evaluators of a program may differ: what the C library's, numpy's and CUDA's functions are off, of the two
    worst together. tanh of the C library alone is off by up to 2.2.
    """

    bounds: Callable[..., Interval] = _at_ends
    whole: bool | None = False
    units: int = 0


_DIVIDED = _unless(lambda a, b: b.has(0.0))
_WAVE = Facts(lambda node, a: Interval(-1.0, 1.0, a.nan or a.endless), units=2)
TABLE: dict[str, Facts] = {
    **dict.fromkeys(("add", "sub", "neg", "min", "max"), Facts(whole=None)),
    **dict.fromkeys(("lt", "le", "and", "or", "not"), Facts(whole=True)),
    **dict.fromkeys(("floor", "ceil", "trunc", "round", "count_lt"), Facts(whole=True)),
    **dict.fromkeys(("exp", "expm1", "log", "log2", "log10", "log1p", "atan"), Facts(units=2)),
    "mul": Facts(_unless(lambda a, b: (a.has(0.0) and b.endless) or (b.has(0.0) and a.endless)), None),
    "div": Facts(_DIVIDED), "floordiv": Facts(_DIVIDED, None), "mod": Facts(_mod, None), "abs": Facts(_abs, None),
    "pow": Facts(_unless(lambda a, b: a.low < 0 or (a.low == 0 and b.low < 0)), units=2), "sqrt": Facts(),
    "eq": Facts(_equal, True), "ne": Facts(_equal, True), "where": Facts(_where, None), "lookup": Facts(_lookup, None),
    "cos": _WAVE, "sin": _WAVE, "tan": Facts(lambda node, a: ANY, units=2), "tanh": Facts(units=4),
}  # fmt: skip


# -- what is known on a path -------------------------------------------------------------------------------


class Ranges:
    """What is known about values on one path: each input's interval, and tighter bounds of some nodes.

    ``points`` is given the numbers at which decisions about inputs change, or nearly so.
    """

    def __init__(self, inputs: Mapping[str, Interval], points: set[int]) -> None:
        self.inputs, self.points = dict(inputs), points
        self.known: dict[Node, tuple[float, float]] = {}
        self.nonzero: set[Node] = set()
        self._bounds: dict[Node, Interval] = {}

    def bounds(self, node: Node) -> Interval:
        """Lowest and highest value, with the rounding of the operations themselves."""
        if node.is_const:
            return Interval(node.value, node.value) if node.value == node.value else ANY
        found = self._bounds.get(node)
        if found is None:
            found = self.inputs[node.value] if node.op == "input" else self._of(node)
            if node in self.known:
                low, high = self.known[node]
                found = Interval(max(found.low, low), min(found.high, high), found.nan)
            self._bounds[node] = found
        return found

    def _of(self, node: Node) -> Interval:
        of, bounds = tuple([self.bounds(a) for a in node.args]), TABLE[node.op].bounds
        if node.op in ("div", "floordiv") and node.args[1] in self.nonzero and of[1].low < 0 < of[1].high:
            sides = of[1]._replace(high=-1.0), of[1]._replace(low=1.0)  # whole and not 0: either side of it
            return bounds(node, of[0], sides[0]).joined(bounds(node, of[0], sides[1]))
        if of not in node.spans:
            node.spans[of] = bounds(node, *of)
        return node.spans[of]

    def assume(self, node: Node, truth: bool) -> None:
        """Take in the truth value of a condition: a comparison tightens the bounds of its two sides."""
        if node.op in ("and", "or") and (node.op == "and") is truth:
            for part in node.args:
                self.assume(part, truth)
        elif node.op in ("lt", "le"):
            small, large = map(self.bounds, node.args)
            if truth or not (small.nan or large.nan):  # a NaN is neither
                (a, b), strict = node.args if truth else node.args[::-1], (node.op == "lt") is truth
                top, bottom = (large.high, small.low) if truth else (small.high, large.low)
                self._tighten(a, -math.inf, _beside(a, top, -1) if strict else top)
                self._tighten(b, _beside(b, bottom, 1) if strict else bottom, math.inf)
        elif node.op in ("eq", "ne"):
            for x, y in (node.args, node.args[::-1]):
                (low, high, _), (least, most, _) = self.bounds(y), self.bounds(x)
                if (node.op == "eq") is truth:
                    self._tighten(x, low, high)
                elif low == high:  # x is not that
                    if x.whole and low == 0:
                        self.nonzero.add(x)
                    if low in (least, most):
                        after, before = _beside(x, least, 1), _beside(x, most, -1)
                        self._tighten(x, after if low == least else least, most if low == least else before)
        self._bounds.clear()

    def _tighten(self, node: Node, low: float, high: float) -> None:
        if node.is_const or low != low or high != high:
            return
        before = self.known.get(node, ANY[:2])
        low, high = self.known[node] = max(before[0], low), min(before[1], high)
        if node.op == "input":
            self.points.update(int(x) for x in (low, high) if math.isfinite(x))
        c = next((a.value for a in node.args if a.is_const), math.nan)
        exact = abs(c) < 2**53 and all(abs(x) < 2**53 or math.isinf(x) for x in (low, high))
        if node.op in ("add", "sub") and node.whole and exact:  # back through whole numbers, where nothing is rounded
            first, second = node.args
            if node.op == "add":
                self._tighten(second if first.is_const else first, low - c, high - c)
            else:
                self._tighten(*((second, c - high, c - low) if first.is_const else (first, low + c, high + c)))


def _beside(node: Node, x: float, side: int) -> float:
    """The next value of ``node`` after x, or before."""
    return x + side if node.whole and x.is_integer() else math.nextafter(x, side * math.inf)
