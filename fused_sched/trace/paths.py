"""Paths: the function is run once for each feasible sequence of truth values, and the paths are folded into one."""

from __future__ import annotations

import dis
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import FrameType, TracebackType
from typing import Any

from ..program.bounds import Interval
from .graph import Graph, Node, Ranges

MAX_PATHS = 256
MAX_DECISIONS = 256  # on one path
MAX_EVENTS = 20_000  # symbolic operations on all paths
MAX_LINES = 300_000  # that run on all paths, for loops that do not use the step
ENDLESS = "is there a loop without an end?"
LAST_STEP = 2**48  # steps after this one are taken never to come
EXACT = 2.0**53  # integers up to here are exact in float64


class Untraceable(Exception):
    """A function that cannot become a program; ``reason`` says in one line where and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stop(BaseException):
    """Ends a traced run; not an Exception, so that a function's own handlers do not take it for an error."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """All paths of a function, folded into one graph.

    Attributes:
        values: what it returns.
        trap: not 0 where it raises; the constant 0 if it never does.
        horizon: how far the inputs in ``counted``, which are ints, may count for all ints to be exact.
    """

    values: tuple[Node, ...]
    trap: Node
    paths: int
    horizon: int
    counted: tuple[str, ...]

    @cached_property
    def nodes(self) -> list[Node]:
        """All that is computed, each after what it needs."""
        found: dict[int, Node] = {}
        stack = list(self.values if self.trap.is_const else (*self.values, self.trap))
        while stack:
            node = stack.pop()
            if node.id not in found:
                found[node.id] = node
                stack += node.args
        return [found[i] for i in sorted(found)]

    @property
    def inexact(self) -> list[str]:
        """Operations whose last place is not the same for every evaluator."""
        return sorted({node.op for node in self.nodes if node.traits.units})

    @cached_property
    def bits(self) -> tuple[Any, ...]:
        """Equal for outcomes that are the same to the bit."""
        return self._lines(lambda node: repr(node.field or node.value))

    @cached_property
    def form(self) -> tuple[Any, ...]:
        """Equal for outcomes that are the same but for constants and the numbers in tables."""
        return self._lines(lambda n: len(n.value) if isinstance(n.value, tuple) else n.field or n.is_const or n.value)

    def _lines(self, described: Callable[[Node], Any]) -> tuple[Any, ...]:
        place = {node: k for k, node in enumerate(self.nodes)}
        lines = tuple((node.op, described(node), *(place[a] for a in node.args)) for node in self.nodes)
        return lines, tuple(place[v] for v in self.values), None if self.trap.is_const else place[self.trap]


_Taken = tuple[list[tuple[Node, bool]], tuple[Node, ...] | None]  # decisions, and results; None: it raised


class Explorer:
    """What all paths of one traced function share: inputs, each with its bounds and whether it is a whole number.

    It may take ``scale`` times as long as usual.
    """

    def __init__(self, inputs: Mapping[str, tuple[Interval, bool]], scale: int = 1) -> None:
        self.graph = Graph()
        self.limits = {name: bounds for name, (bounds, _) in inputs.items()}
        self.inputs = {name: self.graph.input(name, whole=whole) for name, (_, whole) in inputs.items()}
        self.events, self._most_lines = MAX_EVENTS * scale, MAX_LINES * scale
        self._lines = self._most_lines  # that are left
        self.lines_of_a_path = 0  # that one call runs, about
        self.horizon = LAST_STEP  # integers are exact up to this step
        self.points: set[int] = set()  # steps worth checking: where a decision changes
        self.free: Callable[[Node], bool | None] = lambda node: None  # decisions that are not explored
        self.reason: str | None = None  # why the trace has ended
        self.error: Any = None  # that a path ended with

    def explore(self, function: Callable[[], tuple[Node, ...]]) -> Outcome:
        """Run ``function`` on every path; Untraceable if it did what a program cannot, or reached one of the limits."""
        previous = sys.gettrace()
        try:
            sys.settrace(lambda frame, event, argument: self._of_line if _is_traced(frame) else None)
            taken = next(self._paths(function))
        finally:
            sys.settrace(previous)  # whatever interrupts it
        self.lines_of_a_path = (self._most_lines - self._lines) // len(taken)
        values, trap = self._fold(taken, 0)
        if values is None:
            shown = " ".join(f"{type(self.error).__name__} ({BaseException.__str__(self.error)})".split())
            raise Untraceable(f"it raises {shown} at every step")
        counted = tuple(name for name, node in self.inputs.items() if node.whole)
        return Outcome(values, trap, len(taken), self.horizon, counted)

    def _paths(self, function: Callable[[], tuple[Node, ...]]) -> Iterator[list[_Taken]]:
        """All paths, at once.

        In a generator, as each has its own exception that is being handled: from Python 3.11 on, what is raised for the
        last line of a handler leaves the handler's there for good.
        """
        taken: list[_Taken] = []
        pending: list[list[bool]] = [[]]
        while pending:
            if len(taken) >= MAX_PATHS:
                raise Untraceable(f"it has more than {MAX_PATHS} paths, where a program computes all of them")
            path = Path(self, pending.pop())
            taken.append((path.decisions, path.run(function)))
            pending.extend(path.open)
        yield taken

    def _of_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count lines, of loops without an end too, and look at exceptions before any handler does."""
        if event == "exception":
            _refuse_unknown(argument[1], argument[2])
        self._lines -= event == "line"
        if self._lines < 0:
            self.reason = self.reason or f"it runs more than {self._most_lines:,} lines: {ENDLESS}"
            raise Stop
        return self._of_line

    def _fold(self, taken: list[_Taken], depth: int) -> tuple[tuple[Node, ...] | None, Node]:
        decisions, values = taken[0]
        if len(decisions) == depth:
            return values, self.graph.const(0.0 if values is not None else 1.0)
        where = partial(self.graph.apply, "where", decisions[depth][0])
        sides = [[one for one in taken if one[0][depth][1] is truth] for truth in (True, False)]
        (true, true_trap), (false, false_trap) = (self._fold(side, depth + 1) for side in sides)
        both = () if true is None or false is None else zip(true, false, strict=True)
        values = tuple(where(a, b) for a, b in both) or true or false
        return values, where(true_trap, false_trap)


