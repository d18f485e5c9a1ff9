"""What a trace has read from outside of the function, and whether reading it again gives the same."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import partial
from operator import attrgetter, is_, methodcaller
from types import CellType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

MISSING: Any = object()
HEAP_TYPE = 1 << 9  # of classes that may change

Read = Callable[[Any], Any]  # from the object that was asked to what it gave
_PLAIN = (bool, int, float, str, bytes, type(None))


def _same(now: Any, then: Any) -> bool:
    """Whether two values are one, or equal in type and bits."""
    if now is then:
        return True
    if type(now) is not type(then) or not is_a(then, *_PLAIN):
        return False
    return bool(now == then) and (not is_a(then, float) or math.copysign(1.0, now) == math.copysign(1.0, then))


def _weakly(x: Any) -> weakref.ref[Any] | None:
    """A weak reference; None for what cannot have one, for numbers, and for classes, which are in cycles anyway."""
    if is_a(x, type, ModuleType, *_PLAIN):
        return None
    try:
        return weakref.ref(x)
    except TypeError:
        return None


def is_a(value: Any, *kinds: type) -> bool:
    """As isinstance(), which asks ``__class__`` too, and so may run code of the user's."""
    return issubclass(type(value), kinds)


def dict_of(kind: type) -> Callable[[Any], dict[str, Any]]:
    """How the own attributes of an object are read, whatever its class calls ``__dict__``."""
    for one in kind.__mro__:
        found = one.__dict__.get("__dict__")
        if is_a(found, GetSetDescriptorType, MemberDescriptorType):
            return found.__get__  # type: ignore[union-attr,no-any-return]
    return lambda owner: {}


def classes_of(owner: Any, after: type | None = None) -> tuple[type, ...]:
    """Where an attribute of an object or a class is looked for; ``after`` a class, as ``super()`` does."""
    mro: tuple[type, ...] = (owner if is_a(owner, type) else type(owner)).__mro__
    return mro if after is None else mro[mro.index(after) + 1 :]


def in_classes(mro: Any, name: str) -> Any:
    """What the first class that has ``name`` has under it, or MISSING."""
    for owner in mro:
        if name in owner.__dict__:
            return owner.__dict__[name]
    return MISSING


def slot_of(descriptor: MemberDescriptorType, owner: Any) -> Any:
    """What is in a slot, or MISSING."""
    try:
        return descriptor.__get__(owner)
    except AttributeError:
        return MISSING


