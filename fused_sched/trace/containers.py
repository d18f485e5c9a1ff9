"""Lists, tuples, dicts and sets from outside of a traced function: read-only copies that know symbolic places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .paths import current
from .symbol import Sym, apply, bounds, concrete, is_, lift, refuse_jump

OR_CHAIN = 4  # keys compared one by one; more are searched by bisection
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
    each: Any = {SetCopy: set.__iter__, FrozenSetCopy: frozenset.__iter__}.get(type(values))
    return elements(values if each is None else each(values))


def numbers(values: Iterable[Any]) -> tuple[tuple[float, ...], str] | None:
    """Values as a table and their common kind, where all are constant numbers of one family."""
    found = [lift(x) for x in values]
    if not found or not all(x is not None and x.node.is_const and x.node.value == x.node.value for x in found):
        return None
    kinds = {x.kind for x in found}  # type: ignore[union-attr]
    if len(kinds) > 1:  # what they are would depend on the place
        return None
    kind = kinds.pop()
    return tuple(x.node.value for x in found), kind  # type: ignore[union-attr]


def select(items: Sequence[Any], index: Sym) -> Any:
    """``items[index]``, with Python's negative places and errors."""
    if index.kind not in ("int", "bool"):
        raise TypeError("list indices must be integers or slices, not float")
    n = len(items)
    if bounds(index).low < 0 and is_("lt", index, 0.0):
        index = apply("add", "int", index, float(n))
        if bounds(index).low < 0 and is_("lt", index, 0.0):
            raise IndexError("list index out of range")
    if n == 0 or (bounds(index).high >= n and is_("le", float(n), index)):
        raise IndexError("list index out of range")
    table = numbers(items)
    if table is None:
        return items[concrete(index)]
    return apply("lookup", table[1], index, value=table[0])


def below(keys: Sequence[float], x: Sym, *, at_most: bool = False) -> Sym:
    """How many of the sorted keys are less than x, or at most x."""
    refuse_jump(x)
    if not at_most:
        return apply("count_lt", "int", x, value=tuple(keys))
    above = apply("count_lt", "int", apply("neg", x.kind, x), value=tuple(-k for k in reversed(keys)))
    return apply("sub", "int", float(len(keys)), above)


def member(values: Iterable[Any], x: Sym) -> bool:
    """``x in values``, as one decision where all are numbers."""
    values = list(values)
    table = numbers(values)
    if table is None:
        return any(value is x or bool(value == x) for value in values)
    keys = sorted(set(table[0]))
    if len(keys) > OR_CHAIN:
        return is_("eq", apply("lookup", "float", below(keys, x), value=tuple(keys)), x)
    condition = apply("eq", "bool", x, keys[0])
    for key in keys[1:]:
        condition = apply("or", "bool", condition, apply("eq", "bool", x, key))
    return bool(condition)


class Copy:
    """Base of the copies. What changes the original ends the trace."""

    __slots__ = ()

    def _changes(self, *arguments: Any, **named: Any) -> Any:
        raise current().stop(f"it changes a {CLASS_OF[type(self)].__name__} that was made outside of it")

    def __contains__(self, x: Any) -> bool:
        return member(self, x) if type(x) is Sym else super().__contains__(x)  # type: ignore[misc,arg-type]

    def __repr__(self) -> str:
        return current().placeholder(f"a {CLASS_OF[type(self)].__name__} that was made outside of it")


class ListCopy(Copy, list[Any]):
    """A list."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return select(self, index) if type(index) is Sym else list.__getitem__(self, index)


class TupleCopy(Copy, tuple[Any, ...]):
    """A tuple."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return select(self, index) if type(index) is Sym else tuple.__getitem__(self, index)


class _Unordered(Copy):
    """A set, which may be asked what it has; the order of its elements is that of the original alone."""

    __slots__ = ()

    def __contains__(self, x: Any) -> bool:
        return member(members(self), x) if type(x) is Sym else super().__contains__(x)

    def _refuse(self, *arguments: Any) -> Any:
        raise current().stop("it goes through a set, whose order is its own")

    __iter__ = __and__ = __or__ = __xor__ = __sub__ = __rand__ = __ror__ = __rxor__ = __rsub__ = _refuse
    union = intersection = difference = symmetric_difference = copy = pop = _refuse


class SetCopy(_Unordered, set[Any]):
    """A set."""

    __slots__ = ()


class FrozenSetCopy(_Unordered, frozenset[Any]):
    """A frozenset, also one that is a constant of the code."""

    __slots__ = ()


class _Keyed(Copy):
    """A dict that can be asked for a key that depends on the step."""

    __slots__ = ()

    def _find(self, key: Sym, absent: Callable[[Any], Any]) -> Any:
        items: dict[Any, Any] = self  # type: ignore[assignment]
        keys = [k for k in dict.keys(items) if lift(k) is not None]
        if not keys or not member(keys, key):
            return absent(key)
        keys.sort()
        values = [dict.__getitem__(items, k) for k in keys]
        table = numbers(values)
        if table is None:
            rest = zip(keys[:-1], values[:-1], strict=True)  # it is one of the keys
            return next((v for k, v in rest if is_("eq", key, float(k))), values[-1])
        return apply("lookup", table[1], below([float(k) for k in keys], key), value=table[0])

    def __getitem__(self, key: Any) -> Any:
        return self._find(key, self._absent) if type(key) is Sym else super().__getitem__(key)  # type: ignore[misc]

    def get(self, key: Any, default: Any = None) -> Any:
        return self._find(key, lambda key: default) if type(key) is Sym else super().get(key, default)  # type: ignore[misc]

    def _absent(self, key: Any) -> Any:
        raise KeyError("a number that depends on the step")


class DictCopy(_Keyed, dict[Any, Any]):
    """A dict."""

    __slots__ = ()


class CounterCopy(_Keyed, Counter[Any]):
    """A Counter."""

    __slots__ = ()

    def _absent(self, key: Any) -> Any:
        return 0


_CHANGE = (
    "__setitem__", "__delitem__", "__iadd__", "__imul__", "__ior__", "__iand__", "__isub__", "__ixor__", "append",
    "extend", "insert", "pop", "popitem", "remove", "reverse", "sort", "clear", "update", "setdefault", "add",
    "discard", "subtract", "difference_update", "intersection_update", "symmetric_difference_update",
)  # fmt: skip
COPIES: dict[type, type[Any]] = {
    list: ListCopy, tuple: TupleCopy, dict: DictCopy, Counter: CounterCopy, set: SetCopy, frozenset: FrozenSetCopy,
}  # fmt: skip
CLASS_OF = {copy: real for real, copy in COPIES.items()}
for _real, _copy in COPIES.items():
    for _name in _CHANGE:
        if hasattr(_real, _name):
            setattr(_copy, _name, Copy._changes)


def copy_of(container: Any, wrap: Callable[[Any], Any]) -> Any:
    """A copy whose elements are wrapped."""
    kind = type(container)
    if len(container) > LONGEST:
        raise current().stop(f"it reads a {kind.__name__} of more than {LONGEST:,} elements")
    if kind not in (dict, Counter):
        return COPIES[kind](map(wrap, container))
    copy: Any = COPIES[kind]
    made = copy.__new__(copy)
    dict.__init__(made, ((wrap(k), wrap(v)) for k, v in container.items()))
    return made
