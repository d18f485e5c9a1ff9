"""What takes the place of builtins, and of the compiled functions that are known to be pure."""

from __future__ import annotations

import bisect
import builtins
import functools
import importlib.util
import itertools
import math
import operator
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .containers import Container, Numbers, RangeView, numbers, position
from .explore import current
from .objects import ClassView, Foreign, ObjectView, SuperView, name_of, real_of
from .symbol import Sym, apply, bounds, is_, lift, number_kind, to_integer

if TYPE_CHECKING:
    from .sandbox import Sandbox

KNOWN: dict[Any, Any] = {}  # compiled function -> what is called instead
_LONGEST = 100_000  # elements that a builtin goes through


def stands_for(*reals: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function for compiled ones."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for real in reals:
            KNOWN[real] = function
        return function

    return register


def symbolic(*values: Any) -> bool:
    """Whether a value depends on the step."""
    return any(type(v) is Sym or (type(v) in (list, tuple, Numbers) and symbolic(*v)) for v in values)


def plain(value: Any) -> Any:
    """A constant as the compiled function wants it."""
    if isinstance(value, RangeView):
        return value._real
    if isinstance(value, Container):
        return type(value._real)(value._parts()) if isinstance(value._real, (list, set)) else value._real
    return real_of(value)


def constant_only(real: Any) -> Callable[..., Any]:
    """A pure function that can be computed now, but not for a number that depends on the step."""

    def call(*arguments: Any, **named: Any) -> Any:
        if symbolic(*arguments, *named.values()):
            raise current().stop(f"{name_of(real)}() of a number that depends on the step")
        made = real(*map(plain, arguments), **{k: plain(v) for k, v in named.items()})
        if type(made).__module__ == "numpy" and getattr(made, "ndim", 0) == 1:
            from .containers import ListView

            return ListView(_Local(), made)  # type: ignore[arg-type]
        return made

    return call


class _Local:
    """Elements of what was made inside need no wrapping."""

    def wrap(self, value: Any) -> Any:
        return value


def elements(values: Iterable[Any]) -> list[Any]:
    """All of an iterable, unless it is endless."""
    found = list(itertools.islice(iter(values), _LONGEST + 1))
    if len(found) > _LONGEST:
        raise current().stop(f"it goes through more than {_LONGEST} elements")
    return found


# -- builtins ----------------------------------------------------------------------------------------------


def _float(x: Any = 0.0) -> Any:
    return Sym(x.node, "float") if type(x) is Sym else float(plain(x))


def _int(x: Any = 0, *base: Any) -> Any:
    return to_integer(x, "trunc") if type(x) is Sym else int(plain(x), *base)


def _bool(x: Any = False) -> Any:
    if type(x) is Sym:
        return x if x.kind == "bool" else apply("ne", "bool", x, 0.0)
    return bool(x)


def _extreme(name: str) -> Callable[..., Any]:
    def extreme(*arguments: Any, key: Any = None, default: Any = _float) -> Any:
        values = elements(arguments[0]) if len(arguments) == 1 else list(arguments)
        if not values:
            if default is _float:
                raise ValueError(f"{name}() arg is an empty sequence")
            return default
        if key is not None:
            keys = [key(v) for v in values]
            best = 0
            for i in range(1, len(values)):
                if (keys[i] < keys[best]) if name == "min" else (keys[i] > keys[best]):
                    best = i
            return values[best]
        if not symbolic(values):
            return getattr(builtins, name)(values)
        return functools.reduce(lambda a, b: extreme_of(name, a, b), values)

    return extreme


def extreme_of(name: str, a: Any, b: Any) -> Any:
    """min or max of two numbers, as one operation."""
    x, y = lift(a), lift(b)
    if x is None or y is None:
        return getattr(builtins, name)(a, b)
    kind = x.kind if x.kind == y.kind else number_kind(x, y)
    return apply(name, kind, x, y)


def _sum(values: Iterable[Any], start: Any = 0) -> Any:
    values = elements(values)
    if not symbolic(values) and not symbolic(start):
        return sum(values, start)
    if sys.version_info >= (3, 12):
        return _compensated(values, start)
    return functools.reduce(operator.add, values, start)


def _compensated(values: list[Any], start: Any) -> Any:
    """Python's sum() from 3.12 on, which keeps what each float addition loses (Neumaier, 1974)."""
    total, rest = start, iter(values)
    for x in rest:
        total = total + x
        number = lift(total)
        if number is not None and number.kind == "float":
            break
    lost: Any = 0.0
    for x in rest:
        number = lift(x)
        if number is None or number.kind == "numpy":
            raise current().stop(f"it computes the sum() of floats and a {type(x).__name__}")
        if number.kind == "float":
            new = total + x
            larger = apply("le", "bool", abs(x), abs(total))
            lost = lost + apply("where", "float", larger, (total - new) + x, (x - new) + total)
            total = new
        else:
            total = total + x
    if type(lost) is not Sym:
        return total + lost if lost else total
    keep = apply("and", "bool", apply("ne", "bool", lost, 0.0), apply("lt", "bool", abs(lost), math.inf))
    return apply("where", "float", keep, total + lost, total)


def _range(box: Sandbox) -> Callable[..., Any]:
    return lambda *limits: RangeView(box, range(*(operator.index(x) for x in limits)))


def class_of(x: Any) -> type:
    """The class that a value has for the traced function."""
    if type(x) is Sym:
        return x.__class__  # type: ignore[no-any-return]
    if type(x) is Numbers:
        return tuple
    return type(real_of(x))


def _isinstance(x: Any, classes: Any) -> bool:
    if isinstance(classes, (tuple, list)):
        return any(_isinstance(x, c) for c in classes)
    real = real_of(classes)
    if type(x) is Sym or type(x) is Numbers:
        return issubclass(class_of(x), real)
    return isinstance(real_of(x), real)


def _issubclass(x: Any, classes: Any) -> bool:
    if isinstance(classes, (tuple, list)):
        return any(_issubclass(x, c) for c in classes)
    return issubclass(real_of(x), real_of(classes))


def _super(*arguments: Any) -> Any:
    if arguments:
        start, view = real_of(arguments[0]), arguments[1]
    else:
        frame = sys._getframe(1)
        variables = frame.f_locals
        start, view = real_of(variables["__class__"]), variables[frame.f_code.co_varnames[0]]
    if isinstance(view, ObjectView):
        return SuperView(start, view)
    return super(start, view)


def _import(box: Sandbox) -> Callable[..., Any]:
    def load(name: str, variables: Any = None, local: Any = None, names: Any = (), level: int = 0) -> Any:
        if level:
            package = variables.real.get("__package__") or ""
            name = importlib.util.resolve_name("." * level + name, package)
        if name not in sys.modules:
            raise current().stop(f"it imports {name}, which is not imported yet")
        for part in names or ():
            if not hasattr(sys.modules[name], part) and f"{name}.{part}" not in sys.modules:
                raise ImportError(f"cannot import name {part!r} from {name!r}")
        return box.wrap(sys.modules[name] if names else sys.modules[name.partition(".")[0]])

    return load


def _divmod(a: Any, b: Any) -> Any:
    return (a // b, a % b)


def _round(x: Any, *digits: Any) -> Any:
    return round(x, *digits) if type(x) is Sym else round(plain(x), *digits)


def _dict(*arguments: Any, **named: Any) -> Any:
    return dict(*(a._plain() if isinstance(a, Container) else a for a in arguments), **named)


def builtins_of(box: Sandbox) -> dict[str, Any]:
    """The builtins of traced functions: every name is there, and what is not known refuses to be called."""
    made: dict[str, Any] = {}
    for name, value in vars(builtins).items():
        if isinstance(value, type) and not issubclass(value, BaseException):
            made[name] = box.wrap(value)
        else:
            made[name] = Foreign(box, value) if callable(value) and not isinstance(value, type) else value
    calls: dict[str, Callable[..., Any]] = {
        "float": _float, "int": _int, "bool": _bool, "range": _range(box), "list": lambda x=(): elements(x),
        "tuple": lambda x=(): tuple(elements(x)), "dict": _dict, "set": lambda x=(): set(elements(x)),
        "frozenset": lambda x=(): frozenset(elements(x)), "zip": zip, "enumerate": enumerate, "map": map,
        "filter": filter, "reversed": lambda x: reversed(x) if type(x) in (list, tuple) else iter(elements(x)[::-1]),
        "type": lambda x, *rest: box.wrap(class_of(x)) if not rest else Foreign(box, type)(), "str": str,
        "object": object, "complex": constant_only(complex), "bytes": constant_only(bytes), "slice": slice,
        "super": _super,
    }  # fmt: skip
    for name, call in calls.items():
        real = getattr(builtins, name)
        view = ClassView(box, real, call)
        box._views[id(real)] = (real, view)
        made[name] = view
    made.update(
        abs=abs, min=_extreme("min"), max=_extreme("max"), sum=_sum, any=any, all=all, len=len, round=_round, pow=pow,
        divmod=_divmod, sorted=lambda x, **named: sorted(elements(x), **named), isinstance=_isinstance,
        issubclass=_issubclass, callable=callable, getattr=getattr, hasattr=hasattr, setattr=setattr, hash=hash,
        repr=repr, format=format, next=next, iter=lambda x, *rest: iter(x) if not rest else Foreign(box, iter)(),
        __import__=_import(box), __build_class__=builtins.__build_class__, super=_super,
        property=property, staticmethod=staticmethod, classmethod=classmethod, object=object,
        BaseException=Exception,  # what ends a trace is no error of the function's
    )  # fmt: skip
    for name in ("chr", "ord", "bin", "hex", "oct", "ascii"):
        made[name] = constant_only(getattr(builtins, name))
    return made


for _name in ("abs", "len", "pow", "callable", "hash", "repr", "format", "next"):
    KNOWN[getattr(builtins, _name)] = getattr(builtins, _name)
KNOWN.update({min: _extreme("min"), max: _extreme("max"), sum: _sum, any: any, all: all, round: _round})
KNOWN.update({isinstance: _isinstance, getattr: getattr, hasattr: hasattr, divmod: _divmod})
KNOWN.update({sorted: lambda x, **named: sorted(elements(x), **named)})

for _name in dir(operator):  # they do what the operators of their operands do
    if isinstance(getattr(operator, _name), types.BuiltinFunctionType):
        KNOWN[getattr(operator, _name)] = getattr(operator, _name)
KNOWN.update({operator.itemgetter: operator.itemgetter, operator.attrgetter: operator.attrgetter})
for _name in ("chain", "accumulate", "islice", "product", "zip_longest", "takewhile", "dropwhile", "starmap"):
    KNOWN[getattr(itertools, _name)] = getattr(itertools, _name)
if hasattr(itertools, "pairwise"):
    KNOWN[itertools.pairwise] = itertools.pairwise
KNOWN[functools.partial] = functools.partial


@stands_for(functools.reduce)
def _reduce(function: Any, values: Any, *start: Any) -> Any:
    return functools.reduce(function, elements(values), *start)


# -- bisect ------------------------------------------------------------------------------------------------


def _bisect(side: str) -> Callable[..., int]:
    def search(a: Any, x: Any, lo: Any = 0, hi: Any = None, *, key: Any = None) -> Any:
        values = a if key is None else [key(v) for v in a]
        table = None if symbolic(lo, hi) or lo != 0 or hi is not None else numbers(list(values))
        if type(x) is Sym and table is not None and list(table[0]) == sorted(table[0]):
            if bounds(x)[2] and is_("ne", x, x):
                raise current().stop("it searches for a NaN")
            return position("count_lt" if side == "left" else "count_le", table[0], x)
        hi = len(a) if hi is None else hi
        while lo < hi:
            middle = (lo + hi) // 2
            if (values[middle] < x) if side == "left" else not (x < values[middle]):
                lo = middle + 1
            else:
                hi = middle
        return lo

    return search


KNOWN.update(
    {bisect.bisect_left: _bisect("left"), bisect.bisect_right: _bisect("right"), bisect.bisect: _bisect("right")}
)
