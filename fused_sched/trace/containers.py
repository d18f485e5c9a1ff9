"""Lists, tuples, dicts and sets from outside of a traced function: read-only copies that know symbolic places."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .paths import Guarded, current, error
from .symbol import Sym, apply, bounds, concrete, is_, kind_of, lift, node_of, refuse_jump
from .views import Call

LONGEST = 100_000  # elements that are gone through


def elements(values: Iterable[Any] = ()) -> list[Any]:
    """All of an iterable, unless it is endless."""
    found = []
    for value in values:
        found.append(value)
        if len(found) > LONGEST:
            raise current().stop(f"it goes through more than {LONGEST:,} elements")
    return found


def members(values: Iterable[Any]) -> list[Any]:
    """:func:`elements`, for what does not depend on their order."""
    real = CLASS_OF.get(type(values))
    return elements(values if real is None else real.__iter__(values))


def numbers(values: Iterable[Any]) -> tuple[tuple[float, ...], str] | None:
    """Values as a table and their common kind, where all are constant numbers of one kind."""
    found = [lift(x) for x in values]
    table = [x for x in found if x is not None and node_of(x).is_const and node_of(x).value == node_of(x).value]
    kinds = {kind_of(x) for x in table}
    if len(table) < len(found) or len(kinds) != 1:  # of several kinds, what they are would depend on the place
        return None
    return tuple(node_of(x).value for x in table), kinds.pop()


def select(items: Sequence[Any], index: Sym) -> Any:
    """``items[index]``, with Python's negative places and errors."""
    if kind_of(index) not in ("int", "bool"):
        raise error(TypeError, "list indices must be integers or slices, not float")
    n = len(items)
    if bounds(index).low < 0 and is_("lt", index, 0.0):
        index = apply("add", "int", index, float(n))
    below_all = bounds(index).low < 0 and is_("lt", index, 0.0)
    if below_all or n == 0 or (bounds(index).high >= n and is_("le", float(n), index)):
        raise error(IndexError, "list index out of range")
    table = numbers(items)
    return items[concrete(index)] if table is None else apply("lookup", table[1], index, value=table[0])


def below(keys: Sequence[float], x: Sym, *, at_most: bool = False) -> Sym:
    """How many of the sorted keys are less than x, or at most x."""
    refuse_jump(x)
    if not at_most:
        return apply("count_lt", "int", x, value=tuple(keys))
    above = apply("count_lt", "int", apply("neg", kind_of(x), x), value=tuple(-k for k in reversed(keys)))
    return apply("sub", "int", float(len(keys)), above)


def member(values: Sequence[Any], x: Sym) -> bool:
    """``x in values``, as one decision where all are numbers."""
    table = numbers(values)
    if table is None:
        return any(value is x or bool(value == x) for value in values)
    keys = sorted(set(table[0]))
    return is_("eq", apply("lookup", "float", below(keys, x), value=tuple(keys)), x)


def find(items: dict[Any, Any], key: Sym, absent: Callable[[], Any]) -> Any:
    """``items[key]``, or what ``absent`` gives."""
    keys = [k for k in dict.keys(items) if lift(k) is not None]
    if not keys or not member(keys, key):
        return absent()
    keys.sort()
    values = [dict.__getitem__(items, k) for k in keys]
    table = numbers(values)
    if table is None:
        rest = zip(keys[:-1], values[:-1], strict=True)  # it is one of the keys
        return next((v for k, v in rest if is_("eq", key, float(k))), values[-1])
    return apply("lookup", table[1], below([float(k) for k in keys], key), value=table[0])


class Copy(Guarded):
    """Base of the copies, one for each class: what changes the original ends the trace."""

    __slots__ = ()

    def _what(self) -> str:
        return f"a {CLASS_OF[type(self)].__name__} that was made outside of it"

    def __getattribute__(self, name: str) -> Any:
        real = CLASS_OF[type(self)]
        if name not in _METHODS.get(real, ()):
            return super().__getattribute__(name)
        items: Any = self
        method = _get if name == "get" else getattr(real, name)
        return Call(getattr(real(), name), functools.partial(method, items))

    def __getitem__(self: Any, key: Any) -> Any:
        real = CLASS_OF[type(self)]
        if type(key) is not Sym:
            return real.__getitem__(self, key)
        return select(self, key) if real in (list, tuple) else find(self, key, _ABSENT[real])

    def __contains__(self: Any, x: Any) -> bool:
        return member(members(self), x) if type(x) is Sym else CLASS_OF[type(self)].__contains__(self, x)

    def _changes(self, *arguments: Any) -> Any:
        raise current().stop(f"it changes {type(self)._what(self)}")


class _Unordered(Copy):
    """A set, which may be asked what it has; the order of its elements is that of the original alone."""

    __slots__ = ()

    def _refuse(self, *arguments: Any) -> Any:
        raise current().stop("it goes through a set, whose order is its own")

    __iter__ = __and__ = __or__ = __xor__ = __sub__ = __rand__ = __ror__ = __rxor__ = __rsub__ = _refuse


def _no_key() -> Any:
    raise error(KeyError, "a number that depends on the step")


def _get(items: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return find(items, key, lambda: default) if type(key) is Sym else dict.get(items, key, default)


_ABSENT: dict[Any, Callable[[], Any]] = {dict: _no_key, Counter: lambda: 0}
_METHODS: dict[Any, tuple[str, ...]] = {  # all that a copy may be asked for by name
    list: ("index", "count", "copy"), tuple: ("index", "count"), dict: ("get", "items", "keys", "values", "copy"),
    Counter: ("get", "items", "keys", "values", "elements"),
}  # fmt: skip
_CHANGES = ("__setitem__", "__delitem__", "__iadd__", "__imul__", "__ior__", "__iand__", "__isub__", "__ixor__")
COPIES: dict[Any, Any] = {}
CLASS_OF: dict[Any, Any] = {}
for _real in (list, tuple, dict, Counter, set, frozenset):
    _changes = {name: Copy._changes for name in _CHANGES if hasattr(_real, name)}
    _bases = (_Unordered if _real in (set, frozenset) else Copy, _real)
    COPIES[_real] = type(f"{_real.__name__} copy", _bases, {"__slots__": (), **_changes})
    CLASS_OF[COPIES[_real]] = _real


def copy_of(container: Any, wrap: Callable[[Any], Any]) -> Any:
    """A copy whose elements are wrapped."""
    kind = type(container)
    if len(container) > LONGEST:
        raise current().stop(f"it reads a {kind.__name__} of more than {LONGEST:,} elements")
    if not issubclass(kind, dict):
        return COPIES[kind](map(wrap, container))
    made = COPIES[kind].__new__(COPIES[kind])
    dict.__init__(made, [(wrap(k), wrap(v)) for k, v in container.items()])
    return made
