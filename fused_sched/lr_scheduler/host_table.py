"""Values that only Python can compute, on their way to the device."""

from __future__ import annotations

from collections.abc import Callable

from ..control_block import refuse_in_capture
from ..schedule import Schedule


class HostTable:
    """Rows of a program's table that Python computes, written ahead of the advance that reads them.

    With ``rows=1`` each row is computed when torch would compute it. With more, a whole block is
    computed when its first row is due, so the function must depend on the step alone.

    Args:
        rows: rows in the table; the row of ``epoch`` is ``epoch % rows``.
        compute: the row for an epoch.
    """

    def __init__(self, rows: int, compute: Callable[[int], list[float]]) -> None:
        if rows < 1:
            raise ValueError(f"lookahead={rows} must be at least 1: it is the number of steps computed at a time")
        self.rows = rows
        self._compute = compute
        self._first = self._end = 0

    def forget(self) -> None:
        """Compute every row anew from the next use on."""
        self._end = self._first

    def ensure(self, schedule: Schedule, symbol: str, epoch: int) -> None:
        """Make sure that the row of ``epoch`` is on the device; raises what ``compute`` raises."""
        if schedule.memory.remote:
            refuse_in_capture(schedule.memory.tensor, f"{symbol} was computed by Python")
        if self.rows == 1:
            schedule.write_row(symbol, self._compute(epoch))
        elif not self._first <= epoch < self._end:
            self._compute_block(schedule, symbol, epoch)

    def _compute_block(self, schedule: Schedule, symbol: str, epoch: int) -> None:
        self._first = self._end = epoch
        for due in range(epoch, epoch + self.rows):
            try:
                row = self._compute(due)
            except Exception:
                if due == epoch:
                    raise
                return  # reported if that row is ever due
            schedule.write_row(symbol, row, due % self.rows)
            self._end = due + 1