class Watch:
    """Collects what was read; :meth:`changed` compares it with the present.

    Objects are held weakly, those that were asked and those that were found: the scheduler has the watch, and the user
    may let go of an object that has the scheduler. What is gone, the function cannot read. Cells, lists, dicts and
    sets cannot be referred to weakly; they are held.
    """

    def __init__(self) -> None:
        self._names: set[tuple[Any, ...]] = set()
        self._containers: dict[int, tuple[Any, Any, list[Any]]] = {}
        self._plain: list[tuple[Callable[[], Any], Any]] = []
        self._found: list[tuple[Callable[[], Any], weakref.ref[Any]]] = []
        self._of_objects: list[tuple[weakref.ref[Any], Read, Any]] = []
        self._objects: list[tuple[weakref.ref[Any], Read, weakref.ref[Any]]] = []

    def variable(self, variables: Any, name: str, value: Any) -> None:
        """A global variable was ``value``; MISSING where there was none."""
        self._note(("variable", id(variables), name), variables, methodcaller("get", name, MISSING), value)

    def attribute(self, owner: Any, name: str, after: type | None = None) -> None:
        """``owner.name`` is what it is now: in its dict or slot, and in its classes, by ``super()`` in those after one.

        Wherever :func:`views.plain_attribute` finds it, nothing that goes before may appear.
        """
        if is_a(owner, ModuleType):
            self.variable(owner.__dict__, name, owner.__dict__.get(name, MISSING))
            self.variable(owner.__dict__, "__getattr__", owner.__dict__.get("__getattr__", MISSING))
            self.kind(owner)
            return
        own = not is_a(owner, type)
        if own:
            self.of_class(owner, "__getattribute__")
            self.of_class(owner, "__getattr__")
        value = in_classes(classes_of(owner, after), name)
        if after is not None:
            read: Read = lambda one: in_classes(classes_of(one, after), name)  # noqa: E731
            self._note(("classes", id(owner), name, after), owner, read, value)
        else:
            self._in_class(type(owner) if own else owner, name)
        if type(value) is MemberDescriptorType:
            self._note(("slot", id(owner), name), owner, lambda one: slot_of(value, one), slot_of(value, owner))
        elif own and after is None:
            attributes = dict_of(type(owner))
            kept = attributes(owner).get(name, MISSING)
            # where its class was not changed, which is looked at first, Python finds it there too, and without a call
            plain = kept is not MISSING and "." not in name
            read = attrgetter(name) if plain else lambda one: attributes(one).get(name, MISSING)
            self._note(("own", id(owner), name), owner, read, kept)

    def part(self, owner: Any, name: str, value: Any) -> None:
        """Such a part of a function, cell or partial was ``value``."""
        self._note(("part", id(owner), name), owner, attrgetter(name), value)

    def cell(self, cell: CellType, value: Any) -> None:
        """A variable of an enclosing function was ``value``."""
        self.part(cell, "cell_contents", value)

    def kind(self, owner: Any) -> None:
        """Such a class ``owner`` had."""
        self._note(("kind", id(owner)), owner, type, type(owner))

    def of_class(self, owner: Any, name: str) -> None:
        """The class of ``owner`` is this one, and has what it has under ``name``."""
        self.kind(owner)
        self._in_class(type(owner), name)

    def _in_class(self, kind: type, name: str) -> None:
        """A class has what it has under this name, itself or by its bases; asking runs no code of the user's."""
        self._note_now(("mro", id(kind)), partial(attrgetter("__mro__"), kind), kind.__mro__)
        for owner in kind.__mro__:
            value = owner.__dict__.get(name, MISSING)
            if owner.__flags__ & HEAP_TYPE:
                self._note_now(("class", id(owner), name), partial(owner.__dict__.get, name, MISSING), value)
            if value is not MISSING:
                break

    def keys(self, mapping: Any) -> None:
        """A dict has these keys, in this order."""
        self._containers.setdefault(id(mapping), (mapping, [*mapping], []))

    def elements(self, container: Any) -> None:
        """A list, dict or set has these elements, in this order."""
        known = self._containers
        if id(container) not in known:
            values = [*container.values()] if isinstance(container, dict) else []
            known[id(container)] = (container, [*container], values)

    def _note(self, name: tuple[Any, ...], owner: Any, read: Read, value: Any) -> None:
        # the sandbox has the owner while it traces, so that its id is its own
        asked, found = _weakly(owner), _weakly(value)
        if asked is None:
            self._note_now(name, partial(read, owner), value)
        elif name not in self._names:
            self._names.add(name)
            if found is None:
                self._of_objects.append((asked, read, value))
            else:
                self._objects.append((asked, read, found))

    def _note_now(self, name: tuple[Any, ...], now: Callable[[], Any], value: Any) -> None:
        if name not in self._names:
            self._names.add(name)
            found = _weakly(value)
            if found is None:
                self._plain.append((now, value))
            else:
                self._found.append((now, found))

    def changed(self) -> bool:
        """Whether something that was read is not what it was."""
        # compiled callables where that can be: this is looked at before every step
        try:
            for now_of, value in self._plain:
                now = now_of()
                if now is not value and not _same(now, value):
                    return True
            for now_of, found in self._found:
                then = found()
                if then is None or now_of() is not then:
                    return True
            for asked, read, value in self._of_objects:
                owner = asked()
                if owner is not None:
                    now = read(owner)
                    if now is not value and not _same(now, value):
                        return True
            for asked, read, found in self._objects:
                owner, then = asked(), found()
                if owner is not None and (then is None or read(owner) is not then):
                    return True
            for container, keys, values in self._containers.values():
                if len(container) != len(keys) or not _all_same(container, keys):
                    return True
                if values and not _all_same(container.values(), values):
                    return True
        except Exception:  # what cannot be read any more has changed
            return True
        return False


def _all_same(now: Any, then: list[Any]) -> bool:
    return all(map(is_, now, then)) or all(map(_same, now, then))
