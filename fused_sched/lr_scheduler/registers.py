"""Attributes of a scheduler that live in its program."""

from __future__ import annotations

import math
from typing import Any

from ..memory.values import as_float
from .attributes import keep, kept

LAST_LR = "_last_lr"


class Register:
    """A number of torch's scheduler that is a register of the program: reading it reads the schedule.

    Before there is a program, and in a scheduler that runs on the host, it is an ordinary attribute.

    Args:
        whole: a value without a fraction reads as an int, as in torch.
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
        return int(value) if self._whole and value.is_integer() else value

    def _kept(self, scheduler: Any) -> Any:
        try:
            return kept(scheduler, self._name)
        except KeyError:
            kind = type(scheduler).__name__
            raise AttributeError(f"{kind!r} object has no attribute {self._name!r}") from None

    def __set__(self, scheduler: Any, value: Any) -> None:
        keep(scheduler, self._name, value)
        self.send(scheduler, value)

    def send(self, scheduler: Any, value: Any) -> None:
        """Let the program, if there is one, have ``value``."""
        if scheduler._schedule is not None and self._name in scheduler._registers:
            scheduler._schedule.write(scheduler._scope + self._name, as_float(value))


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
