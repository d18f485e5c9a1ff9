"""math and numpy for symbolic numbers: the same library function, with the errors that Python raises."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from .arithmetic import checked_pow, refuse_overflow
from .containers import ListView, numbers, position
from .explore import current
from .functions import KNOWN, constant_only, extreme_of, plain, symbolic
from .symbol import Sym, apply, bounds, is_, lift, number_kind, to_integer


def _number(x: Any) -> Sym:
    found = lift(x)
    if found is None:
        raise TypeError(f"must be real number, not {type(x).__name__}")
    return found


def _simple(real: Any, rule: Callable[..., Any]) -> Callable[..., Any]:
    """``rule`` for symbolic arguments, the function itself for others."""

    def call(*arguments: Any, **named: Any) -> Any:
        if symbolic(*arguments, *named.values()):
            return rule(*arguments, **named)
        return real(*map(plain, arguments), **{k: plain(v) for k, v in named.items()})

    return call


def _domain(name: str, op: str, limit: float) -> None:
    """A function that raises ValueError below or at ``limit``."""

    def rule(a: Any) -> Sym:
        x = _number(a)
        if bounds(x)[0] <= limit and is_("lt" if op == "sqrt" else "le", x, limit):
            raise ValueError("math domain error")
        return apply(op, "float", x)

    KNOWN[getattr(math, name)] = _simple(getattr(math, name), rule)


def _finite(name: str, op: str) -> None:
    """A function that raises ValueError for an infinity."""

    def rule(a: Any) -> Sym:
        x = _number(a)
        low, high, _ = bounds(x)
        if (low == -math.inf or high == math.inf) and is_("eq", abs(x), math.inf):
            raise ValueError("math domain error")
        return apply(op, "float", x)

    KNOWN[getattr(math, name)] = _simple(getattr(math, name), rule)


def _growing(name: str, op: str) -> None:
    """A function that raises OverflowError."""

    def rule(a: Any) -> Sym:
        x = _number(a)
        made = apply(op, "float", x)
        refuse_overflow(made, x)
        return made

    KNOWN[getattr(math, name)] = _simple(getattr(math, name), rule)


def _total(name: str, rule: Callable[..., Any]) -> None:
    KNOWN[getattr(math, name)] = _simple(getattr(math, name), rule)


def _log(a: Any, *base: Any) -> Any:
    x = _log_one(a)
    return x / _log_one(base[0]) if base else x


def _log_one(a: Any) -> Any:
    if type(a) is not Sym:
        return math.log(a)
    if bounds(a)[0] <= 0 and is_("le", a, 0.0):
        raise ValueError("math domain error")
    return apply("log", "float", a)


def _pow(a: Any, b: Any) -> Sym:
    x, y = _number(a), _number(b)
    x, y = Sym(x.node, "float"), Sym(y.node, "float")
    try:
        return checked_pow(x, y, "float")
    except ZeroDivisionError as error:
        raise ValueError("math domain error") from error


def _fmod(a: Any, b: Any) -> Sym:
    x, y = _number(a), _number(b)
    if bounds(y)[0] <= 0 <= bounds(y)[1] and is_("eq", y, 0.0):
        raise ValueError("math domain error")
    if bounds(x)[0] == -math.inf or bounds(x)[1] == math.inf:
        raise current().stop("math.fmod of what may be infinite")
    return _copysign(apply("mod", "float", abs(x), abs(y)), x)


def _copysign(a: Any, b: Any) -> Sym:
    x, y = _number(a), _number(b)
    if bounds(y)[2]:
        raise current().stop("math.copysign with what may be a NaN")
    size = apply("abs", "float", x)
    if bounds(y)[0] > 0 or (y.kind in ("int", "bool") and bounds(y)[0] >= 0):
        return size
    zero = apply("and", "bool", apply("eq", "bool", y, 0.0), apply("lt", "bool", apply("div", "float", 1.0, y), 0.0))
    negative = apply("or", "bool", apply("lt", "bool", y, 0.0), zero)
    return apply("where", "float", negative, apply("neg", "float", size), size)


def _isclose(a: Any, b: Any, *, rel_tol: Any = 1e-09, abs_tol: Any = 0.0) -> bool:
    if a == b:
        return True
    if is_("eq", abs(_number(a)), math.inf) or is_("eq", abs(_number(b)), math.inf):
        return False
    gap = abs(b - a)
    return bool(gap <= abs(rel_tol * b)) or bool(gap <= abs(rel_tol * a)) or bool(gap <= abs_tol)


def _isinf(a: Any) -> Sym:
    return apply("eq", "bool", abs(_number(a)), math.inf)


def _isnan(a: Any) -> Sym:
    return apply("ne", "bool", _number(a), _number(a))


def _isfinite(a: Any) -> Sym:
    return apply("lt", "bool", abs(_number(a)), math.inf)


for _name in dir(math):
    if isinstance(getattr(math, _name), types.BuiltinFunctionType):
        KNOWN[getattr(math, _name)] = constant_only(getattr(math, _name))
_domain("sqrt", "sqrt", 0.0)
_domain("log2", "log2", 0.0)
_domain("log10", "log10", 0.0)
_domain("log1p", "log1p", -1.0)
_finite("cos", "cos")
_finite("sin", "sin")
_finite("tan", "tan")
_growing("exp", "exp")
_growing("expm1", "expm1")
_total("atan", lambda x: apply("atan", "float", _number(x)))
_total("tanh", lambda x: apply("tanh", "float", _number(x)))
_total("fabs", lambda x: apply("abs", "float", _number(x)))
_total("floor", lambda x: to_integer(_number(x), "floor"))
_total("ceil", lambda x: to_integer(_number(x), "ceil"))
_total("trunc", lambda x: to_integer(_number(x), "trunc"))
_total("degrees", lambda x: apply("mul", "float", _number(x), 180.0 / math.pi))
_total("radians", lambda x: apply("mul", "float", _number(x), math.pi / 180.0))
_total("log", _log)
_total("pow", _pow)
_total("fmod", _fmod)
_total("copysign", _copysign)
_total("isnan", _isnan)
_total("isinf", _isinf)
_total("isfinite", _isfinite)
_total("isclose", _isclose)


# -- numpy -------------------------------------------------------------------------------------------------

_OWN_ROUNDING = {
    "exp": "exp", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p", "cos": "cos",
    "sin": "sin", "tan": "tan", "arctan": "atan", "tanh": "tanh", "sqrt": "sqrt",
}  # fmt: skip
_WHOLE = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "round", "absolute": "abs", "fabs": "abs"}
_OPERATORS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "mod": "mod", "floor_divide": "floordiv",
}  # fmt: skip
_MAKERS = ("array", "asarray", "linspace", "arange", "zeros", "ones", "full", "cumsum", "diff", "logspace", "geomspace")


def _array(name: str) -> Callable[[Any], Sym]:
    def rule(*arguments: Any, **named: Any) -> Any:
        if named or any(isinstance(x, (list, tuple, ListView)) for x in arguments):
            raise current().stop(f"numpy.{name}() of an array or with options")
        xs = [_number(x) for x in arguments]
        if name in _OWN_ROUNDING:
            return apply(_OWN_ROUNDING[name], "numpy", *xs, value=None if name == "sqrt" else "numpy")
        if name == "power":
            if number_kind(*xs) == "int":
                raise current().stop("numpy.power() of ints, which overflow")
            return checked_pow(xs[0], xs[1], "numpy", "numpy")
        kind = "numpy" if name not in ("absolute",) or xs[0].kind not in ("int", "bool") else xs[0].kind
        if name in _OPERATORS:
            kind = "numpy" if number_kind(*xs) != "int" else "int"
            if kind == "int" and name in ("divide", "mod", "floor_divide"):
                raise current().stop(f"numpy.{name}() of ints")
            return apply(_OPERATORS[name], kind, *xs)
        return apply(_WHOLE[name], kind, *xs)

    return rule


def _np_extreme(name: str) -> Callable[..., Any]:
    def rule(a: Any, b: Any) -> Any:
        x, y = _number(a), _number(b)
        if bounds(x)[2] or bounds(y)[2]:
            raise current().stop(f"numpy's {name}imum of what may be a NaN")
        made = extreme_of(name, x, y)
        return made if number_kind(x, y) == "int" else Sym(made.node, "numpy")

    return rule


def _clip(a: Any, low: Any = None, high: Any = None) -> Any:
    made = a if low is None else _np_extreme("max")(a, low)
    return made if high is None else _np_extreme("min")(made, high)


def _np_where(condition: Any, a: Any, b: Any) -> Any:
    x, y = _number(a), _number(b)
    kind = number_kind(x, y)
    return apply("where", kind if kind == "int" else "numpy", _number(condition), x, y)


def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    table_x, table_y = numbers(list(xp)), numbers(list(fp))
    if period is not None or table_x is None or table_y is None or len(table_x[0]) != len(table_y[0]):
        raise current().stop("numpy.interp() with anything but constant points, or with a period")
    xs, ys = table_x[0], table_y[0]
    if any(b <= a for a, b in pairwise(xs)) or not all(map(math.isfinite, (*xs, *ys))):
        raise current().stop("numpy.interp() over points that do not increase, or are not finite")
    number = _number(x)
    if bounds(number)[2]:
        raise current().stop("numpy.interp() of what may be a NaN")
    first = _number(ys[0] if left is None else left)
    last = _number(ys[-1] if right is None else right)
    if len(xs) == 1:
        raise current().stop("numpy.interp() over a single point")
    slopes = tuple((ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i]) for i in range(len(xs) - 1))
    row = apply("sub", "int", position("count_le", xs, number), 1.0)
    x_left, y_left, slope = (apply("lookup", "numpy", row, value=t) for t in (xs[:-1], ys[:-1], slopes))
    inside = apply("add", "numpy", apply("mul", "numpy", slope, apply("sub", "numpy", number, x_left)), y_left)
    made = apply("where", "numpy", apply("eq", "bool", number, x_left), y_left, inside)
    made = apply("where", "numpy", apply("eq", "bool", number, xs[-1]), ys[-1], made)
    made = apply("where", "numpy", apply("lt", "bool", number, xs[0]), first, made)
    return apply("where", "numpy", apply("lt", "bool", xs[-1], number), last, made)


def _searchsorted(a: Any, v: Any, side: str = "left") -> Any:
    table = numbers(list(a))
    if table is None or list(table[0]) != sorted(table[0]) or bounds(_number(v))[2]:
        raise current().stop("numpy.searchsorted() in anything but sorted constants")
    return position("count_lt" if side == "left" else "count_le", table[0], _number(v))


def learn_numpy() -> None:
    """Register numpy's functions, once numpy is imported by somebody."""
    np = sys.modules.get("numpy")
    if np is None or not hasattr(np, "searchsorted") or np.exp in KNOWN:
        return
    for name in (*_OWN_ROUNDING, *_WHOLE, *_OPERATORS, "power"):
        KNOWN[getattr(np, name)] = _simple(getattr(np, name), _array(name))
    for name in ("min", "max"):
        for real in (getattr(np, f"{name}imum"), getattr(np, f"f{name}")):
            KNOWN[real] = _simple(real, _np_extreme(name))
    for name, rule in (("clip", _clip), ("where", _np_where), ("interp", _interp), ("searchsorted", _searchsorted)):
        KNOWN[getattr(np, name)] = _simple(getattr(np, name), rule)
    KNOWN[np.isnan], KNOWN[np.isinf] = _simple(np.isnan, _isnan), _simple(np.isinf, _isinf)
    KNOWN[np.isfinite] = _simple(np.isfinite, _isfinite)
    KNOWN[np.deg2rad] = _simple(np.deg2rad, lambda x: apply("mul", "numpy", _number(x), math.pi / 180.0))
    KNOWN[np.float64] = lambda x=0.0: Sym(x.node, "numpy") if type(x) is Sym else np.float64(plain(x))
    for name in _MAKERS:
        KNOWN[getattr(np, name)] = constant_only(getattr(np, name))
