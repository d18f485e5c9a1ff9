"""Expressions: a graph of float64 operations on inputs, constants and tables, shared by all traced paths."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..program.program import host_function

_WHOLE = frozenset(
    ("floor", "ceil", "trunc", "round", "lt", "le", "eq", "ne", "and", "or", "not", "count_lt", "count_le")
)
_WHOLE_OF_WHOLE = frozenset(("add", "sub", "mul", "neg", "abs", "min", "max", "mod", "floordiv"))
COMPARISONS = frozenset(("lt", "le", "eq", "ne"))


class Node:
    """One value: an operation of a program, ``const``, ``input``, or a table's ``lookup``, ``count_lt``, ``count_le``.

    ``value`` is the number of a constant, the name of an input, the tuple of a table, or the library whose
    rounding an operation has. ``whole``: it is a whole number wherever it is a number.
    """

    __slots__ = ("args", "id", "inputs", "op", "value", "whole")

    def __init__(self, number: int, op: str, args: tuple[Node, ...], value: Any, whole: bool) -> None:
        self.id, self.op, self.args, self.value, self.whole = number, op, args, value, whole
        self.inputs: frozenset[str] = (
            frozenset((value,)) if op == "input" else frozenset().union(*(a.inputs for a in args))
        )

    @property
    def is_const(self) -> bool:
        return self.op == "const"


class Graph:
    """Makes nodes; equal ones are one object."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[Any, ...], Node] = {}

    def const(self, value: float) -> Node:
        value = float(value) if value == value else math.nan
        return self._node("const", (), value, ("const", value, math.copysign(1.0, value)), value.is_integer())

    def input(self, name: str, *, whole: bool) -> Node:
        return self._node("input", (), name, ("input", name), whole)

    def apply(self, op: str, *args: Node, value: Any = None) -> Node:
        """``op`` of ``args``; constants are computed at once, as the host would."""
        if all(a.op == "const" for a in args):
            return self.const(function_of(op, value)(*(a.value for a in args)))
        if op == "lookup":
            whole = all(x.is_integer() for x in value)
        elif op == "where":
            whole = args[1].whole and args[2].whole
        else:
            whole = op in _WHOLE or (op in _WHOLE_OF_WHOLE and all(a.whole for a in args))
        return self._node(op, args, value, (op, value, *(a.id for a in args)), whole)

    def _node(self, op: str, args: tuple[Node, ...], value: Any, key: tuple[Any, ...], whole: bool) -> Node:
        node = self.nodes.get(key)
        if node is None:
            node = self.nodes[key] = Node(len(self.nodes), op, args, value, whole)
        return node


def function_of(op: str, value: Any) -> Callable[..., float]:
    """The host's function of a node's operation."""
    if op == "lookup":
        return lambda row: float(value[max(0, min(int(row), len(value) - 1))])
    if op == "count_lt":
        return lambda x: float(bisect.bisect_left(value, x))
    if op == "count_le":
        return lambda x: float(bisect.bisect_right(value, x))
    return host_function(op, value)


def evaluator(node: Node) -> Callable[[float], float]:
    """A node of one input as a Python function of it."""
    order: dict[int, Node] = {}
    stack = [node]
    while stack:
        item = stack.pop()
        if item.id not in order:
            order[item.id] = item
            stack += item.args
    lines, names = ["def f(x):"], dict[str, Any]()
    for i in sorted(order):
        item = order[i]
        if item.op == "input":
            lines.append(f" v{i} = x")
        elif item.op == "const":
            names[f"c{i}"] = item.value
            lines.append(f" v{i} = c{i}")
        else:
            names[f"f{i}"] = function_of(item.op, item.value)
            lines.append(f" v{i} = f{i}({', '.join(f'v{a.id}' for a in item.args)})")
    exec("\n".join([*lines, f" return v{node.id}"]), names)  # noqa: S102 - from op codes
    return names["f"]  # type: ignore[no-any-return]


Bounds = tuple[float, float, bool]  # lowest, highest, may be NaN
ANY: Bounds = (-math.inf, math.inf, True)