_running = threading.local()


def current() -> Path:
    """The path that runs now."""
    path: Path | None = getattr(_running, "path", None)
    if path is None:
        raise Untraceable("a symbolic number was used after its trace had ended")
    return path


class Path:
    """One run of the function, with the truth values of ``prefix`` first; on numbers where it is not ``symbolic``."""

    def __init__(self, explorer: Explorer, prefix: list[bool], *, symbolic: bool = True) -> None:
        self.explorer, self.prefix, self.symbolic = explorer, prefix, symbolic
        self.ranges = Ranges(explorer.limits, explorer.points)
        self.decisions: list[tuple[Node, bool]] = []
        self.open: list[list[bool]] = []
        self.facts: dict[Node, bool] = {}
        self.text: str | None = None  # why the text of a symbolic number must not reach the result

    def run(self, function: Callable[[], Any]) -> Any:
        """What the function returns, None where it raises; Untraceable if it did what a program cannot."""
        result, reason, outer = None, None, getattr(_running, "path", None)
        try:
            _running.path = self
            result = function()
            reason = self.text
        except Stop:
            pass
        except RecursionError:
            reason = "it recurses too deeply"
        except Untraceable as error:
            reason = error.reason
        except Exception as error:
            self.explorer.error = BaseException.with_traceback(error, None)
        finally:
            _running.path = outer
        reason = self.explorer.reason or reason
        if reason is not None:
            raise Untraceable(reason)
        return result

    def stop(self, reason: str) -> Stop:
        """The signal to raise: ends all paths, also when the function's own handlers swallow it."""
        self.explorer.reason = self.explorer.reason or _located(reason)
        return Stop()

    def nearer(self, horizon: int) -> Ranges:
        """What is known if no step is beyond ``horizon``."""
        limits = {n: x if x.endless else x._replace(high=horizon) for n, x in self.ranges.inputs.items()}
        ranges = Ranges(limits, set())
        ranges.known, ranges.nonzero = self.ranges.known, self.ranges.nonzero
        return ranges

    def event(self) -> None:
        """Count one symbolic operation."""
        self.explorer.events -= 1
        if self.explorer.reason is not None:
            raise Stop
        if self.explorer.events < 0:
            raise self.stop(f"it computes with the step more than {MAX_EVENTS} times on all paths together")

    def decide(self, node: Node) -> bool:
        """The truth value of ``node`` on this path."""
        self.event()
        truth = bool(node.value) if node.is_const else self.facts.get(node)
        if truth is None:
            truth = self.ranges.bounds(node).truth
        if truth is None:
            truth = self.explorer.free(node)
        if truth is None:
            k = len(self.decisions)
            if k >= max(MAX_DECISIONS, len(self.prefix)):
                raise self.stop(f"it takes more than {MAX_DECISIONS} decisions on one path: {ENDLESS}")
            truth = k >= len(self.prefix) or self.prefix[k]
            if k >= len(self.prefix):
                self.open.append([*(d for _, d in self.decisions), False])
            self.decisions.append((node, truth))
            self.ranges.assume(node, truth)
        self.facts[node] = truth
        return truth


