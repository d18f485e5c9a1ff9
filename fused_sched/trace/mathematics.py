"""math and numpy for symbolic numbers: the same library function, with the errors that Python raises."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .operations import Node
from .paths import current
from .symbol import (
    INTS,
    Sym,
    apply,
    bounds,
    checked_pow,
    is_,
    lift,
    may_be,
    mod,
    number_kind,
    positive_zero,
    refuse_jump,
    refuse_overflow,
    to_integer,
    whole,
)  # fmt: skip

Rule = Callable[..., Any]
CALLS: dict[Any, Rule] = {}  # compiled function -> what is called instead of it


def stands_for(real: Any, rule: Rule | None = None) -> None:
    """Let ``rule`` compute a function of symbolic numbers; of others the function itself does."""

    def call(*arguments: Any, **named: Any) -> Any:
        if not any(type(x) is Sym for x in (*arguments, *named.values())):
            try:
                return lift_result(real(*arguments, **named))
            except (ValueError, ArithmeticError) as error:
                raise type(error)(*error.args) from None  # the function's own
        if rule is None:
            raise current().stop(f"{real.__name__}() of a number that depends on the step")
        return rule(*arguments, **named)

    CALLS[real] = call


def lift_result(made: Any) -> Any:
    """What a function gave for numbers, unless it is one that has other rules."""
    if type(made).__module__ == "numpy" and type(made).__name__ != "float64" and current().symbolic:
        raise current().stop(f"it makes a {type(made).__name__} of numpy's")
    return made


def number(x: Any) -> Sym:
    """A number as a symbolic float, as the C function takes it."""
    found = lift(x)
    if found is None:
        raise TypeError(f"must be real number, not {type(x).__name__}")
    return found


def _refuse_domain(x: Sym, op: str, limit: float) -> None:
    if bounds(x).low <= limit and is_(op, x, limit):
        raise ValueError("math domain error")


def _refuse_infinity(x: Sym) -> None:
    if (may_be(x, math.inf) or may_be(x, -math.inf)) and is_("eq", abs(x), math.inf):
        raise ValueError("math domain error")


def _math(op: str, check: Callable[[Sym], None] | None = None, *, grows: bool = False) -> Rule:
    def rule(a: Any) -> Sym:
        x = number(a)
        if check is not None:
            check(x)
        made = apply(op, "float", x)
        if grows:
            refuse_overflow(made, x)
        return made

    return rule


def _log(a: Any, *base: Any) -> Any:
    top = _above_zero("log")(a) if type(a) is Sym else math.log(a)
    if not base:
        return top
    return top / (_above_zero("log")(base[0]) if type(base[0]) is Sym else math.log(base[0]))


def _above_zero(op: str, limit: float = 0.0) -> Rule:
    return _math(op, lambda x: _refuse_domain(x, "le", limit))


def _pow(a: Any, b: Any) -> Sym:
    x, y = (Sym(number(v).node, "float") for v in (a, b))
    try:
        return checked_pow(x, y, "float")
    except ZeroDivisionError:
        raise ValueError("math domain error") from None


def _fmod(a: Any, b: Any) -> Sym:
    x, y = (Sym(number(v).node, "float") for v in (a, b))
    _refuse_infinity(x)
    try:
        return _copysign(mod(abs(x), abs(y)), x)
    except ZeroDivisionError:
        raise ValueError("math domain error") from None


def _copysign(a: Any, b: Any) -> Sym:
    x, y = number(a), number(b)
    if bounds(y).nan:
        raise current().stop("math.copysign with what may be a NaN")
    size = apply("abs", "float", x)
    zero = apply("and", "bool", apply("eq", "bool", y, 0.0), apply("lt", "bool", apply("div", "float", 1.0, y), 0.0))
    negative = apply("or", "bool", apply("lt", "bool", y, 0.0), zero)
    return apply("where", "float", negative, apply("neg", "float", size), size)


def _isclose(a: Any, b: Any, *, rel_tol: Any = 1e-09, abs_tol: Any = 0.0) -> bool:
    if rel_tol < 0 or abs_tol < 0:
        raise ValueError("tolerances must be non-negative")
    if a == b:
        return True
    if is_("eq", abs(number(a)), math.inf) or is_("eq", abs(number(b)), math.inf):
        return False
    gap = abs(b - a)
    return bool(gap <= abs(rel_tol * b)) or bool(gap <= abs(rel_tol * a)) or bool(gap <= abs_tol)


_TESTS: dict[str, Rule] = {
    "isnan": lambda x: apply("ne", "bool", x, x),
    "isinf": lambda x: apply("eq", "bool", abs(x), math.inf),
    "isfinite": lambda x: apply("lt", "bool", abs(x), math.inf),
}
for _name in dir(math):
    if isinstance(getattr(math, _name), types.BuiltinFunctionType):
        stands_for(getattr(math, _name))
_MATH: dict[str, Rule] = {
    "sqrt": _math("sqrt", lambda x: _refuse_domain(x, "lt", 0.0)),
    "log": _log, "log2": _above_zero("log2"), "log10": _above_zero("log10"), "log1p": _above_zero("log1p", -1.0),
    "cos": _math("cos", _refuse_infinity), "sin": _math("sin", _refuse_infinity), "tan": _math("tan", _refuse_infinity),
    "exp": _math("exp", grows=True), "expm1": _math("expm1", grows=True),
    "atan": _math("atan"), "tanh": _math("tanh"), "fabs": _math("abs"),
    "floor": lambda x: to_integer(x, "floor"), "ceil": lambda x: to_integer(x, "ceil"),
    "trunc": lambda x: to_integer(x, "trunc"),
    "degrees": lambda x: apply("mul", "float", x, 180.0 / math.pi),
    "radians": lambda x: apply("mul", "float", x, math.pi / 180.0),
    "pow": _pow, "fmod": _fmod, "copysign": _copysign,
    "isclose": _isclose, **_TESTS,
}  # fmt: skip
for _name, _rule in _MATH.items():
    stands_for(getattr(math, _name), _rule)


# -- numpy's ufuncs on scalars -----------------------------------------------------------------------------

_OWN_ROUNDING = {
    "exp": "exp", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p", "cos": "cos",
    "sin": "sin", "tan": "tan", "arctan": "atan", "tanh": "tanh", "power": "pow",
}  # fmt: skip
_ROUNDED = {"floor": "floor", "ceil": "ceil", "trunc": "trunc"}
_OF_INTS = {
    "absolute": "abs", "negative": "neg", "add": "add", "subtract": "sub", "multiply": "mul", "minimum": "min",
    "maximum": "max",
}  # fmt: skip
_EXACT = {**_OF_INTS, "sqrt": "sqrt", "fabs": "abs", "divide": "div", "rint": "round"}


def _ufunc(name: str) -> Rule:
    """A ufunc on numbers, as numpy computes it."""

    def rule(*arguments: Any, **named: Any) -> Sym:
        xs = [x for x in map(lift, arguments) if x is not None]
        if named or len(xs) < len(arguments):
            raise current().stop(f"numpy.{name}() of an array, or with options")
        if any("bool" in x.kind for x in xs):
            raise current().stop(f"numpy.{name}() of truth values, which has rules of its own")
        if all(x.kind in INTS for x in xs):
            if name in _OF_INTS:
                return positive_zero(apply(_OF_INTS[name], "numpy int", *xs))
            if name in _ROUNDED or name == "power":
                raise current().stop(f"numpy.{name}() of ints, which has rules of its own")
        if name in _OWN_ROUNDING:
            return apply(_OWN_ROUNDING[name], "numpy", *xs, value="numpy")
        if name in _ROUNDED:
            return whole(_ROUNDED[name], Sym(xs[0].node, "numpy"))
        if name in ("minimum", "maximum") and any(bounds(x).nan for x in xs):
            raise current().stop(f"numpy.{name}() of what may be a NaN")
        if name in ("minimum", "maximum") and all(may_be(x, 0.0) for x in xs) and any(map(_may_be_minus_zero, xs)):
            raise current().stop(f"numpy.{name}() of zeros, whose sign depends on the machine")
        if name == "rint":
            refuse_jump(xs[0])
        return apply(_EXACT[name], "numpy", *xs)

    return rule


def _may_be_minus_zero(x: Sym) -> bool:
    ranges = current().ranges

    def may(node: Node) -> bool:
        op, args = node.op, node.args
        if op == "const" or op == "lookup":
            return any(math.copysign(1.0, v) < 0 for v in (node.value if op == "lookup" else (node.value,)))
        if op in ("input", "abs", "count_lt"):
            return False
        if op == "add":
            return may(args[0]) and may(args[1])
        if op == "sub" or (op == "div" and args[0].whole and ranges.bounds(args[1]).low > 0):
            return may(args[0])
        positive = op in ("mul", "div") and all(ranges.bounds(a).low >= 0 for a in args)
        if positive or op in ("min", "max", "where", "sqrt"):
            return any(map(may, args[1:] if op == "where" else args))
        return True

    return x.kind not in ("bool", *INTS) and may(x.node)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, **named: Any) -> Any:
    if named or a_min is None or a_max is None:
        raise current().stop("numpy.clip() with options, or one bound")
    return _ufunc("minimum")(_ufunc("maximum")(a, a_min), a_max)


def _where(condition: Any, a: Any, b: Any) -> Any:
    x, y = number(a), number(b)
    if "bool" in x.kind + y.kind:
        raise current().stop("numpy.where() of truth values")
    if number_kind(x, y) in INTS:
        raise current().stop("numpy.where() of ints")
    return apply("where", "numpy array", number(condition), x, y)


def quiet_numpy() -> AbstractContextManager[Any]:
    """Register numpy's functions, once numpy is imported by somebody; a context in which it does not warn."""
    np = sys.modules.get("numpy")
    if np is None or not hasattr(np, "where"):
        return nullcontext()
    if np.exp not in CALLS:
        _learn(np)
    return np.errstate(all="ignore")  # type: ignore[no-any-return]


def _learn(np: Any) -> None:
    for name in (*_OWN_ROUNDING, *_ROUNDED, *_EXACT):
        stands_for(getattr(np, name), _ufunc(name))
    stands_for(np.clip, _clip)
    stands_for(np.where, _where)
    for name, rule in _TESTS.items():
        stands_for(getattr(np, name), lambda x, rule=rule: Sym(rule(x).node, "numpy bool"))
    stands_for(np.float64, lambda x=0.0: Sym(x.node, "numpy"))
