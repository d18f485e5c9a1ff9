"""Lists, dicts, sets and ranges from outside of a traced function: readable, also at a symbolic place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .explore import current
from .symbol import Sym, apply, bounds, concrete, is_, lift

if TYPE_CHECKING:
    from .sandbox import Sandbox

OR_CHAIN = 4  # keys compared one by one; more are searched by bisection


def numbers(values: Sequence[Any]) -> tuple[tuple[float, ...], str] | None:
    """Values as a table and their common kind, where all are constant numbers of one family."""
    table, kinds = [], set()
    for value in values:
        if type(value) is Sym:
            if not value.node.is_const:
                return None
            table.append(value.node.value)
            kinds.add(value.kind)
            continue
        if isinstance(value, (str, bytes)) or value is None:
            return None
        number = lift(value)
        if number is None:
            return None
        table.append(number.node.value)
        kinds.add(number.kind)
    if not table or any(x != x for x in table):
        return None
    kind = kinds.pop() if len(kinds) == 1 else "int" if kinds <= {"bool", "int"} else "float"
    return tuple(table), kind


def select(items: Sequence[Any], index: Sym) -> Any:
    """``items[index]``, with Python's negative places and errors."""
    if index.kind not in ("int", "bool"):
        raise TypeError("list indices must be integers or slices, not float")
    n = len(items)
    if bounds(index)[0] < 0 and is_("lt", index, 0.0):
        index = apply("add", "int", index, float(n))
        if bounds(index)[0] < 0 and is_("lt", index, 0.0):
            raise IndexError("list index out of range")
    if n == 0 or (bounds(index)[1] >= n and is_("le", float(n), index)):
        raise IndexError("list index out of range")
    table = numbers(items)
    if table is None:
        return items[concrete(index)]
    return apply("lookup", table[1], index, value=table[0])


def position(name: str, keys: Sequence[float], x: Sym) -> Sym:
    """``count_lt`` or ``count_le``: how many of the sorted keys are less than x, or at most x."""
    return apply(name, "int", x, value=tuple(keys))


def member(values: Sequence[Any], x: Sym) -> Any:
    """``x in values``, as one decision where all are numbers."""
    table = numbers(values)
    if table is None:
        return any(value is x or value == x for value in values)
    keys = sorted(set(table[0]))
    if len(keys) > OR_CHAIN:
        found = apply("lookup", "float", position("count_lt", keys, x), value=tuple(keys))
        return is_("eq", found, x)
    condition = apply("eq", "bool", x, keys[0])
    for key in keys[1:]:
        condition = apply("or", "bool", condition, apply("eq", "bool", x, key))
    return bool(condition)


class Container:
    """Base of the read-only stand-ins; ``items()`` wraps the elements when they are read."""

    __slots__ = ("_box", "_real")
    _noun = "object"

    def __init__(self, box: Sandbox, real: Any) -> None:
        self._box, self._real = box, real

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._real, name):
            raise AttributeError(f"{type(self._real).__name__!r} object has no attribute {name!r}")
        raise current().stop(f"it uses .{name} of a {type(self._real).__name__} that was made outside of it")

    def _changes(self, *arguments: Any) -> Any:
        raise current().stop(f"it changes a {type(self._real).__name__} that was made outside of it")

    __setitem__ = __delitem__ = __iadd__ = __ior__ = _changes

    def __len__(self) -> int:
        return len(self._real)

    def _parts(self) -> list[Any]:
        return [self._box.wrap(x) for x in self._real]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts())

    def __contains__(self, x: Any) -> bool:
        if type(x) is Sym:
            return bool(member(self._parts(), x))
        return any(y is x or y == x for y in self._parts())

    def __eq__(self, other: Any) -> Any:
        return self._plain() == (other._plain() if isinstance(other, Container) else other)

    def __ne__(self, other: Any) -> Any:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def _plain(self) -> Any:
        return self._parts()

    def copy(self) -> Any:
        return self._plain()


