"""The graph: the one form between a function and a program, and what is known of its values on a path.

A node is an operation of the program (:data:`fused_sched.program.operations.OPERATIONS`), a constant, an input, or a
place in a sorted table.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..program.bounds import ANY, Interval, table_row
from ..program.operations import OPERATIONS, Traits, host_function

TABLE: dict[str, Traits] = {**OPERATIONS, "count_lt": Traits(1, whole=True)}  # bisect_left, which a program is made of

COMPARISONS = frozenset(("lt", "le", "eq", "ne"))
JUMPS = COMPARISONS | {"floor", "ceil", "trunc", "round", "floordiv", "mod", "lookup", "count_lt"}


class Node:
    """One value.

    ``value`` is the number of a constant, the name of an input ("lr 3" is param group 3's; its ``field`` is "lr"), the
    tuple of a table, or the library whose rounding an operation has. ``whole``: it is a whole number wherever it is a
    number. ``inexact`` names an operation below whose last place is not the same for every evaluator. ``spans``: bounds
    by those of the operands, as paths have found them.
    """

    __slots__ = ("args", "field", "id", "inexact", "inputs", "is_const", "op", "spans", "traits", "value", "whole")

    def __init__(self, number: int, op: str, args: tuple[Node, ...], value: Any, whole: bool) -> None:
        self.id, self.op, self.args, self.value, self.whole = number, op, args, value, whole
        self.is_const, self.field = op == "const", value.partition(" ")[0] if op == "input" else ""
        self.inputs: frozenset[str] = frozenset((value,) if op == "input" else ()).union(*(a.inputs for a in args))
        below = () if op in COMPARISONS or op in ("and", "or", "not") else args[1:] if op == "where" else args
        self.spans: dict[tuple[Interval, ...], Interval] = {}
        self.traits = TABLE[op] if args else Traits(0)
        self.inexact: str = op if self.traits.units else next((a.inexact for a in below if a.inexact), "")

    @property
    def function(self) -> Callable[..., float]:
        """The host's function of the operands."""
        return function_of(self.op, self.value)

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
        of, bounds = tuple([self.bounds(a) for a in node.args]), node.traits.bounds
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
