"""Attributes of a scheduler that live in its program."""

from __future__ import annotations

import math
from typing import Any

from ..memory.values import as_float
from ..program.program import LAST_EPOCH, STEP_COUNT
from ..trace.paths import LAST_STEP
from .attributes import keep, kept

LAST_LR = "_last_lr"
BEFORE_THE_FIRST = {LAST_EPOCH: -1, STEP_COUNT: 0}  # step: what torch's counters have there


def is_counted(name: str, value: Any) -> bool:
    """Whether torch's counter ``name`` comes to ``value`` by counting steps, and not by an edit: functions are traced
    for such values alone."""
    return isinstance(value, int) and BEFORE_THE_FIRST[name] <= value < LAST_STEP


class Register:
    """A number of torch's scheduler that is a register of the program: reading it reads the schedule.

    Before there is a program, and in a scheduler that runs on the host, it is an ordinary attribute.

    Args:
        whole: a value without a fraction reads as an int, as in torch; but where the user gave a float, as a float.
    """

    _said = "a number in the program"  # what it is in messages

    def __init__(self, *, whole: bool = True) -> None:
        self._whole = whole

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, scheduler: Any, owner: type | None = None) -> Any:
        if scheduler is None:
            return self
        stored = self._kept(scheduler)
        if scheduler._schedule is None or self._name not in scheduler._registers:
            return stored
        value = scheduler._schedule.read(scheduler._scope + self._name)
        return int(value) if self._whole and value.is_integer() and type(stored) is not float else value

    def _kept(self, scheduler: Any) -> Any:
        try:
            return kept(scheduler, self._name)
        except KeyError:
            kind = type(scheduler).__name__
            raise AttributeError(f"{kind!r} object has no attribute {self._name!r}") from None

    def __set__(self, scheduler: Any, value: Any) -> None:
        self.send(scheduler, value)
        keep(scheduler, self._name, value)

    def send(self, scheduler: Any, value: Any) -> None:
        """Let the program, if there is one, have ``value``.

        Raises:
            ValueError: a captured CUDA graph has a program for other values.
        """
        schedule = scheduler._schedule
        if schedule is None or self._name not in scheduler._registers:
            return
        if self._name in BEFORE_THE_FIRST and scheduler._is_traced and not is_counted(self._name, value):
            if schedule.memory.captured:
                raise ValueError(
                    f"{self._name}={value!r} was assigned after a CUDA graph was captured, whose program has a "
                    f"function that was traced for counted steps: give an int from {BEFORE_THE_FIRST[self._name]} on"
                )
            (scheduler._outer or scheduler)._touched = True  # another program, which traps there
        schedule.write(scheduler._scope + self._name, as_float(value))


class GroupRegister(Register):
    """As :class:`Register`, a list with one number for each param group.

    As in torch, after groups came or went it stays as it is until it is written anew, and until the next step it is one
    list, which the user may change.
    """

    def __get__(self, scheduler: Any, owner: type | None = None) -> Any:
        if scheduler is None:
            return self
        schedule, stored = scheduler._schedule, self._kept(scheduler)
        if schedule is None:
            return stored
        values = schedule.as_written(schedule.read_group(scheduler._scope + self._name))
        unwritten = all(map(math.isnan, values)) if values else not schedule.has_advanced
        if unwritten and len(stored) != len(values):
            return stored
        lent = schedule.step_lent(), [*values], [math.copysign(1.0, x) for x in values]  # zeros have signs
        if scheduler._lrs_lent == lent:
            return stored
        scheduler._lrs_lent = lent
        keep(scheduler, self._name, values)
        return values

    def send(self, scheduler: Any, values: list[Any]) -> None:
        schedule, scheduler._lrs_lent = scheduler._schedule, None
        if schedule is not None:
            schedule.write_row(scheduler._scope + self._name, self.initial(values, schedule.n_groups))

    @staticmethod
    def initial(values: list[Any], n_groups: int) -> list[float]:
        """What the program has for ``values``: NaN where they are of another number of groups, until it writes it."""
        return [as_float(x) for x in values] if len(values) == n_groups else [math.nan] * n_groups
