"""What a trace has read from outside of the function, and whether reading it again gives the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from operator import is_, methodcaller
from types import CellType, GetSetDescriptorType, MappingProxyType, MemberDescriptorType, ModuleType
from typing import Any

from ..facts import ANSWER, ATTRIBUTE, ENTRY, NO_ENTRY, OWNER_WEAKLY, PLAIN, VALUE_WEAKLY, Fact, alike, look_at

MISSING: Any = object()
HEAP_TYPE = 1 << 9  # of classes that may change


def _weakly(x: Any) -> weakref.ref[Any] | None:
    """A weak reference; None for what cannot have one, for numbers, and for classes, which are in cycles anyway."""
    if is_a(x, type, ModuleType, MappingProxyType, *PLAIN):
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
    """Collects what was read, as facts; :meth:`changed` compares them with the present.

    Objects are held weakly, those that were asked and those that were found: the scheduler has the watch, and the user
    may let go of an object that has the scheduler. What is gone, the function cannot read. Cells, lists, dicts and
    sets cannot be referred to weakly; they are held.
    """

    def __init__(self) -> None:
        self._facts: dict[tuple[Any, ...], Fact] = {}

    def variable(self, variables: Any, name: str, value: Any) -> None:
        """A global variable was ``value``; MISSING where there was none."""
        self._note(("variable", id(variables), name), *_entry(variables, name, value))

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
            read = lambda one: in_classes(classes_of(one, after), name)  # noqa: E731
            self._note(("classes", id(owner), name, after), ANSWER, owner, read, value)
        else:
            self._in_class(type(owner) if own else owner, name)
        if type(value) is MemberDescriptorType:
            inside = slot_of(value, owner)
            self._note(("slot", id(owner), name), ANSWER, owner, lambda one: slot_of(value, one), inside)
        elif own and after is None:
            attributes = dict_of(type(owner))
            kept = attributes(owner).get(name, MISSING)
            if kept is MISSING:
                asked: tuple[int, Any, Any] = ANSWER, owner, lambda one: attributes(one).get(name, MISSING)
            else:  # where its class was not changed, which is looked at first, Python finds it there too
                asked = ATTRIBUTE, owner, name
            self._note(("own", id(owner), name), *asked, kept)

    def part(self, owner: Any, name: str, value: Any) -> None:
        """Such a part of a function, cell or partial was ``value``."""
        self._note(("part", id(owner), name), ATTRIBUTE, owner, name, value)

    def cell(self, cell: CellType, value: Any) -> None:
        """A variable of an enclosing function was ``value``."""
        self.part(cell, "cell_contents", value)

    def kind(self, owner: Any) -> None:
        """Such a class ``owner`` had."""
        self._note(("kind", id(owner)), ANSWER, owner, type, type(owner))

    def of_class(self, owner: Any, name: str) -> None:
        """The class of ``owner`` is this one, and has what it has under ``name``."""
        self.kind(owner)
        self._in_class(type(owner), name)

    def _in_class(self, kind: type, name: str) -> None:
        """A class has what it has under this name, itself or by its bases; asking runs no code of the user's."""
        self._note(("mro", id(kind)), ATTRIBUTE, kind, "__mro__", kind.__mro__)
        for owner in kind.__mro__:
            value = owner.__dict__.get(name, MISSING)
            if owner.__flags__ & HEAP_TYPE:
                self._note(("class", id(owner), name), *_entry(owner.__dict__, name, value))
            if value is not MISSING:
                break

    def keys(self, mapping: Any) -> None:
        """A dict has these keys, in this order."""
        self._inside(mapping, [])

    def elements(self, container: Any) -> None:
        """A list, dict or set has these elements, in this order."""
        self._inside(container, [*container.values()] if isinstance(container, dict) else [])

    def _inside(self, container: Any, values: list[Any]) -> None:
        has_still = partial(_has, keys=[*container], values=values)
        self._facts.setdefault(("inside", id(container)), (ANSWER, container, has_still, True))

    def _note(self, name: tuple[Any, ...], how: int, owner: Any, key: Any, value: Any) -> None:
        # the sandbox has the owner while it traces, so that its id is its own
        if name not in self._facts:
            asked, found = _weakly(owner), _weakly(value)
            how += (0 if asked is None else OWNER_WEAKLY) + (0 if found is None else VALUE_WEAKLY)
            self._facts[name] = how, owner if asked is None else asked, key, value if found is None else found

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What was read, in that order."""
        return tuple(self._facts.values())

    def changed(self) -> bool:
        """Whether something that was read is not what it was."""
        return look_at(self.facts)()


def _entry(mapping: Any, name: str, value: Any) -> tuple[int, Any, Any, Any]:
    """A dict, or the dict of a class, had ``value`` under this name; MISSING where there was none."""
    if type(mapping) not in (dict, MappingProxyType):
        return ANSWER, mapping, methodcaller("get", name, MISSING), value
    return NO_ENTRY if value is MISSING else ENTRY, mapping, name, value


def _has(container: Any, keys: list[Any], values: list[Any]) -> bool:
    if len(container) != len(keys) or not _all_alike(container, keys):
        return False
    return not values or _all_alike(container.values(), values)


def _all_alike(now: Any, then: list[Any]) -> bool:
    return all(map(is_, now, then)) or all(map(alike, now, then))
