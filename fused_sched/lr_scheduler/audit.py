"""Comparing a traced function with the function itself, in the calls that torch would make."""

from __future__ import annotations

from typing import Any

from ..trace.function import same

CALLS = 64  # steps in which it is called


class Audit:
    """What came of the comparison so far; ``done``: the function is not called any more."""

    def __init__(self, done: bool) -> None:
        self.done, self.steps = done, 0
        self.compared: int | None = None  # the epoch compared last

    def note(self) -> None:
        """One more step was compared."""
        self.steps += 1
        self.done = self.steps >= CALLS

    def agrees(self, expected: float | None, value: Any) -> bool:
        """Whether the program's value (None: it raises there) is what the function gave, to the bit."""
        try:
            return expected is not None and same((expected,), (float(value),))
        except (TypeError, ValueError, OverflowError):
            return False

    def difference(self, where: str, expected: float | None, value: Any) -> str:
        """It is not: in words."""
        shown = "an exception" if expected is None else repr(expected)
        return f"at {where} the function gave {value!r}, where its program gives {shown}"

    def explain(self) -> str:
        """What was compared, in one line."""
        ends = "it is not called any more" if self.done else f"it is called in the first {CALLS}"
        return f"it was compared with what the function itself gave in {self.steps} step(s) that the host made; {ends}"
