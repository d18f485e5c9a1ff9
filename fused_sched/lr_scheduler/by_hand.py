"""What users change by hand."""

from __future__ import annotations

import copy
from typing import Any

from .attributes import kept
from .overrides import OF_ITSELF
from .programmed import Programmed


class EditedByHand(Programmed):
    """What users change on a scheduler, and on the groups, is noticed before the next step."""

    __slots__ = ()

    # noted before and after, for whatever comes in between: the change, or Ctrl-C

    def __setattr__(self, name: str, value: Any) -> None:
        self._note_change(name)
        super().__setattr__(name, value)
        self._note_change(name)

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
        self._seen, self._seen_in_groups = self._look(), self._look_at_groups()

    def _note_all_constants(self) -> None:
        members = tuple(self._family())
        self._parts_seen = members[1:]  # without itself, here and below: there is never a cycle
        for one in members:
            one._note_constants()
        of_parts = self._stand_in.asked_of_parts
        classes = {(type(one), one._stand_in.present(of_parts, calls_step=True)) for one in members[1:]}
        classes.add((type(self), self._stand_in.present(OF_ITSELF, calls_step=self._fused)))
        self._methods_seen = tuple((cls, present, present(cls)) for cls, present in classes)
        self._methods_touched = False
        self._tabulates = any(one._source is not None and not one._source.traced for one in members)
        self._comparing = any(one._compares() for one in members)
        own = {one for one in members if type(one)._constants_changed is not EditedByHand._constants_changed}
        pairs = [(kept(one, name), copied) for one in members if one not in own for name, copied in one._seen.items()]
        self._containers_seen = tuple(pairs)
        watched = [one for one in members if one in own or one._source or one._traced_get_lr or one._group_constants]
        self._watches_itself = self in watched
        self._watched_parts = tuple(one for one in watched if one is not self)
        self._watches = bool(watched or self._containers_seen)

    def _methods_changed(self) -> bool:
        """Whether a class has other methods than it had: the user's, ours or torch's."""
        return any(present(cls) != seen for cls, present, seen in self._methods_seen)

    def _constants_changed(self) -> bool:
        """Whether something changed that no assignment to an attribute tells of, but for what is in containers."""
        if self._source is not None and self._source.changed():
            return True
        if self._traced_get_lr is not None and self._traced_get_lr.changed():
            return True
        if self._group_constants and (now := self._home.values_assigned()) != self._values_seen:
            self._values_seen = now
            if self._look_at_groups() != self._seen_in_groups:
                return True
        return False
