"""Functions that users write, on their way into a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

from ..program.builder import Builder, Value
from ..program.schedule import Schedule
from ..trace import Traced, Untraceable, call_within, emit_per_group, trace_all

LONGEST_CALL = 5.0  # seconds of processor time, for a function in which tracing suspects an endless loop

_TABLE, _FIRST, _ROWS = "computed by Python ", "first tabulated epoch", "tabulated epochs"


class StepFunctions:
    """One function of the step a param group: operations of the program, or rows that Python computes.

    Every function is traced. Where one cannot be, all values come from a table instead, written ahead of
    the advance that reads them. With ``horizon=1`` a row is computed when torch would compute it; with
    more, so many are computed at once, and an advance past the last one traps.

    Args:
        functions: gives the functions as they are now; each takes an int.
        tabulated: what the table holds for an epoch: for each output its numbers, one or one a group.
        horizon: rows in the table, at least 1.
        outputs: numbers that a function returns.
    """

    def __init__(
        self,
        functions: Callable[[], Sequence[Callable[[int], Any]]],
        tabulated: Callable[[int], list[list[float]]],
        horizon: int,
        outputs: int = 1,
    ) -> None:
        self.horizon = horizon
        self._functions, self._tabulated = functions, tabulated
        self._outputs = outputs
        self._first = self._end = 0
        self._row_of: int | None = None  # the epoch that the one row is of
        self._trace()

    def _trace(self) -> None:
        self._known = [*self._functions()]
        self._traces: list[Traced] | None = None
        self._reason = ""
        self._endless = False
        try:
            traces = trace_all(self._known, self._outputs)
            if len(traces) > 1:
                emit_per_group(b := Builder(len(traces)), traces, b.register("step", 0.0))  # may be too long
            self._traces = traces
        except Untraceable as error:
            self._reason, self._endless = error.reason, error.endless
        self._distinct = [*{id(t): t for t in self._traces or ()}.values()]
        if self._endless:  # torch's constructor would hang in its first call
            self._compute(0)

    def _compute(self, epoch: int) -> list[list[float]]:
        if not self._endless:
            return self._tabulated(epoch)
        try:
            return call_within(LONGEST_CALL, lambda: self._tabulated(epoch))  # type: ignore[no-any-return]
        except TimeoutError as error:
            raise TimeoutError(f"the function of the schedule gave, at step {epoch}, {error}") from None

    def forget(self) -> None:
        """Take the functions and their values as they are now."""
        self._end, self._row_of = self._first, None
        functions = [*self._functions()]
        if len(functions) != len(self._known) or not all(map(is_, functions, self._known)) or self.changed():
            self._trace()

    @property
    def traced(self) -> bool:
        """Whether the functions are operations of the program."""
        return self._traces is not None

    def changed(self) -> bool:
        """Whether something that a traced function reads is no longer what it was."""
        for traced in self._distinct:  # noqa: SIM110  # on the step path: any() costs more
            if traced.watch.changed():
                return True
        return False

    def emit(self, b: Builder, epoch: Value, step: Value | None = None, width: int | None = None) -> tuple[Value, ...]:
        """The functions' values, or what is tabulated of them, for ``epoch``.

        Args:
            step: what traced functions are given; default ``epoch``.
            width: how many functions there are: 1, or by default one for each group. Where there are not as many as
                groups, the program traps, since torch's code raises.
        """
        if width is None and len(self._known) != b.n_groups:
            b.trap(b.number(1.0), awaited=True)
            return (b.number(0.0),) * self._outputs
        if self._traces is not None:
            step = epoch if step is None else step
            return self._traces[0].emit(b, step) if width == 1 else emit_per_group(b, self._traces, step)
        row = b.number(0.0)
        if self.horizon > 1:
            row = epoch - b.register(_FIRST, 0.0)
            b.trap((row < 0) | (row >= b.register(_ROWS, 0.0)))
        width = b.n_groups if width is None else width
        for i in range(self._outputs):
            b.table(_TABLE + str(i), [math.nan] * (self.horizon * width), width=width)
        return tuple(b.lookup(_TABLE + str(i), row) for i in range(self._outputs))

    def prepare(self, schedule: Schedule, scope: str, epoch: Callable[[], int]) -> None:
        """Make sure that the row of the coming epoch is on the device; raises what the function raises."""
        if self._traces is not None or f"{scope}{_TABLE}0" not in schedule.program.offsets:
            return
        if schedule.memory.capturing():
            if self.horizon > 1:
                return  # an advance past the rows that are there traps
            fix = f"give horizon=N, the number of steps to compute ahead (now {self.horizon})"
            schedule.memory.refuse_in_capture("a value of the schedule was computed by Python", fix)
        due = epoch()
        if self.horizon == 1:
            if due == self._row_of and schedule.may_not_have_advanced:
                return  # the row of a step that was skipped: torch would not have called the function for it yet
            self._row_of = due
            for i, values in enumerate(self._compute(due)):
                schedule.write_row(f"{scope}{_TABLE}{i}", values)
        elif not self._first <= due < self._end:
            self._compute_rows(schedule, scope, due)

    def _compute_rows(self, schedule: Schedule, scope: str, epoch: int) -> None:
        self._first = self._end = epoch
        tables: list[list[float]] = [[] for _ in range(self._outputs)]
        for due in range(epoch, epoch + self.horizon):
            try:
                row = self._compute(due)
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
            return "\n".join(f"its function is part of the program: {t.explain()}" for t in self._distinct)
        when = "at every step" if self.horizon == 1 else f"{self.horizon} steps at a time"
        return f"its function is called by Python {when} and its values are read from a table, because {self._reason}"