class ListView(Container):
    """A list or a one-dimensional array."""

    __slots__ = ()

    def _parts(self) -> list[Any]:
        return [self._box.wrap(x) for x in self._real]

    def __getitem__(self, index: Any) -> Any:
        if type(index) is Sym:
            return select(self._parts(), index)
        found = self._real[index]
        return self._parts()[index] if isinstance(index, slice) else self._box.wrap(found)

    def _list_only(self) -> list[Any]:
        if type(self._real).__module__ == "numpy":
            raise current().stop("it computes with a whole array")
        return self._parts()

    def __add__(self, other: Any) -> Any:
        return self._list_only() + list(other)

    def __radd__(self, other: Any) -> Any:
        return list(other) + self._list_only()

    def __mul__(self, n: Any) -> Any:
        return self._list_only() * n

    __rmul__ = __mul__

    def __lt__(self, other: Any) -> Any:
        return self._list_only() < list(other)

    def __gt__(self, other: Any) -> Any:
        return self._list_only() > list(other)

    def __sub__(self, other: Any) -> Any:
        self._list_only()
        return NotImplemented

    __rsub__ = __truediv__ = __rtruediv__ = __le__ = __ge__ = __sub__

    def index(self, x: Any, *bounds: Any) -> int:
        return self._parts().index(x, *bounds)

    def count(self, x: Any) -> int:
        return self._parts().count(x)

    def tolist(self) -> list[Any]:
        return [self._box.wrap(x) for x in self._real.tolist()]

    @property
    def size(self) -> int:
        return int(self._real.size)

    @property
    def shape(self) -> Any:
        return self._real.shape


class Numbers(tuple[Any, ...]):
    """A tuple from outside."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return select(tuple(self), index) if type(index) is Sym else tuple.__getitem__(self, index)

    def __contains__(self, x: Any) -> bool:
        return bool(member(tuple(self), x)) if type(x) is Sym else tuple.__contains__(self, x)


class SetView(Container):
    """A set or frozenset."""

    __slots__ = ()

    def _plain(self) -> Any:
        return set(self._parts())

    def __contains__(self, x: Any) -> bool:
        return super().__contains__(x) if type(x) is Sym else x in self._real


class RangeView(Container):
    """A range; also what range() makes."""

    __slots__ = ()

    def _parts(self) -> list[Any]:
        if len(self._real) > 100_000:
            raise current().stop("it goes through a range of more than 100,000 numbers")
        return list(self._real)

    def __getitem__(self, index: Any) -> Any:
        if type(index) is Sym:
            return select(self._parts(), index)
        found = self._real[index]
        return RangeView(self._box, found) if isinstance(found, range) else found

    def __contains__(self, x: Any) -> bool:
        if type(x) is not Sym:
            return x in self._real
        if not len(self._real):
            return False
        first, last = sorted((self._real[0], self._real[-1]))
        return (
            is_("le", float(first), x) and is_("le", x, float(last)) and bool((x - first) % abs(self._real.step) == 0)
        )

    def __eq__(self, other: Any) -> Any:
        return self._real == (other._real if isinstance(other, Container) else other)

    __hash__ = None


class DictView(Container):
    """A dict, Counter or other mapping."""

    __slots__ = ()

    def _plain(self) -> Any:
        return {k: self._box.wrap(v) for k, v in self._real.items()}

    def _parts(self) -> list[Any]:
        return list(self._real)

    def __contains__(self, x: Any) -> bool:
        return super().__contains__(x) if type(x) is Sym else x in self._real

    def _absent(self, key: Any) -> Any:
        if isinstance(self._real, Counter):
            return 0
        if isinstance(self._real, defaultdict) or hasattr(type(self._real), "__missing__"):
            return self._changes()
        raise KeyError("a number that depends on the step" if type(key) is Sym else key)

    def __getitem__(self, key: Any) -> Any:
        return self._find(key, self._absent)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._find(key, lambda key: default)

    def _find(self, key: Any, absent: Callable[[Any], Any]) -> Any:
        if type(key) is not Sym:
            return self._box.wrap(self._real[key]) if key in self._real else absent(key)
        keys = [k for k in self._real if isinstance(k, (int, float))]
        if not keys or not member(keys, key):
            return absent(key)
        keys.sort()
        values = [self._box.wrap(self._real[k]) for k in keys]
        table = numbers(values)
        if table is None:
            return next(v for k, v in zip(keys, values, strict=True) if is_("eq", key, float(k)))
        return apply("lookup", table[1], position("count_lt", [float(k) for k in keys], key), value=table[0])

    def keys(self) -> Any:
        return self._plain().keys()

    def values(self) -> Any:
        return self._plain().values()

    def items(self) -> Any:
        return self._plain().items()
