"""What takes the place of builtins, and of the compiled functions of the standard library that are known to be pure."""

from __future__ import annotations

import bisect
import builtins
import functools
import itertools
import math
import operator
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from .containers import CLASS_OF, below, elements, members, numbers
from .mathematics import CALLS
from .paths import Guarded, current, traced_frame
from .symbol import Sym, apply, bounds, class_of, kind_of, lift, node_of, to_integer
from .views import Call, Super, View, box_of, real_of, shown
from .watch import is_a

if TYPE_CHECKING:
    from .sandbox import Sandbox


def _symbolic(*values: Any) -> bool:
    return any(type(v) is Sym for v in values)


# -- numbers -----------------------------------------------------------------------------------------------


def _bool(x: Any = False) -> Any:
    if type(x) is not Sym or kind_of(x) == "bool":
        return x if type(x) is Sym else bool(x)
    return apply("ne", "bool", x, 0.0)


def _extreme(real: Callable[..., Any]) -> Callable[..., Any]:
    def of_two(a: Any, b: Any) -> Any:
        x, y = lift(a), lift(b)
        if x is None or y is None or kind_of(x) != kind_of(y) or kind_of(x) == "numpy bool":
            return b if (b < a if real is min else b > a) else a
        return apply(real.__name__, kind_of(x), x, y)

    def extreme(*arguments: Any, **named: Any) -> Any:
        values = members(arguments[0]) if len(arguments) == 1 else list(arguments)
        plain = named.get("key") is not None or not _symbolic(*values)
        return real(values, **named) if plain else functools.reduce(of_two, values)

    return extreme


def _sum(values: Iterable[Any], start: Any = 0) -> Any:
    values = elements(values)
    if not _symbolic(start, *values):
        return sum(values, start)
    kinds = {kind_of(x) for x in map(lift, values) if x is not None}
    if sys.version_info >= (3, 12) and "float" in kinds:
        if kinds != {"float"} or type(start) is not int:
            raise current().stop("it computes the sum() of floats and others, or from a start that is no int")
        return _compensated(values[1:], start + values[0])
    return functools.reduce(operator.add, values, start)


def _compensated(values: list[Any], total: Any) -> Any:
    """Python's sum() of floats from 3.12 on, which keeps what each addition loses (Neumaier, 1974)."""
    lost: Any = 0.0
    for x in values:
        new = total + x
        larger = apply("le", "bool", abs(x), abs(total))
        lost += apply("where", "float", larger, (total - new) + x, (x - new) + total)
        total = new
    keep = apply("and", "bool", apply("ne", "bool", lost, 0.0), apply("lt", "bool", abs(lost), math.inf))
    return apply("where", "float", keep, total + lost, total)


# -- objects and classes -----------------------------------------------------------------------------------


def _isinstance(x: Any, classes: Any) -> bool:
    if is_a(classes, tuple):
        return any(_isinstance(x, c) for c in classes)
    real, wanted, plain = real_of(x), real_of(classes), cast("Any", type.__subclasscheck__)
    kind: Any = class_of(real) if type(real) is Sym else CLASS_OF.get(type(real), type(real))
    if not is_a(wanted, type) or type(wanted).__subclasscheck__ is not plain or issubclass(kind, Guarded):
        raise current().stop(f"it asks by isinstance() for {shown(wanted)}, or of what it may not ask that of")
    if type(x) is View:
        watch = box_of(x).watch
        if watch.in_class(watch.kind(real), "__class__") is not object.__dict__["__class__"]:
            raise current().stop(f"it asks for the class of {shown(real)}, which computes it")
    return issubclass(kind, wanted)


def _super(*arguments: Any) -> Any:
    if not arguments:
        frame = traced_frame()
        if frame is None or "__class__" not in frame.f_locals:
            raise current().stop("super() outside of a method")
        arguments = frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]]
    if len(arguments) != 2 or type(arguments[1]) is not View or is_a(real_of(arguments[1]), type):
        raise current().stop("super() of what is no object from outside")
    return Super(real_of(arguments[0]), arguments[1])


def _attribute(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, name: str, *default: Any) -> Any:
        if name.startswith("__") or type(x) is not View:
            raise current().stop(f"{real.__name__}() of {name!r}")
        return real(x, name, *default)

    return call


def _import(box: Sandbox) -> Callable[..., Any]:
    def load(name: str, variables: Any = None, local: Any = None, names: Any = (), level: int = 0) -> Any:
        if level or name not in sys.modules or any(f"{name}.{part}" in sys.modules for part in names or ()):
            raise current().stop(f"it imports {name}, which is not imported yet, or relative, or has modules")
        name = name if names else name.partition(".")[0]
        return box.wrap(box.watch.variable(sys.modules, name))

    return load


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
    float: lambda x=0.0: Sym(node_of(x), "float") if type(x) is Sym else float(x),
    int: lambda x=0, *base: to_integer(x, "trunc") if type(x) is Sym else int(x, *base),
    bool: _bool, super: _super, list: elements, tuple: lambda x=(): tuple(elements(x)),
    set: lambda x=(): set(elements(x)), frozenset: lambda x=(): frozenset(elements(x)),
    reversed: lambda x: iter(elements(x)[::-1]), min: _extreme(min), max: _extreme(max), sum: _sum,
    sorted: lambda x, **named: sorted(elements(x) if named else members(x), **named), isinstance: _isinstance,
    getattr: _attribute(getattr), hasattr: _attribute(hasattr), iter: lambda x: iter(x),
    next: lambda x, *default: next(x, *default),
    functools.reduce: lambda function, values, *start: functools.reduce(function, elements(values), *start),
})  # fmt: skip


def _search(real: Any, at_most: bool) -> None:
    def search(a: Any, x: Any, *more: Any, **named: Any) -> Any:
        if not _symbolic(x, *more, *a):
            return real(a, x, *more, **named)
        table = numbers(a) if type(x) is Sym and not more and not named else None
        if table is None or list(table[0]) != sorted(table[0]) or bounds(x).nan:
            raise current().stop(f"{real.__name__}() in anything but sorted constants, or for what may be a NaN")
        return below(table[0], x, at_most=at_most)

    CALLS[real] = search


_search(bisect.bisect_left, False)
_search(bisect.bisect_right, True)


def table(box: Sandbox) -> dict[str, Any]:
    """The builtins of traced functions."""
    made: dict[str, Any] = {"NotImplemented": NotImplemented, "Ellipsis": ...}
    made["__import__"] = Call(builtins.__import__, _import(box))
    for name, real in vars(builtins).items():
        function = isinstance(real, types.BuiltinFunctionType) and real in CALLS
        if function or (isinstance(real, type) and (real in (*CALLS, object, type) or issubclass(real, Exception))):
            made[name] = box.wrap(real)
    return made
