"""Dicts that param groups were made of: torch keeps the very dict that it is given, and users go on editing theirs."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from ..notice import warn

if TYPE_CHECKING:
    from .param_group import ParamGroup

GONE: Any = object()  # what a key has that is deleted


class Given:
    """The dict of one group, for as long as somebody else has it.

    What is assigned to it is assigned to the group, when that is looked at next, by a step, a read or a write; and what
    is assigned to the group is assigned to the dict. What a program on the device sets only the group has: to write it
    to the dict would be to wait for it.
    """

    __slots__ = ("_at_work", "_known", "dict")

    def __init__(self, given: dict[str, Any]) -> None:
        self.dict = given
        self._known = dict(given)  # as of the last look
        self._at_work = False

    def is_used(self) -> bool:
        """Whether anybody else has it."""
        return self.references() > _REFERENCES

    def references(self) -> int:
        """To the dict."""
        return sys.getrefcount(self.dict)

    def follow(self, group: ParamGroup) -> None:
        """Assign to the group what was assigned to the dict.

        Raises:
            TypeError, ValueError, RuntimeError: see :class:`ParamGroup`; the next look comes to it again.
        """
        if self._at_work:
            return
        try:
            if self.dict == self._known:  # of most values, it is enough that they are the same objects
                return
        except Exception:  # a tensor or array that took another's place says no yes or no
            pass
        self._at_work = True
        try:
            for key in self._known.keys() - self.dict.keys():
                group.pop(key, None)
            for key in [key for key in self.dict if key not in self._known or not self._is_known(key)]:
                self._take(group, key)
            self._known = dict(self.dict)
        finally:
            self._at_work = False

    def _is_known(self, key: str) -> bool:
        return _same(self.dict[key], self._known[key])

    def _take(self, group: ParamGroup, key: str) -> None:
        value = self.dict[key]
        if key in group.live and key in self._known and not _same(group[key], self._known[key]):
            warn(
                f"{key}={value!r} was assigned to the dict that a param group was made of, and the group has it now; "
                f"but the dict does not show what became of {key} since, {group[key]!r}. Read and edit "
                "optimizer.param_groups"
            )
        group[key] = value

    def assign(self, key: str, value: Any = GONE) -> None:
        """As to the group, just now."""
        if self._at_work:
            return
        for each in (self.dict, self._known):
            if value is GONE:
                each.pop(key, None)
            else:
                each[key] = value


class GivenDicts:
    """The groups of an optimizer whose dicts somebody else has."""

    def __init__(self) -> None:
        self.groups: list[weakref.ref[ParamGroup]] = []

    def watch(self, given: dict[str, Any], group: ParamGroup) -> None:
        """Let ``group``, which was made of ``given`` just now, follow it."""
        group.given = Given(given)
        self.groups.append(weakref.ref(group))

    def group_of(self, given: dict[str, Any]) -> ParamGroup | None:
        """The group that was made of this very dict, if there is one still."""
        groups = (reference() for reference in self.groups)
        return next((g for g in groups if g is not None and g.given is not None and g.given.dict is given), None)

    def follow(self) -> None:
        """Let all groups look at their dicts, and let go of those that nobody else has any more."""
        kept = []
        for reference in self.groups:
            group = reference()
            if group is None or group.given is None:
                continue
            if group.given.is_used():
                group.given.follow(group)
                kept.append(reference)
            else:
                group.given = None
        self.groups = kept

    def clear(self) -> None:
        """The groups have become others than their dicts, as those that were loaded."""
        for reference in self.groups:
            group = reference()
            if group is not None:
                group.given = None
        self.groups = []


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # as of arrays
        return False


_ALONE = Given({})
_REFERENCES = _ALONE.references()  # where nobody else has it
