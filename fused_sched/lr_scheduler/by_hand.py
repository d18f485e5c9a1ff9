"""What users change by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..facts import ANSWER, EQUAL, Fact, look_at
from .attributes import kept
from .overrides import OF_ITSELF
from .programmed import Programmed


class EditedByHand(Programmed):
    """What users change on a scheduler, and on the groups, is noticed before the next step."""

    __slots__ = ()

    # noted before and after, for whatever comes in between: the change, or Ctrl-C

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_get_lr_called_within_step" and value and self._fused:
            self._refuse_steps_of_others()
        self._note_change(name)
        super().__setattr__(name, value)
        self._note_change(name)

    def _refuse_steps_of_others(self) -> None:
        """Torch's step() says by that attribute that it calls get_lr; who else says so makes steps of its own."""
        if not self._in_torchs_step:
            raise RuntimeError(
                f"something other than its step() makes the steps of {type(self).__name__} by get_lr(), as Ignite's "
                "LRScheduler does, but with fused=True the optimizer makes them, so each would be made twice: leave "
                "out fused, or call scheduler.step() after the update instead"
            )

    def __delattr__(self, name: str) -> None:
        self._note_change(name)
        super().__delattr__(name)
        self._note_change(name)

    def _take_assigned(self, name: str, value: Any) -> None:
        super()._take_assigned(name, value)
        self._note_change(name)

    def _note_change(self, name: str) -> None:
        if name in self._constants or (name in self._registers and name not in self.__dict__):
            (self._outer or self)._touched = True
        elif name in self._stand_in.methods or name == "__class__":
            self._note_method()

    def _note_method(self) -> None:
        one = self._outer or self
        one._touched = one._methods_touched = True

    def _look(self) -> dict[str, Any]:
        """Copies of the constants that are containers, by which a change inside them is recognised."""
        constants = {name: dict.get(self.__dict__, name) for name in self._constants}
        return {name: copy.copy(x) for name, x in constants.items() if isinstance(x, (list, dict))}

    def _look_at_groups(self) -> list[list[Any]]:
        return [[g.get(name) for g in self.optimizer.param_groups] for name in self._group_constants]

    def _note_constants(self) -> None:
        self._touched, self._values_seen = False, self._home.values_assigned()
        self._seen_in_groups = self._look_at_groups()

    def _note_all_constants(self) -> None:
        members = tuple(self._family())
        self._parts_seen = members[1:]  # without itself, here and below: there is never a cycle
        for one in members:
            one._note_constants()
        of_parts = self._stand_in.asked_of_parts
        asked = {(type(one), of_parts, True) for one in members[1:]} | {(type(self), OF_ITSELF, self._fused)}
        methods = [fact for cls, names, steps in asked for fact in cls._stand_in.facts(cls, names, calls_step=steps)]
        self._methods_outdated = look_at(methods)
        self._outdated = look_at([*methods, *(fact for one in members for fact in one._facts_read())])
        self._methods_touched = False
        self._tabulates = any(one._source is not None and not one._source.traced for one in members)
        self._comparing = any(one._compares() for one in members)
        self._watches_groups = bool(self._group_constants)
        self._watched_parts = tuple(one for one in members[1:] if one._group_constants)

    def _facts_read(self) -> Iterator[Fact]:
        """What no assignment to an attribute tells of: what is in containers, and what functions read."""
        for name, copied in self._look().items():
            if isinstance(copied, dict):  # a Counter compares in Python, entry by entry
                yield ANSWER, kept(self, name), partial(dict.__eq__, copied), True
            else:
                yield EQUAL, kept(self, name), None, copied
        if self._source is not None:
            yield from self._source.facts()
        if self._traced_get_lr is not None:
            yield from self._traced_get_lr.watch.facts

    def _groups_values_changed(self) -> bool:
        """Whether another number was assigned to what torch keeps in the groups."""
        if (now := self._home.values_assigned()) != self._values_seen:
            self._values_seen = now
            return self._look_at_groups() != self._seen_in_groups
        return False