def _refuse_unknown(error: Any, place: TracebackType) -> None:
    """End the trace at an exception that may be one of symbolic numbers, and not of the function's.

    The function's are those that it raises, those that a rule raises in Python's place, and those of plain values.
    """
    known = (ArithmeticError, LookupError, StopIteration, RecursionError)
    if not isinstance(error, Exception) or isinstance(error, known):
        return
    while place.tb_next is not None:
        place = place.tb_next
    raised = place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    said = BaseException.__str__(error)
    if not raised or said.startswith("exceptions must derive"):
        raise current().stop(f"{type(error).__name__}: {said}, where the function may not raise that")


def _is_traced(frame: FrameType) -> bool:
    return type(frame.f_globals) is not dict  # rebuilt functions have globals of their own class


def traced_frames() -> list[FrameType]:
    """The rebuilt functions that run now, the innermost first."""
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    return [frame for frame in frames if _is_traced(frame)]


def _located(reason: str) -> str:
    """The reason in one line, with the line of the function that runs now; the file, if not that of the outermost."""
    frames, where = traced_frames(), ""
    if frames:
        # Python before 3.12 has comprehensions as functions of their own
        names = (f.f_code.co_name for f in frames if f.f_code.co_name not in ("<listcomp>", "<setcomp>", "<dictcomp>"))
        file = frames[0].f_code.co_filename
        elsewhere = "" if frames[-1].f_code.co_filename == file else f" in {file.rpartition('/')[2]}"
        where = f"line {frames[0].f_lineno} of {next(names, frames[0].f_code.co_name)}{elsewhere}: "
    return " ".join(f"{where}{reason}".split())


# -- what a traced function must not see of ours ------------------------------------------------------------


class Guarded:
    """Base of what a traced function gets in place of something: reading a name of it ends the trace.

    What is in slots is read by their getters. Names like ``__class__`` are read by Python itself alone, see sandbox.py.
    """

    __slots__ = ()

    _what: Callable[..., str]  # what it is in messages

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise current().stop(f"it uses .{name} of {type(self)._what(self)}")

    def __setattr__(self, name: str, value: Any = None) -> None:
        raise current().stop(f"it assigns to .{name} of {type(self)._what(self)}")

    __delattr__ = __setattr__

    def __repr__(self) -> str:
        path, what = current(), type(self)._what(self)  # in the message of an exception it may be
        path.text = path.text or _located(f"it makes text of {what}")
        return f"<{what}>"


def refusing(does: str) -> Any:
    """A method that ends the trace."""

    def refuse(self: Guarded, *arguments: Any, **named: Any) -> Any:
        raise current().stop(f"it {does} {type(self)._what(self)}")

    return refuse
