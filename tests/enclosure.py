"""Between which numbers every evaluator of a traced function may be, if each operation keeps its promise.

Interval arithmetic on the nodes of a graph. An exact operation on exact operands is one number. IEEE rounding is
monotone, so an exact operation on intervals lies between the roundings at their ends; the others lie within their
units in the last place of the library's values at the ends, and of those at the turning points between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from fused_sched.trace.graph import TABLE, Node, function_of
from fused_sched.trace.paths import Outcome

Interval = tuple[float, float]
ANYTHING = (-math.inf, math.inf)
_COMPARED = {"lt": (1, 0), "le": (1, 0), "eq": (0, 1), "ne": (0, 1)}
_MONOTONE = ("neg", "sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "atan", "tanh", "min", "max", "add", "sub")
_STEEPNESS = {"cos": 1.0, "sin": 1.0}


def enclosures(outcome: Outcome, step: float) -> tuple[list[Interval], Interval]:
    """For each result and for the trap, the least and the greatest that an evaluator may give."""
    values: dict[Node, Interval] = {outcome.trap: (0.0, 0.0)}
    for node in outcome.nodes:
        if node.op in ("input", "const"):
            values[node] = (step if node.op == "input" else node.value,) * 2
        else:
            values[node] = _apply(node.op, node.value, [values[a] for a in node.args])
    return [values[v] for v in outcome.values], values[outcome.trap]


def is_point(x: Interval) -> bool:
    return x[0] == x[1] or (x[0] != x[0] and x[1] != x[1])


def _apply(op: str, value: object, given: Sequence[Interval]) -> Interval:
    if op == "where":
        a, b = given[1:]
        if is_point(given[0]):
            return a if given[0][0] != 0.0 else b
        return _hull([*a, *b])
    f = function_of(op, value)
    if all(map(is_point, given)):
        return _widened(f(*(x[0] for x in given)), op)
    if op in ("and", "or", "not") or op in _COMPARED:
        return _truth(op, given, f)
    if any(math.isnan(v) or math.isinf(v) for x in given for v in x):
        return ANYTHING
    return _between(op, f, given)


def _between(op: str, f: Callable[..., float], given: Sequence[Interval]) -> Interval:
    corners = _hull([end for ends in itertools.product(*given) for end in _widened(f(*ends), op)])
    if op == "abs":
        return (0.0, corners[1]) if given[0][0] < 0.0 < given[0][1] else corners
    if op in _STEEPNESS:
        width = given[0][1] - given[0][0]
        return corners[0] - width, corners[1] + width
    if op in ("mul", *_MONOTONE):
        return corners
    if op == "div" and not given[1][0] <= 0.0 <= given[1][1]:
        return corners
    if op == "pow" and given[0][0] > 0.0:
        return corners
    if op == "pow" and is_point(given[1]) and given[1][0].is_integer() and given[0][1] < 0.0:
        return corners
    assert op in ("div", "pow", "tan"), f"{op} of what may differ between evaluators"
    return ANYTHING


def _widened(x: float, op: str) -> Interval:
    if not TABLE[op].units or not math.isfinite(x):
        return x, x
    slack = TABLE[op].units * math.ulp(x)
    return x - slack, x + slack


def _hull(values: Sequence[float]) -> Interval:
    return ANYTHING if any(v != v for v in values) else (min(values), max(values))


def _truth(op: str, given: Sequence[Interval], f: Callable[..., float]) -> Interval:
    """A comparison of intervals that overlap is both."""
    if op in _COMPARED:
        (a, b), (c, d) = given
        if any(v != v for v in (a, b, c, d)) or not (b < c or d < a):
            return 0.0, 1.0
        return (f(a, c),) * 2
    return _hull([f(*ends) for ends in itertools.product(*(_as_truths(x) for x in given))])


def _as_truths(x: Interval) -> Interval:
    if is_point(x):
        return x
    return (1.0, 1.0) if x[0] > 0.0 or x[1] < 0.0 else (0.0, 1.0)
