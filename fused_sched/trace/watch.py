"""Reading what is outside of a traced function, as Python reads it, and whether reading it again gives the same."""

from __future__ import annotations

import weakref
from functools import partial
from operator import is_, methodcaller
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any

from ..facts import ANSWER, ATTRIBUTE, ENTRY, NO_ENTRY, OWNER_WEAKLY, PLAIN, VALUE_WEAKLY, Fact, alike, look_at

MISSING: Any = object()
HEAP_TYPE = 1 << 9  # of classes that may change
PLAIN_LOOKUPS: tuple[Any, ...] = (object.__getattribute__, SimpleNamespace.__getattribute__)


def is_a(value: Any, *kinds: type) -> bool:
    """As isinstance(), which asks ``__class__`` too, and so may run code of the user's."""
    return issubclass(type(value), kinds)


def name_of(value: Any) -> str:
    """How a callable is called in messages."""
    module = getattr(value, "__module__", None) or ""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__name__
    return f"{module}.{name}" if module and module != "builtins" else str(name)


def in_classes(mro: Any, name: str) -> Any:
    """What the first class that has ``name`` has under it, or MISSING."""
    return next((owner.__dict__[name] for owner in mro if name in owner.__dict__), MISSING)


def _own(owner: Any, name: str) -> Any:
    """What the object's own dict has, whatever its class calls ``__dict__``; or MISSING."""
    for one in type(owner).__mro__:
        found = one.__dict__.get("__dict__")
        if is_a(found, GetSetDescriptorType, MemberDescriptorType):
            return found.__get__(owner).get(name, MISSING)  # type: ignore[union-attr]
    return MISSING


class Watch:
    """Reads what is outside, and collects what was read as facts; :meth:`changed` compares them with the present.

    Objects are held weakly, those that were asked and those that were found: the scheduler has the watch, and the user
    may let go of an object that has the scheduler. What is gone, the function cannot read. Cells, lists, dicts and
    sets cannot be referred to weakly; they are held.
    """

    def __init__(self) -> None:
        self._facts: dict[tuple[Any, ...], Fact] = {}

    def in_class(self, kind: type, name: str, after: type | None = None) -> Any:
        """What a class has under a name, itself or by its bases, or MISSING; asking runs no code of the user's.

        Args:
            after: look in the classes after this one only, as ``super()`` does.
        """
        mro = self.part(kind, "__mro__")
        for owner in mro if after is None else mro[mro.index(after) + 1 :]:
            value = owner.__dict__.get(name, MISSING)
            if owner.__flags__ & HEAP_TYPE:
                self._note(("class", id(owner), name), *_entry(owner.__dict__, name, value))
            if value is not MISSING:
                return value
        return MISSING

    def own(self, owner: Any, name: str, slot: MemberDescriptorType | None) -> Any:
        """What is in the dict or the slot of an object itself, or MISSING."""
        ask = _own if slot is None else partial(_in_slot, slot)
        value = ask(owner, name)
        if slot is None and value is not MISSING:
            # where its class was not changed, which is looked at first, Python finds it there too
            return self._note(("own", id(owner), name), ATTRIBUTE, owner, name, value)
        return self._note(("own", id(owner), name), ANSWER, owner, lambda one: ask(one, name), value)

    def variable(self, variables: Any, name: str) -> Any:
        """A global variable, or MISSING."""
        return self._note(("variable", id(variables), name), *_entry(variables, name, variables.get(name, MISSING)))

    def part(self, owner: Any, name: str) -> Any:
        """Such a part of a function, cell or partial."""
        return self._note(("part", id(owner), name), ATTRIBUTE, owner, name, getattr(owner, name))

    def kind(self, owner: Any) -> Any:
        """The class of ``owner``."""
        return self._note(("kind", id(owner)), ANSWER, owner, type, type(owner))

    def of_class(self, owner: Any, name: str) -> Any:
        """What the class of ``owner`` has under ``name``, or MISSING."""
        return self.in_class(self.kind(owner), name)

    def elements(self, container: Any, *, keys_alone: bool = False) -> None:
        """A list, dict or set has these elements, in this order."""
        values = [*container.values()] if isinstance(container, dict) and not keys_alone else []
        has_still = partial(_has, keys=[*container], values=values)
        self._facts.setdefault(("inside", id(container)), (ANSWER, container, has_still, True))

    def _note(self, note: tuple[Any, ...], how: int, owner: Any, key: Any, value: Any) -> Any:
        # the sandbox has the owner while it traces, so that its id is its own
        if note not in self._facts:
            asked, found = _weakly(owner), _weakly(value)
            how += (0 if asked is None else OWNER_WEAKLY) + (0 if found is None else VALUE_WEAKLY)
            self._facts[note] = how, owner if asked is None else asked, key, value if found is None else found
        return value

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What was read, in that order."""
        return tuple(self._facts.values())

    def changed(self) -> bool:
        """Whether something that was read is not what it was."""
        return look_at(self.facts)()


def _entry(mapping: Any, name: str, value: Any) -> tuple[int, Any, Any, Any]:
    if type(mapping) not in (dict, MappingProxyType):
        return ANSWER, mapping, methodcaller("get", name, MISSING), value
    return NO_ENTRY if value is MISSING else ENTRY, mapping, name, value


def _in_slot(descriptor: MemberDescriptorType, owner: Any, name: str) -> Any:
    try:
        return descriptor.__get__(owner)
    except AttributeError:
        return MISSING


def _weakly(x: Any) -> weakref.ref[Any] | None:
    """A weak reference; None for what cannot have one, for numbers, and for classes, which are in cycles anyway."""
    if is_a(x, type, ModuleType, MappingProxyType, *PLAIN):
        return None
    try:
        return weakref.ref(x)
    except TypeError:
        return None


def _has(container: Any, keys: list[Any], values: list[Any]) -> bool:
    if len(container) != len(keys) or not _all_alike(container, keys):
        return False
    return not values or _all_alike(container.values(), values)


def _all_alike(now: Any, then: list[Any]) -> bool:
    return all(map(is_, now, then)) or all(map(alike, now, then))