class Ranges:
    """What is known about values on one path: each input's interval, and tighter bounds of some nodes."""

    def __init__(self, inputs: Mapping[str, Bounds]) -> None:
        self.inputs = dict(inputs)
        self.known: dict[Node, tuple[float, float]] = {}
        self.nonzero: set[Node] = set()
        self._bounds: dict[Node, Bounds] = {}
        self._slopes: dict[Node, int | None] = {}

    def forget(self) -> None:
        """To be called when :attr:`inputs` or :attr:`known` changed."""
        self._bounds.clear()
        self._slopes.clear()

    def bounds(self, node: Node) -> Bounds:
        """Lowest and highest value, with the rounding of the operations themselves: IEEE rounding is monotone."""
        found = self._bounds.get(node)
        if found is None:
            if node.op == "const":
                found = (node.value, node.value, False) if node.value == node.value else ANY
            elif node.op == "input":
                found = self.inputs[node.value]
            else:
                found = self._bounds_of(node)
            if node in self.known:
                low, high = self.known[node]
                found = (max(found[0], low), min(found[1], high), found[2])
            self._bounds[node] = found
        return found

    def _bounds_of(self, node: Node) -> Bounds:
        of = [self.bounds(a) for a in node.args]
        if node.op in ("div", "floordiv") and node.args[1] in self.nonzero and _has(of[1], 0.0):
            # whole and not 0: either side of it
            low, high, nan = of[1]
            sides = [(low, -1.0, nan)] * (low < 0) + [(1.0, high, nan)] * (high > 0)
            parts = [_bounds_of(node, [of[0], side]) for side in sides]
            if parts:
                return min(p[0] for p in parts), max(p[1] for p in parts), any(p[2] for p in parts)
        return _bounds_of(node, of)

    def slope(self, node: Node) -> int | None:
        """1 where the value never falls as the input grows, -1 where it never rises, 0 constant, None unknown."""
        if node not in self._slopes:
            self._slopes[node] = self._slope(node)
        return self._slopes[node]

    def _slope(self, node: Node) -> int | None:
        if not node.inputs:
            return 0
        if node.op == "input":
            return 1
        if self.bounds(node)[2]:
            return None
        if node.op == "where":
            return None
        slopes = [self.slope(a) for a in node.args]
        if None in slopes:
            return None
        first, second = slopes[0] or 0, (slopes[1] or 0 if len(slopes) > 1 else 0)
        if node.op in ("floor", "ceil", "trunc", "round", "sqrt", "count_lt", "count_le"):
            return first
        if node.op in ("add", "min", "max"):
            return _together(first, second)
        if node.op == "sub":
            return _together(first, -second)
        if node.op == "neg":
            return -first
        if node.op in ("lt", "le"):
            return _together(-first, second)
        if node.op == "lookup":
            table = node.value
            rising = all(x <= y for x, y in pairwise(table))
            falling = all(x >= y for x, y in pairwise(table))
            return first if rising else -first if falling else None
        if node.op in ("mul", "div", "floordiv", "mod"):
            return self._slope_of_product(node, first, second)
        return None

    def _slope_of_product(self, node: Node, first: int, second: int) -> int | None:
        a, b = self.bounds(node.args[0]), self.bounds(node.args[1])
        sign_a, sign_b = _sign(a), _sign(b)
        if node.op == "mul":
            if sign_a is None and second == 0 and sign_b is not None:
                return first * sign_b
            if sign_b is None and first == 0 and sign_a is not None:
                return second * sign_a
            if sign_a is None or sign_b is None:
                return None
            return _together(first * sign_b, second * sign_a)
        if node.op == "mod":
            # within one period it is a difference from a constant
            inside = (
                second == 0
                and node.args[1].is_const
                and b[0] > 0
                and math.floor(a[0] / b[0]) == math.floor(a[1] / b[0])
            )
            return first if inside and a[0] >= 0 else None
        if sign_b is None or b[0] <= 0 <= b[1]:
            return None
        if second == 0:
            return first * sign_b
        if sign_a is None:
            return None
        return _together(first * sign_b, -second * sign_a)


def _sign(bounds: Bounds) -> int | None:
    return 1 if bounds[0] >= 0 else -1 if bounds[1] <= 0 else None


def _together(first: int, second: int) -> int | None:
    return first or second if first == 0 or second == 0 or first == second else None


def _corners(f: Callable[[float, float], float], a: Bounds, b: Bounds, nan: bool) -> Bounds:
    values = [f(x, y) for x in a[:2] for y in b[:2]]
    if any(v != v for v in values):
        return ANY
    return min(values), max(values), nan


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0.0 or y == 0.0 else x * y


def _add(a: Bounds, b: Bounds) -> Bounds:
    nan = a[2] or b[2] or (a[0] == -math.inf and b[1] == math.inf) or (a[1] == math.inf and b[0] == -math.inf)
    low, high = a[0] + b[0], a[1] + b[1]
    return (low if low == low else -math.inf), (high if high == high else math.inf), nan


