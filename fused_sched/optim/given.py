"""Dicts that param groups were made of: torch keeps the very dict that it is given, and users go on editing theirs."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from ..notice import warn

if TYPE_CHECKING:
    from .live_dict import LiveDict

GONE: Any = object()  # what a key has that is deleted


class GivenDicts:
    """Those that somebody still has. What is assigned to them is assigned to their groups, at the next look: a step, or
    a read or write of a group; and what is assigned to a group is assigned to its dict.

    What a program on the device sets only the group has: to write it to the dicts would be to wait for it.
    """

    def __init__(self) -> None:
        self._dicts: list[dict[str, Any]] = []
        self._known: list[dict[str, Any]] = []  # what was in them at the last look
        self._groups: list[weakref.ref[LiveDict]] = []
        self._looks = 0
        self._at_work = False

    def __bool__(self) -> bool:
        """Whether there are any, and :meth:`follow` is not at work already."""
        return bool(self._dicts) and not self._at_work

    def watch(self, given: dict[str, Any], group: LiveDict) -> None:
        """Follow ``given``, which ``group`` was made of just now."""
        self._dicts.append(given)
        self._known.append(dict(given))
        self._groups.append(weakref.ref(group))
        if len(self._dicts) & (len(self._dicts) - 1) == 0:
            self._looks = 0

    def group_of(self, given: dict[str, Any]) -> LiveDict | None:
        """The group that was made of this very dict, if there is one still."""
        found = next((r for d, r in zip(self._dicts, self._groups, strict=True) if d is given), None)
        return None if found is None else found()

    def assign(self, group: LiveDict, key: str, value: Any = GONE) -> None:
        """As to the group, just now."""
        for given, known, reference in zip(self._dicts, self._known, self._groups, strict=True):
            if reference() is group:
                for each in (given, known):
                    if value is GONE:
                        each.pop(key, None)
                    else:
                        each[key] = value

    def clear(self) -> None:
        """The groups have become others than their dicts, as those that were loaded."""
        self._dicts, self._known, self._groups = [], [], []

    def of(self, groups: Sequence[LiveDict]) -> list[dict[str, Any] | None]:
        """For each group the dict that it was made of; None if nobody else has that."""
        self._forget_unused()
        found = {id(reference()): given for given, reference in zip(self._dicts, self._groups, strict=True)}
        return [found.get(id(group)) for group in groups]

    def follow(self) -> None:
        """Assign to groups what was assigned to their dicts.

        Raises:
            TypeError, ValueError, RuntimeError: see :class:`ParamGroup`; the dict is looked at again the next time.
        """
        self._looks += 1
        if self._looks & (self._looks - 1) == 0:  # ever more rarely
            self._forget_unused()
        try:
            if self._dicts == self._known:  # by identity first, in compiled loops
                return
        except Exception:  # a tensor or array that took another's place says no yes or no
            pass
        self._at_work = True
        try:
            for i, (given, known, reference) in enumerate(zip(self._dicts, self._known, self._groups, strict=True)):
                group = reference()
                if group is not None:
                    _assign(given, known, group)
                self._known[i] = dict(given)
        finally:
            self._at_work = False

    def _forget_unused(self) -> None:
        used = [
            count > _REFERENCES and reference() is not None
            for count, reference in zip(_references(self._dicts), self._groups, strict=True)
        ]
        if not all(used):
            self._dicts, self._known = list(compress(self._dicts, used)), list(compress(self._known, used))
            self._groups = list(compress(self._groups, used))


def _assign(given: dict[str, Any], known: dict[str, Any], group: LiveDict) -> None:
    for key in known.keys() - given.keys():
        group.pop(key, None)
    for key in [key for key in given if key not in known or not _same(given[key], known[key])]:
        if key in group.live and key in known and not _same(group[key], known[key]):
            warn(
                f"{key}={given[key]!r} was assigned to the dict that a param group was made of, and the group has it "
                f"now; but the dict does not show what became of {key} since, {group[key]!r}. Read and edit "
                "optimizer.param_groups"
            )
        group[key] = given[key]


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # as of arrays
        return False


def _references(dicts: list[dict[str, Any]]) -> list[int]:
    return [sys.getrefcount(given) for given in dicts]


_REFERENCES = _references([{}])[0]  # to a dict that only such a list has
