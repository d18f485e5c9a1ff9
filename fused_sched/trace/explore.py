"""Paths: the function is run once for each feasible sequence of truth values."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .expression import COMPARISONS, Bounds, Graph, Node, Ranges, evaluator, next_down, next_up
from .time_limit import TimeLimit

MAX_PATHS = 256
MAX_DECISIONS = 256  # on one path
MAX_EVENTS = 20_000  # symbolic operations on all paths
ENDLESS = "is there a loop without an end?"
MAX_SECONDS = 1.0  # of processor time, for loops that do not use the step
MAX_CONCRETE = 64  # values of a symbolic index
LAST_STEP = 2**48  # steps after this one are taken never to come
EXACT = 2.0**53  # integers up to here are exact in float64


class Untraceable(Exception):
    """A function that cannot become a program; ``reason`` says in one line where and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def endless(self) -> bool:
        """Whether calling the function may never return."""
        return self.reason.endswith(ENDLESS)


class Stop(BaseException):
    """Ends a traced run; not an Exception, so that a function's own handlers do not take it for an error."""


@dataclass(frozen=True)
class Leaf:
    """How a path ends: the values it returned, or the exception that it raised."""

    values: tuple[Any, ...] = ()
    error: BaseException | None = None


@dataclass(frozen=True)
class Fork:
    condition: Node
    true: Tree
    false: Tree


Tree = Leaf | Fork


class Explorer:
    """What all paths of one traced function share."""

    def __init__(self, inputs: Mapping[str, tuple[Bounds, bool]], scale: int = 1) -> None:
        self.graph = Graph()
        self.limits = {name: bounds for name, (bounds, _) in inputs.items()}
        self.inputs = {name: self.graph.input(name, whole=whole) for name, (_, whole) in inputs.items()}
        self.events, self.seconds = MAX_EVENTS * scale, MAX_SECONDS * scale
        self.horizon = 2**31 + 1  # integers are exact up to this step
        self.points: set[int] = set()  # steps worth checking: where a decision changes
        self.constants: set[float] = set()  # numbers in the code and in what it reads
        self.thresholds: dict[tuple[Any, ...], int] = {}
        self.free: Callable[[Node], bool | None] = lambda node: None  # decisions that are not explored
        self.reason: str | None = None

    def explore(self, function: Callable[[], tuple[Any, ...]]) -> Tree:
        """Run ``function`` on every path.

        Raises:
            Untraceable: it did something that a program cannot, or one of the limits was reached.
        """
        paths: list[tuple[list[tuple[Node, bool]], Leaf]] = []
        pending: list[list[bool]] = [[]]
        limit = TimeLimit(self.seconds, Stop, self._take_too_long)
        try:
            with limit:
                while pending:
                    if len(paths) >= MAX_PATHS:
                        raise Untraceable(f"it has more than {MAX_PATHS} paths, where a program computes all of them")
                    path = Path(self, pending.pop())
                    leaf = path.run(function)
                    paths.append((path.decisions, leaf))
                    pending += path.open
        except Stop:
            limit.close()
        if self.reason is not None:
            raise Untraceable(self.reason)
        return _tree(paths, 0)

    def _take_too_long(self) -> None:
        self.reason = self.reason or f"it computes for more than {self.seconds:g} s: {ENDLESS}"


def _tree(paths: Sequence[tuple[list[tuple[Node, bool]], Leaf]], depth: int) -> Tree:
    decisions, leaf = paths[0]
    if len(decisions) == depth:
        return leaf
    condition = decisions[depth][0]
    sides = [[p for p in paths if p[0][depth][1] is truth] for truth in (True, False)]
    return Fork(condition, _tree(sides[0], depth + 1), _tree(sides[1], depth + 1))


_current: list[Path] = []


def current() -> Path:
    """The path that runs now."""
    if not _current:
        raise Untraceable("a symbolic number was used after its trace had ended")
    return _current[-1]


