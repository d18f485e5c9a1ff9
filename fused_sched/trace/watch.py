"""What a trace has read from outside of the function, and whether it is still the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from itertools import repeat
from operator import attrgetter, methodcaller
from types import CellType, ModuleType
from typing import Any

MISSING: Any = object()

Read = Callable[[Any], Any]  # from the object that was asked to what it gave


def _same(now: Any, then: Any) -> bool:
    if now is then:
        return True
    return type(now) is type(then) and isinstance(then, (int, float, str)) and now == then


def _weakly(x: Any) -> weakref.ref[Any] | None:
    """A weak reference; None for what cannot have one, for numbers, and for classes, which are in cycles anyway."""
    if isinstance(x, (type, ModuleType, int, float, str)):
        return None
    try:
        return weakref.ref(x)
    except TypeError:
        return None


class Watch:
    """Collects what was read; :meth:`changed` compares it with the present.

    Objects are held weakly, those that were asked and those that were found: the scheduler has the watch, and the user
    may let go of an object that has the scheduler. What is gone, the function cannot read. Cells, lists, dicts and
    sets cannot be referred to weakly; they are held.
    """

    def __init__(self) -> None:
        self._names: set[tuple[Any, ...]] = set()
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._plain: list[tuple[Callable[[], Any], Any]] = []
        self._of_objects: list[tuple[weakref.ref[Any], Read, Any]] = []
        self._objects: list[tuple[Callable[[], Any], Read, weakref.ref[Any]]] = []

    def key(self, mapping: Any, key: Any, value: Any) -> None:
        """``mapping.get(key)`` was ``value``; MISSING where it had no such key."""
        self._note(("key", id(mapping), key), mapping, methodcaller("get", key, MISSING), value)

    def has_none(self, owner: Any, name: str) -> None:
        """``owner`` had no attribute ``name`` of its own."""
        self._note(("own", id(owner), name), owner, lambda it: name in getattr(it, "__dict__", ()), False)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """``owner.name`` was ``value``."""
        self._note(("attribute", id(owner), name), owner, attrgetter(name), value)

    def cell(self, cell: CellType, value: Any) -> None:
        """A variable of an enclosing function was ``value``."""
        self.attribute(cell, "cell_contents", value)

    def slot(self, owner: Any, name: str, read: Read, value: Any) -> None:
        """``read(owner)``, the descriptor of the slot ``name``, gave ``value``."""
        self._note(("slot", id(owner), name), owner, read, value)

    def array(self, array: Any) -> None:
        """A numpy array had the numbers that it has now."""
        self._note(("array", id(array)), array, methodcaller("tobytes"), array.tobytes())

    def copy(self, container: Any, copy: Any) -> None:
        """A list, dict or set had these elements."""
        self._copies.setdefault(id(container), (container, copy))

    def _note(self, name: tuple[Any, ...], owner: Any, read: Read, value: Any) -> None:
        # the sandbox has the owner while it traces, so that its id is its own
        if name in self._names:
            return
        self._names.add(name)
        asked, found = _weakly(owner), _weakly(value)
        if found is not None:
            self._objects.append((asked or repeat(owner).__next__, read, found))
        elif asked is not None:
            self._of_objects.append((asked, read, value))
        else:
            self._plain.append((partial(read, owner), value))

    def changed(self) -> bool:
        """Whether something that was read is not what it was."""
        # compiled callables where that can be: this is looked at before every step
        try:
            for now_of, value in self._plain:
                now = now_of()
                if now is not value and not _same(now, value):
                    return True
            for asked, read, value in self._of_objects:
                owner = asked()
                if owner is not None:
                    now = read(owner)
                    if now is not value and not _same(now, value):
                        return True
            for owner_of, read, found in self._objects:
                owner, then = owner_of(), found()
                if owner is not None and (then is None or read(owner) is not then):
                    return True
            for container, copy in self._copies.values():
                if container != copy:
                    return True
        except Exception:  # what cannot be read any more has changed
            return True
        return False
