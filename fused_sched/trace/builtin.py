"""Python's own containers and functions: what takes their place in a traced function.

Lists, tuples, dicts and sets from outside are read-only copies that know symbolic places. Of builtins and the compiled
functions of the standard library, those that are known to be pure can be called.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import operator
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from .mathematics import CALLS
from .outside import StandIn, is_a, real_of, shown
from .paths import Guarded, current, refusing
from .symbol import Sym, apply, bounds, concrete, is_, kind_of, lift, node_of, refuse_jump, to_integer

LONGEST = 100_000  # elements that are gone through


def elements(values: Iterable[Any] = (), /) -> list[Any]:
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
    known = all(x is not None and node_of(x).is_const and node_of(x).value == node_of(x).value for x in found)
    kinds = {kind_of(x) for x in found} if known else set()
    # of several kinds, what they are would depend on the place
    return (tuple(node_of(x).value for x in found), kinds.pop()) if len(kinds) == 1 else None


def select(items: Sequence[Any], index: Sym) -> Any:
    """``items[index]``, with Python's negative places and errors."""
    if kind_of(index) not in ("int", "bool"):
        raise TypeError("list indices must be integers or slices, not float")
    n = len(items)
    if bounds(index).low < 0 and is_("lt", index, 0.0):
        index = apply("add", "int", index, float(n))
    low, high, _ = bounds(index)
    if n == 0 or (low < 0 and is_("lt", index, 0.0)) or (high >= n and is_("le", float(n), index)):
        raise IndexError("list index out of range")
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


def find(items: dict[Any, Any], key: Sym, *default: Any) -> Any:
    """``items[key]``, or the default, or else a KeyError."""
    keys = sorted(k for k in dict.keys(items) if lift(k) is not None and k == k)
    if keys and member(keys, key):
        values = [dict.__getitem__(items, k) for k in keys]
        return select(values, below([float(k) for k in keys[:-1]], key)) if keys[1:] else values[0]
    if default:
        return default[0]
    raise KeyError("a number that depends on the step")


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
        return StandIn(getattr(real(), name), functools.partial(method, items))

    def __getitem__(self: Any, key: Any) -> Any:
        real = CLASS_OF[type(self)]
        if type(key) is not Sym:
            return real.__getitem__(self, key)
        return select(self, key) if real in (list, tuple) else find(self, key, *(() if real is dict else (0,)))

    def __contains__(self: Any, x: Any) -> bool:
        return member(members(self), x) if type(x) is Sym else CLASS_OF[type(self)].__contains__(self, x)


def _get(items: dict[Any, Any], key: Any, default: Any = None, /) -> Any:
    return find(items, key, default) if type(key) is Sym else dict.get(items, key, default)


_METHODS: dict[Any, tuple[str, ...]] = {  # all that a copy may be asked for by name
    list: ("index", "count", "copy"), tuple: ("index", "count"), dict: ("get", "items", "keys", "values", "copy"),
    Counter: ("get", "items", "keys", "values", "elements"),
}  # fmt: skip
_CHANGES = ("setitem", "delitem", "iadd", "imul", "ior", "iand", "isub", "ixor")
_OF_SETS = ("iter", "and", "or", "xor", "sub", "rand", "ror", "rxor", "rsub")
COPIES: dict[Any, Any] = {}
for _kind in (list, tuple, dict, Counter, set, frozenset):
    _made = {f"__{x}__": refusing("changes") for x in _CHANGES if hasattr(_kind, f"__{x}__")}
    if _kind in (set, frozenset):
        _made |= {f"__{x}__": refusing("goes through what has an order of its own,") for x in _OF_SETS}
    COPIES[_kind] = type(f"{_kind.__name__} copy", (Copy, _kind), {"__slots__": (), **_made})
CLASS_OF = {copy: kind for kind, copy in COPIES.items()}


def copy_of(container: Any, wrap: Callable[[Any], Any]) -> Any:
    """A copy whose elements are wrapped."""
    kind = type(container)
    if not issubclass(kind, dict):
        return COPIES[kind](map(wrap, elements(container)))
    made = COPIES[kind].__new__(COPIES[kind])
    dict.update(made, ((wrap(k), wrap(v)) for k, v in elements(container.items())))
    return made


# -- functions ---------------------------------------------------------------------------------------------


def _symbolic(*values: Any) -> bool:
    return any(type(v) is Sym for v in values)


def _bool(x: Any = False, /) -> Any:
    if type(x) is not Sym:
        return bool(x)
    return x if kind_of(x) == "bool" else apply("ne", "bool", x, 0.0)


