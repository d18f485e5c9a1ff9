"""Comparing a traced function with the function itself, in the calls that torch would make."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..program.schedule import Schedule
from ..trace.function import same

CALLS = 64  # steps in which it is called


class Audit:
    """What came of the comparison so far.

    Attributes:
        done: the function is not called to compare, or not any more.
        called_for: the epoch that it was called for last.
    """

    def __init__(self, done: bool) -> None:
        self.done, self.steps = done, 0
        self.called_for: int | None = None

    def note(self) -> None:
        """One more step was compared."""
        self.steps += 1
        self.done = self.steps >= CALLS

    def is_skipped_step(self, schedule: Schedule, epoch: int) -> bool:
        """Whether it was called for a step that was skipped: torch would not call it for that again."""
        return epoch == self.called_for and schedule.may_not_have_advanced

    @staticmethod
    def difference(where: str, pairs: Iterable[tuple[float | None, Any]]) -> str | None:
        """The first of ``pairs``, what the program gives (None: it raises) and what the function gave, that are not
        the same to the bit, in words."""
        for expected, value in pairs:
            if not _agree(expected, value):
                shown = "an exception" if expected is None else repr(expected)
                return f"at {where} the function gave {value!r}, where its program gives {shown}"
        return None

    def explain(self) -> str:
        """What was compared, in one line."""
        ends = "it is not called any more" if self.done else f"it is called in the first {CALLS}"
        return f"it was compared with what the function itself gave in {self.steps} step(s) that the host made; {ends}"


def _agree(expected: float | None, value: Any) -> bool:
    try:
        return expected is not None and same((expected,), (float(value),))
    except (TypeError, ValueError, OverflowError):
        return False