class Path:
    """One run of the function, with the truth values of ``prefix`` first."""

    def __init__(self, explorer: Explorer, prefix: list[bool]) -> None:
        self.explorer, self.prefix = explorer, prefix
        self.ranges = Ranges(explorer.limits)
        self.decisions: list[tuple[Node, bool]] = []
        self.open: list[list[bool]] = []
        self.facts: dict[Node, bool] = {}
        self.excluded: set[tuple[str, int]] = set()
        self.text: str | None = None  # why the text of a symbolic number must not reach the result

    # -- running -----------------------------------------------------------------------------------------------

    def run(self, function: Callable[[], tuple[Any, ...]]) -> Leaf:
        _current.append(self)
        try:
            leaf = Leaf(function())
        except Stop:
            leaf = Leaf()
        except RecursionError:
            leaf, self.explorer.reason = Leaf(), self.explorer.reason or "it recurses too deeply"
        except Untraceable as error:
            leaf, self.explorer.reason = Leaf(), self.explorer.reason or error.reason
        except Exception as error:
            leaf = Leaf(error=error.with_traceback(None))
        finally:
            _current.pop()
        if self.explorer.reason is not None:
            raise Untraceable(self.explorer.reason)
        if self.text is not None and leaf.error is None:
            raise Untraceable(self.text)
        return leaf

    def stop(self, reason: str) -> Stop:
        """The signal to raise: ends all paths, also when the function's own handlers swallow it."""
        self.explorer.reason = self.explorer.reason or self.located(reason)
        return Stop()

    def located(self, reason: str) -> str:
        """The reason in one line, with the line of the function that runs now."""
        frame = _user_frame(sys._getframe(1))
        where = f"line {frame.f_lineno} of {frame.f_code.co_name}: " if frame else ""
        return " ".join(f"{where}{reason}".split())

    def nearer(self, horizon: int) -> Ranges:
        """What is known if no whole input is beyond ``horizon``."""
        ranges = Ranges(self.ranges.inputs)
        for name, (low, high, nan) in self.ranges.inputs.items():
            if self.explorer.inputs[name].whole:
                ranges.inputs[name] = (low, max(low, min(high, horizon)), nan)
        ranges.known, ranges.nonzero = self.ranges.known, self.ranges.nonzero
        return ranges

    def event(self) -> None:
        """Count one symbolic operation."""
        self.explorer.events -= 1
        if self.explorer.reason is not None:
            raise Stop
        if self.explorer.events < 0:
            raise self.stop(f"it computes with the step more than {MAX_EVENTS} times on all paths together")

    # -- deciding ----------------------------------------------------------------------------------------------

    def decide(self, node: Node) -> bool:
        """The truth value of ``node`` on this path."""
        self.event()
        known = self._known(node)
        if known is None:
            known = self.explorer.free(node)
            if known is not None:
                self.facts[node] = known
                return known
        if known is not None:
            return known
        if len(self.decisions) < len(self.prefix):
            truth = self.prefix[len(self.decisions)]
        else:
            if len(self.decisions) >= MAX_DECISIONS:
                raise self.stop(f"it takes more than {MAX_DECISIONS} decisions on one path: {ENDLESS}")
            truth = True
            self.open.append([*(d for _, d in self.decisions), False])
        self.decisions.append((node, truth))
        self.assume(node, truth)
        return truth

    def _known(self, node: Node) -> bool | None:
        if node.op == "const":
            return bool(node.value)
        if node in self.facts:
            return self.facts[node]
        low, high, nan = self.ranges.bounds(node)
        if low > 0 or high < 0:
            return True
        if low == high == 0 and not nan:
            return False
        if node.op in COMPARISONS:
            solution = self._solution(node)
            if solution is not None:
                first, last, inside = solution
                low, high, _ = self.ranges.inputs[next(iter(node.inputs))]
                if first > last or (first == last and (next(iter(node.inputs)), first) in self.excluded):
                    return not inside
                if first <= low and last >= high:
                    return inside
        return None

    def assume(self, node: Node, truth: bool) -> None:
        """Narrow what is known by the truth value of a condition."""
        solution = self._solution(node) if node.op in COMPARISONS else None
        self.facts[node] = truth
        if solution is not None:
            self._narrow(next(iter(node.inputs)), *solution, truth)
        self._bound(node, truth)
        self.ranges.forget()

    def _narrow(self, name: str, first: int, last: int, inside: bool, truth: bool) -> None:
        low, high, nan = self.ranges.inputs[name]
        if truth is inside:
            low, high = max(low, first), min(high, last)
        elif first <= low:
            low = last + 1
        elif last >= high:
            high = first - 1
        elif first == last:
            self.excluded.add((name, first))
        while (name, low) in self.excluded:
            low += 1
        while (name, high) in self.excluded:
            high -= 1
        self.ranges.inputs[name] = (low, high, nan)

    def _bound(self, node: Node, truth: bool) -> None:
        """A comparison with what has bounds tightens the bounds of the other side."""
        op = node.op
        if op in ("eq", "ne") and (op == "eq") is not truth:
            for x, y in (node.args, node.args[::-1]):
                if x.whole and y.is_const and y.value == 0:
                    self.ranges.nonzero.add(x)
                low, high, _ = self.ranges.bounds(x)
                if y.is_const and y.value == low:
                    self._tighten(x, low + 1 if x.whole else next_up(low), high)
                elif y.is_const and y.value == high:
                    self._tighten(x, low, high - 1 if x.whole else next_down(high))
        elif op in ("eq", "ne"):
            x, y = node.args
            self._tighten(x, *self.ranges.bounds(y)[:2])
            self._tighten(y, *self.ranges.bounds(x)[:2])
        elif op in ("lt", "le"):
            small, large = node.args
            strict = (op == "lt") is truth
            if not truth:
                if self.ranges.bounds(small)[2] or self.ranges.bounds(large)[2]:
                    return  # a NaN is neither
                small, large = large, small
            top, bottom = self.ranges.bounds(large)[1], self.ranges.bounds(small)[0]
            if strict:
                top = top - 1 if small.whole and float(top).is_integer() else next_down(top)
                bottom = bottom + 1 if large.whole and float(bottom).is_integer() else next_up(bottom)
            self._tighten(small, -math.inf, top)
            self._tighten(large, bottom, math.inf)

    def _tighten(self, node: Node, low: float, high: float) -> None:
        if node.op != "const" and low == low and high == high:
            before = self.ranges.known.get(node, (-math.inf, math.inf))
            self.ranges.known[node] = (max(before[0], low), min(before[1], high))

    def _solution(self, node: Node) -> tuple[int, int, bool] | None:
        """Where the one integer input makes a comparison ``inside``: from first to last, and nowhere else."""
        if len(node.inputs) != 1:
            return None
        name = next(iter(node.inputs))
        if not self.explorer.inputs[name].whole:
            return None
        low, high = (int(x) for x in self.ranges.inputs[name][:2])
        a, b = (self.ranges.slope(x) for x in node.args)
        if a is None or b is None:
            return None
        if node.op in ("lt", "le"):
            if a * b > 0:
                return None
            rises = a < 0 or b > 0  # the truth value, from False to True
            t = self._threshold(node, node.op, rises, low, high)
            return (t, high, True) if rises else (low, t - 1, True)
        if a and b:
            return None
        rises = (a or -b) > 0
        names = (">=", ">") if rises else ("<=", "<")
        first, after = (self._threshold(node, name, True, low, high) for name in names)
        return first, after - 1, node.op == "eq"

    def _threshold(self, node: Node, relation: str, rises: bool, low: int, high: int) -> int:
        """First input at which a monotone relation has changed, between low and high + 1; by bisection."""
        key = (node, relation, low, high)
        found = self.explorer.thresholds.get(key)
        if found is None:
            left, right = (evaluator(x) for x in node.args)
            compare = _RELATIONS[relation]
            found = _first(lambda x: compare(left(float(x)), right(float(x))) is rises, low, high)
            self.explorer.thresholds[key] = found
            self.explorer.points.add(found)
        return found


_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _first(changed: Callable[[int], bool], low: int, high: int) -> int:
    span = 1  # thresholds are near the start more often than near the end
    while low + span <= high and not changed(low + span - 1):
        low, span = low + span, span * 2
    high = min(low + span, high + 1)
    while low < high:
        middle = (low + high) // 2
        if changed(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _is_traced(frame: FrameType) -> bool:
    return type(frame.f_globals) is not dict  # rebuilt functions have globals of their own class


def _user_frame(frame: FrameType | None) -> FrameType | None:
    while frame is not None and not _is_traced(frame):
        frame = frame.f_back
    return frame