def _extreme(real: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    values = members(arguments[0]) if len(arguments) == 1 else list(arguments)
    if named or not _symbolic(*values):
        return real(*((values,) if len(arguments) == 1 else arguments), **named)
    best = values[0]
    for value in values[1:]:
        a, b = lift(best), lift(value)
        if a is None or b is None or kind_of(a) != kind_of(b) or kind_of(a) == "numpy bool":
            best = value if (value < best if real is min else value > best) else best
        else:
            best = apply(real.__name__, kind_of(a), a, b)
    return best


def _sum(values: Iterable[Any], /, start: Any = 0) -> Any:
    values = elements(values)
    if not _symbolic(start, *values):
        return sum(values, start)
    kinds = {kind_of(x) for x in map(lift, values) if x is not None}
    if sys.version_info >= (3, 12) and "float" in kinds:
        if kinds != {"float"} or type(start) is not int:
            raise current().stop("it computes the sum() of floats and others, or from a start that is no int")
        # it keeps what each addition loses (Neumaier, 1974)
        total, lost = start + values[0], cast("Any", 0.0)
        for x in values[1:]:
            new = total + x
            larger = apply("le", "bool", abs(x), abs(total))
            lost += apply("where", "float", larger, (total - new) + x, (x - new) + total)
            total = new
        keep = apply("and", "bool", apply("ne", "bool", lost, 0.0), apply("lt", "bool", abs(lost), math.inf))
        return apply("where", "float", keep, total + lost, total)
    return functools.reduce(operator.add, values, start)


_CLASSES: dict[str, type] = {"bool": bool, "int": int, "float": float}


def _isinstance(x: Any, classes: Any, /) -> bool:
    if is_a(classes, tuple):
        return any(_isinstance(x, c) for c in classes)
    wanted, plain = real_of(classes), cast("Any", type.__subclasscheck__)
    kind = CLASS_OF.get(type(x), type(x)) if type(x) is not Sym else _CLASSES.get(kind_of(x), Sym)
    if not is_a(wanted, type) or type(wanted).__subclasscheck__ is not plain or issubclass(kind, Guarded):
        raise current().stop(f"it asks by isinstance() for {shown(wanted)}, or of what it may not ask that of")
    return issubclass(kind, wanted)


def _hasattr(x: Any, name: str, /) -> bool:
    if name.startswith("__"):
        raise current().stop(f"it uses hasattr() for {name}")
    return hasattr(x, name)


# -- the tables --------------------------------------------------------------------------------------------

_real: Any
for _real in (  # they ask their operands, which refuse by themselves
    abs, any, all, len, pow, divmod, round, repr, format, str, dict, range, zip, enumerate, map, filter,
    slice, functools.partial, operator.itemgetter, itertools.chain, itertools.accumulate, itertools.islice,
    itertools.product, itertools.zip_longest, itertools.takewhile, itertools.dropwhile, itertools.starmap,
    itertools.pairwise,
    *(x for n, x in vars(operator).items() if type(x) is types.BuiltinFunctionType and n not in ("is_", "is_not")),
):  # fmt: skip
    CALLS[_real] = _real
CALLS.update({
    float: lambda x=0.0, /: Sym(node_of(x), "float") if type(x) is Sym else float(x),
    int: lambda x=0, /, *base: int(x, *base) if base or type(x) is not Sym else to_integer(x, "trunc"),
    bool: _bool, list: elements, tuple: lambda x=(), /: tuple(elements(x)),
    set: lambda x=(), /: set(elements(x)), frozenset: lambda x=(), /: frozenset(elements(x)),
    reversed: lambda x, /: iter(elements(reversed(x))), sum: _sum,
    sorted: lambda x, /, **named: sorted(elements(x) if named else members(x), **named), isinstance: _isinstance,
    iter: lambda x, /: iter(x), hasattr: _hasattr, next: lambda x, /, *default: next(x, *default),
    functools.reduce: lambda function, values, /, *start: functools.reduce(function, elements(values), *start),
})  # fmt: skip


def _search(real: Callable[..., Any], a: Any, x: Any, *more: Any, **named: Any) -> Any:
    if not is_a(a, list, tuple):
        raise current().stop(f"{real.__name__}() in what is no list or tuple")
    if not _symbolic(x, *more, *a):
        return real(a, x, *more, **named)
    table = numbers(a) if type(x) is Sym and not more and not named else None
    if table is None or list(table[0]) != sorted(table[0]) or bounds(x).nan:
        raise current().stop(f"{real.__name__}() in anything but sorted constants, or for what may be a NaN")
    return below(table[0], x, at_most=real is bisect.bisect_right)


for _real, _rule in ((bisect.bisect_left, _search), (bisect.bisect_right, _search), (min, _extreme), (max, _extreme)):
    CALLS[_real] = functools.partial(_rule, _real)
