"""What is outside of a traced function: reading it as Python does, whether it changed, and what stands in for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from operator import is_, methodcaller
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType, ModuleType
from typing import Any

from torch import Tensor

from ..facts import ANSWER, ATTRIBUTE, ENTRY, NO_ENTRY, OWNER_WEAKLY, PLAIN, VALUE_WEAKLY, Fact, alike, look_at
from .paths import Guarded, current, refusing

MISSING: Any = object()
HEAP_TYPE = 1 << 9  # of classes that may change


def is_a(value: Any, *kinds: type) -> bool:
    """As isinstance(), which asks ``__class__`` too, and so may run code of the user's."""
    return issubclass(type(value), kinds)


def shown(real: Any) -> str:
    """How a thing is called in messages."""
    if is_a(real, ModuleType):
        return str(real.__name__)
    itself = is_a(real, type) or type(real).__module__ in ("builtins", "functools", "numpy")
    named = real if itself else type(real)
    module = getattr(named, "__module__", None) or "builtins"
    name = getattr(named, "__qualname__", None) or getattr(named, "__name__", None) or type(named).__name__
    return ("" if itself else "a ") + (str(name) if module == "builtins" else f"{module}.{name}")


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

        As ``super()`` does, it looks in the classes after ``after`` only.
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
        if slot is None and (value := _own(owner, name)) is not MISSING:
            # where its class was not changed, which is looked at first, Python finds it there too
            return self._note(("own", id(owner), name), ATTRIBUTE, owner, name, value)
        ask = partial(_in_slot, slot) if slot else partial(_own, name=name)
        return self._note(("own", id(owner), name), ANSWER, owner, ask, ask(owner))

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


def _own(owner: Any, name: str) -> Any:
    """What the object's own dict has, whatever its class calls ``__dict__``; or MISSING."""
    for one in type(owner).__mro__:
        found = one.__dict__.get("__dict__")
        if is_a(found, GetSetDescriptorType, MemberDescriptorType):
            return found.__get__(owner).get(name, MISSING)  # type: ignore[union-attr]
    return MISSING


def _in_slot(descriptor: MemberDescriptorType, owner: Any) -> Any:
    try:
        return descriptor.__get__(owner)
    except AttributeError:
        return MISSING


def _entry(mapping: Any, name: str, value: Any) -> tuple[int, Any, Any, Any]:
    if type(mapping) not in (dict, MappingProxyType):
        return ANSWER, mapping, methodcaller("get", name, MISSING), value
    return NO_ENTRY if value is MISSING else ENTRY, mapping, name, value


def _weakly(x: Any) -> weakref.ref[Any] | None:
    """A weak reference; None for what cannot have one, for numbers, and for classes, which are in cycles anyway."""
    if is_a(x, type, ModuleType, MappingProxyType, *PLAIN):
        return None
    try:
        return weakref.ref(x)
    except TypeError:
        return None


def _has(container: Any, keys: list[Any], values: list[Any]) -> bool:
    if len(container) != len(keys):
        return False
    pairs = [(container, keys), (container.values(), values)] if values else [(container, keys)]
    return all(all(map(is_, now, then)) or all(map(alike, now, then)) for now, then in pairs)


class StandIn(Guarded):
    """A module, a class, an object, a function: all that can be done with it is to call it, and to read names of it.

    Args:
        call: what calling it does.
        read: gives what it has under a name. Where one is None, doing that ends the trace.
    """

    __slots__ = ("_call", "_read", "_real")

    def __new__(cls, real: Any, *how: Any) -> StandIn:
        has_items = any("__getitem__" in one.__dict__ for one in type(real).__mro__)
        return super().__new__(_WithItems if has_items else cls)

    def __init__(self, real: Any, call: Callable[..., Any] | None, read: Callable[[str], Any] | None = None) -> None:
        for slot, value in zip(StandIn.__slots__, (call, read, real), strict=True):
            object.__setattr__(self, slot, value)

    def _what(self) -> str:
        real = real_of(self)
        numbers = ": take its numbers out before, as by tolist()" if is_a(real, Tensor) else ""
        return f"{shown(real)}{numbers}"

    def __getattribute__(self, name: str) -> Any:
        read = _SLOTS["_read"](self)
        return super().__getattribute__(name) if read is None else read(name)

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        call = _SLOTS["_call"](self)
        if call is None:
            raise current().stop(f"it calls {shown(real_of(self))}, which is compiled and may do anything")
        return call(*arguments, **named)


_SLOTS: dict[str, Callable[[StandIn], Any]] = {name: getattr(StandIn, name).__get__ for name in StandIn.__slots__}


def real_of(value: Any) -> Any:
    """What a stand-in stands for; other values are themselves."""
    return _SLOTS["_real"](value) if is_a(value, StandIn) else value


class _WithItems(StandIn):
    """Only of what has them: text that is formatted takes for a mapping whatever has this method."""

    __slots__ = ()
    __getitem__ = refusing("uses __getitem__ of")


_NOT_REFUSED = ("__new__", "__init__", "__getattribute__", "__doc__", "__getitem__")
for _name in {name for kind in (complex, float, int, list, dict) for name in vars(kind)} | {
    *("__next__", "__matmul__", "__rmatmul__", "__enter__", "__exit__", "__str__", "__format__", "__complex__"),
    *("__instancecheck__", "__subclasscheck__"),
}:
    if _name.startswith("__") and _name not in _NOT_REFUSED:
        setattr(StandIn, _name, refusing(f"uses {_name} of"))
