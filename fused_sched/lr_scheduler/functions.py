"""Functions that users write, on their way into a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, Protocol

from ..facts import Fact
from ..notice import warn
from ..program.builder import Builder, Value
from ..program.program import LAST_EPOCH
from ..program.schedule import Schedule
from ..trace import Traced, Untraceable, emit_per_group, trace_all
from ..trace.function import describe
from ..trace.symbol import is_numpy
from .audit import Audit
from .registers import is_counted

RESTLESS = 8  # changes of what a function reads, each soon after the one before, until it is traced no more
UNUSED: Any = object()  # the value of a function that torch does not call for a group

_TABLE, _FIRST, _ROWS = "computed by Python ", "first tabulated epoch", "tabulated epochs"


class NotANumber(Exception):
    """A function gave what has rules of its own in arithmetic: its class."""


def as_number(value: Any) -> float:
    """A number of Python's, or numpy's float64 or float32, as a float.

    Raises:
        NotANumber: it is none of them.
    """
    kind = type(value)
    if kind not in (int, float, bool) and not is_numpy(kind) and not is_numpy(kind, "float32"):
        raise NotANumber(kind.__name__)
    return float(value)


class Caller(Protocol):
    """The scheduler whose functions they are."""

    def _functions(self) -> Sequence[Callable[[int], Any]]:
        """The functions as they are now."""

    def _call_functions(self, epoch: int) -> list[list[Any]]:
        """What they give in the step to ``epoch``, called as torch calls them: for each column, one value a group."""

    def _rows(self, called: Sequence[Sequence[Any]]) -> list[list[float]]:
        """What the table holds for such values."""

    def _argument(self, epoch: int) -> int:
        """What they are given in the step to ``epoch``."""

    def _is_valid(self) -> Callable[[Any], Any] | None:
        """Says whether a number that one of them gave may be used; None if any may."""


class StepFunctions:
    """One function of the step a param group: operations of the program, or rows that Python computes.

    Every function is traced, which does not call it. In the first steps it is called as torch calls it, and what it
    gives is compared (:class:`Audit`). Where a function cannot be traced, or turns out to be another one, all values
    come from a table, written ahead of the advance that reads them. With ``horizon=1`` a row is computed when torch
    would compute it; with more, so many are computed at once, and an advance past the last one traps.

    Args:
        caller: gives the scheduler; it has this object.
        horizon: rows in the table, at least 1.
        outputs: numbers that a function returns.
        columns: of the table.
    """

    def __init__(self, caller: Callable[[], Caller], horizon: int, outputs: int, columns: int) -> None:
        self.horizon = horizon
        self._caller = caller
        self._outputs, self._columns = outputs, columns
        self._first = self._end = 0
        self.not_numbers = ""  # why torch's code has to make the steps: a function gave what is no number
        self._restless = 0  # how many times in a row what was read changed before all was compared
        self._called: tuple[int, list[list[Any]]] | None = None  # what was called for a row that is not written yet
        self._trace()

    def _trace(self) -> None:
        self._known = [*self._caller()._functions()]
        self._traces: list[Traced] | None = None
        self._reason = ""
        try:
            traces = trace_all(self._known, self._outputs, is_valid=self._caller()._is_valid())
            if len(traces) > 1:
                self._emit_traced(b := Builder(len(traces)), traces, b.register("step", 0.0))  # may be too long
            self._traces = traces
        except Untraceable as error:
            self._reason = error.reason
        self._distinct = [*{id(t): t for t in self._traces or ()}.values()]
        self.audit, self.left_program = Audit(done=self._traces is None), False

    def _call(self, epoch: int) -> list[list[Any]]:
        called, self._called = self._called, None
        if called is not None and called[0] == epoch:
            return called[1]
        return self._caller()._call_functions(epoch)

    def forget(self) -> None:
        """Take the functions and their values as they are now."""
        self._end, self.audit.called_for = self._first, None
        functions = [*self._caller()._functions()]
        if len(functions) != len(self._known) or not all(map(is_, functions, self._known)):
            self._restless = 0
            self._trace()
        elif any(traced.changed() for traced in self._distinct):
            self._restless = 0 if self.audit.done else self._restless + 1
            self._trace()
            if self._restless > RESTLESS and self._traces is not None:
                self._leave_program("what the function reads changed again and again", tell=False)

    def serve(self, caller: Callable[[], Any]) -> None:
        """The scheduler goes on, though the references to it were cleared."""
        self._caller = caller

    @property
    def comparing(self) -> bool:
        """Whether the functions are part of the program, and called to compare."""
        return self._traces is not None and not self.audit.done

    @property
    def traced(self) -> bool:
        """Whether the functions are operations of the program."""
        return self._traces is not None

    def facts(self) -> list[Fact]:
        """What traced functions read."""
        return [fact for traced in self._distinct for fact in traced.watch.facts]

    def emit(self, b: Builder, epoch: Value, step: Value | None = None, *, shared: bool = False) -> tuple[Value, ...]:
        """The functions' values, or what is tabulated of them, for ``epoch``.

        Args:
            step: what traced functions are given; default ``epoch``.
            shared: there is one function for all groups. Elsewhere, where there are not as many as groups, the program
                traps, since torch's code raises.
        """
        self.left_program = False
        if not shared and len(self._known) != b.n_groups:
            b.trap(b.number(1.0), awaited=True)
            return (b.number(0.0),) * self._columns
        if self._traces is not None:
            values = self._emit_traced(b, self._traces, epoch if step is None else step)
            return values * (self._columns // self._outputs)
        row = b.number(0.0)
        if self.horizon > 1:
            row = epoch - b.register(_FIRST, 0.0)
            b.trap((row < 0) | (row >= b.register(_ROWS, 0.0)))
        for i in range(self._columns):
            b.table(_TABLE + str(i), [math.nan] * (self.horizon * b.n_groups), width=b.n_groups)
        return tuple(b.lookup(_TABLE + str(i), row) for i in range(self._columns))

    @staticmethod
    def _emit_traced(b: Builder, traces: Sequence[Traced], step: Value) -> tuple[Value, ...]:
        return emit_per_group(b, [traced.outcome for traced in traces], {"step": step})

    # -- steps that the host drives ------------------------------------------------------------------------

    def prepare(self, schedule: Schedule, scope: str, epoch: Callable[[], int]) -> None:
        """Make sure that the row of the coming epoch is on the device, or call the functions where they are compared.

        Raises what a function raises.
        """
        self.not_numbers = ""
        if self._traces is not None:
            if not self.audit.done and not schedule.memory.capturing():
                self._compare(schedule, epoch())
            return
        if f"{scope}{_TABLE}0" not in schedule.program.offsets:
            return
        if schedule.memory.capturing():
            if self.horizon > 1:
                return  # an advance past the rows that are there traps
            fix = f"give horizon=N, the number of steps to compute ahead (now {self.horizon})"
            schedule.memory.refuse_in_capture("a value of the schedule was computed by Python", fix)
        due = epoch()
        if self.horizon == 1:
            if self.audit.is_skipped_step(schedule, due):
                return
            rows = self._numbers_of(self._call(due))
            if rows is None:
                return
            for i, values in enumerate(rows):
                schedule.write_row(f"{scope}{_TABLE}{i}", values)
            self.audit.called_for = due
        elif not self._has_row_of(due):
            self._compute_rows(schedule, scope, due)

    def _has_row_of(self, epoch: int) -> bool:
        """Whether the function was called for it; after an edit it may be a float, between two rows or equal to one."""
        whole = type(epoch) is type(self._first) and (epoch - self._first) % 1 == 0
        return whole and self._first <= epoch < self._end

    def _compare(self, schedule: Schedule, due: int) -> None:
        assert self._traces is not None
        if not is_counted(LAST_EPOCH, due - 1) or self.audit.is_skipped_step(schedule, due):
            return
        called = self._call(due)
        self.audit.called_for = due
        if due > min(t.outcome.horizon for t in self._distinct):
            self._move_to_table(schedule, due, called, f"its whole numbers are not exact at step {due}")
            return
        step = self._caller()._argument(due)
        results = {id(t): t.evaluate(step) or (None,) * self._outputs for t in self._distinct}
        traces = self._traces * (len(called[0]) if len(self._traces) == 1 else 1)
        pairs = (
            (results[id(traced)][i % self._outputs], value)
            for i, column in enumerate(called)
            for traced, value in zip(traces, column, strict=True)
            if value is not UNUSED
        )
        difference = self.audit.difference(f"step {step}", pairs)
        if difference is not None:
            self._move_to_table(schedule, due, called, difference)
            return
        self.audit.note()

    def compare_first(self, epoch: int, written: Sequence[Sequence[Any]]) -> None:
        """Compare with what torch's constructor wrote: the rows of ``epoch``."""
        if self._traces is None or not is_counted(LAST_EPOCH, epoch):
            return
        if epoch > min(t.outcome.horizon for t in self._distinct):
            self._leave_program(f"its whole numbers are not exact at step {epoch}")
            return
        step = self._caller()._argument(epoch)
        results = [t.evaluate(step) for t in self._traces]
        if any(r is None for r in results):
            return  # torch's constructor would have raised
        rows = self._caller()._rows([[r[i] for r in results if r is not None] for i in range(self._outputs)])
        pairs = (pair for row, column in zip(rows, written, strict=True) for pair in zip(row, column, strict=True))
        difference = self.audit.difference(f"step {step}", pairs)
        if difference is not None:
            self._leave_program(difference)

    def _move_to_table(self, schedule: Schedule, epoch: int, called: list[list[Any]], reason: str) -> None:
        if schedule.memory.captured:
            self.audit.called_for = None
            raise RuntimeError(
                f"{reason}, and a CUDA graph that was captured has its program: give a function of the step alone"
            )
        self._leave_program(reason)
        self._called = (epoch, called)

    def _leave_program(self, reason: str, *, tell: bool = True) -> None:
        self._traces, self._distinct, self._reason = None, [], reason
        self.audit.called_for = None
        self.audit.done = self.left_program = True
        if tell:
            warn(f"{reason}: the function is called by Python at every step from now on")

    def _numbers_of(self, called: list[list[Any]]) -> list[list[float]] | None:
        """The rows; None where torch's code has to make the step."""
        try:
            return self._caller()._rows(called)
        except NotANumber:
            self.not_numbers, self.left_program = self._which_gave_none(called), True
            return None

    def _which_gave_none(self, called: Sequence[Sequence[Any]]) -> str:
        """Which function gave what is no number, and what to do."""
        for column in called:
            for function, value in zip(self._known, column, strict=False):
                try:
                    as_number(value)
                except NotANumber as error:
                    kind = f"a {error}, which has an arithmetic of its own"
                    return f"the function {describe(function)} gave {kind}: let it return a float, as by float(...)"
        raise AssertionError("all of them are numbers")

    def _compute_rows(self, schedule: Schedule, scope: str, epoch: int) -> None:
        self._first = self._end = epoch
        tables: list[list[float]] = [[] for _ in range(self._columns)]
        for due in (epoch + k for k in range(self.horizon)):
            called: list[list[Any]] = []
            try:
                called = self._call(due)
                row = self._caller()._rows(called)
            except NotANumber:
                said = f"{self._which_gave_none(called)}. At step {due} that would go into a table"
                raise TypeError(f"{said} of {self.horizon} steps, which holds numbers alone") from None
            except Exception:
                if due == epoch:
                    raise
                break  # reported if that row is ever due
            for table, values in zip(tables, row, strict=True):
                table += values
            self._end = due + 1
        schedule.write(scope + _FIRST, float(epoch))
        schedule.write(scope + _ROWS, float(self._end - epoch))
        for i, table in enumerate(tables):
            schedule.write_row(f"{scope}{_TABLE}{i}", table)

    def explain(self) -> str:
        """Which way was taken, and why."""
        if self._traces is not None:
            lines = [f"its function is part of the program: {t.explain()}" for t in self._distinct]
            return "\n".join([*lines, self.audit.explain()])
        when = "at every step" if self.horizon == 1 else f"{self.horizon} steps at a time"
        return f"its function is called by Python {when} and its values are read from a table, because {self._reason}"