def _bounds_of(node: Node, of: Sequence[Bounds]) -> Bounds:
    op, a = node.op, of[0]
    nan = any(x[2] for x in of)
    if op == "add":
        return _add(a, of[1])
    if op == "sub":
        return _add(a, (-of[1][1], -of[1][0], of[1][2]))
    if op == "mul":
        b = of[1]
        lost = (_has(a, 0.0) and _endless(b)) or (_has(b, 0.0) and _endless(a))
        return _corners(_product, a, b, nan or lost)
    if op in ("div", "floordiv"):
        if _has(of[1], 0.0):
            return ANY
        return _corners(host_function(op), a, of[1], nan or _endless(a))
    if op == "mod":
        return _modulo(node, a, of[1], nan)
    if op == "pow":
        return _power(node, a, of[1], nan)
    if op in ("min", "max"):
        f = min if op == "min" else max
        if nan:
            return min(a[0], of[1][0]), max(a[1], of[1][1]), True
        return f(a[0], of[1][0]), f(a[1], of[1][1]), False
    if op in COMPARISONS or op in ("and", "or", "not"):
        return _truth(op, of, nan)
    if op == "where":
        chosen = [of[1]] if a[0] > 0 or a[1] < 0 else [of[2]] if a[0] == a[1] == 0 and not a[2] else of[1:]
        return min(x[0] for x in chosen), max(x[1] for x in chosen), any(x[2] for x in chosen)
    if op == "lookup":
        rows = node.value[int(max(0.0, min(a[0], len(node.value) - 1))) : int(max(0.0, min(a[1], 1e9))) + 1]
        rows = rows or node.value[-1:]
        return min(rows), max(rows), any(x != x for x in rows)
    return _bounds_of_one(op, a, function_of(op, node.value), nan)


def _bounds_of_one(op: str, a: Bounds, f: Callable[..., float], nan: bool) -> Bounds:
    low, high, _ = a
    if op == "neg":
        return -high, -low, nan
    if op == "abs":
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high)), nan
    if op in ("cos", "sin"):
        return -1.0, 1.0, nan or _endless(a)
    if op in ("sqrt", "log", "log2", "log10", "log1p"):
        floor = -1.0 if op == "log1p" else 0.0
        nan, low, high = nan or low < floor, max(low, floor), max(high, floor)
    if op in ("floor", "ceil", "trunc", "round", "sqrt", "count_lt", "count_le"):
        return f(low), f(high), nan
    if op == "tan":
        return ANY
    if op in ("exp", "expm1", "log", "log2", "log10", "log1p", "atan", "tanh"):
        least, most = {"exp": (0.0, math.inf), "tanh": (-1.0, 1.0), "expm1": (-1.0, math.inf)}.get(
            op, (-math.inf, math.inf)
        )
        return max(least, _wider(f(low), -1)), min(most, _wider(f(high), 1)), nan
    return ANY


def _wider(x: float, direction: int) -> float:
    # the library's functions are monotone only up to their last place
    return x + direction * abs(x) * 1e-14 if math.isfinite(x) else x


def _has(bounds: Bounds, x: float) -> bool:
    return bounds[0] <= x <= bounds[1]


def _endless(bounds: Bounds) -> bool:
    return bounds[0] == -math.inf or bounds[1] == math.inf


def _modulo(node: Node, a: Bounds, b: Bounds, nan: bool) -> Bounds:
    if _has(b, 0.0):
        return ANY
    nan = nan or _endless(a)
    if b[0] > 0:
        if a[0] >= 0 and a[1] < b[0]:
            return a[0], a[1], nan
        return 0.0, b[1] - 1 if node.whole else b[1], nan
    return b[0], 0.0, nan


def _power(node: Node, a: Bounds, b: Bounds, nan: bool) -> Bounds:
    if a[0] < 0 and not node.args[1].whole:
        return ANY
    if a[0] < 0:
        return -math.inf, math.inf, nan
    if a[0] >= 0 and a[1] <= 1 and b[0] >= 0:
        return 0.0, 1.0, nan
    power = host_function("pow")
    values = [power(x, y) for x in a[:2] for y in b[:2]]
    if any(v != v for v in values):
        return 0.0, math.inf, True
    return max(0.0, _wider(min(values), -1)), _wider(max(values), 1), nan


def _truth(op: str, of: Sequence[Bounds], nan: bool) -> Bounds:
    a, b = of[0], of[-1]
    yes: bool
    no: bool
    if op == "lt":
        yes, no = a[1] < b[0] and not nan, a[0] >= b[1]
    elif op == "le":
        yes, no = a[1] <= b[0] and not nan, a[0] > b[1]
    elif op in ("eq", "ne"):
        yes = a[0] == a[1] == b[0] == b[1] and not nan
        no = a[1] < b[0] or b[1] < a[0]
        if op == "ne":
            yes, no = no, yes
    else:
        true, false = [x[0] > 0 or x[1] < 0 for x in of], [x[0] == x[1] == 0 and not x[2] for x in of]
        if op == "not":
            yes, no = false[0], true[0]
        elif op == "and":
            yes, no = all(true), any(false)
        else:
            yes, no = any(true), all(false)
    return (1.0 if yes else 0.0), (0.0 if no else 1.0), False


def next_up(x: float) -> float:
    return math.nextafter(x, math.inf)


def next_down(x: float) -> float:
    return math.nextafter(x, -math.inf)
