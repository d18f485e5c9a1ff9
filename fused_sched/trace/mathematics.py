"""math and numpy for symbolic numbers: the same library function, with the errors that Python raises."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .graph import JUMPS, TABLE, Node
from .paths import current
from .symbol import INTS, Sym, apply, bounds, finite, is_, is_infinite, kind_of, lift, node_of, refuse_jump, to_integer

Rule = Callable[..., Any]
CALLS: dict[Any, Rule] = {}  # compiled function -> what is called instead of it


def stands_for(real: Any, rule: Rule | None = None) -> None:
    """Let ``rule`` compute a function of symbolic numbers; of others the function itself does."""

    def call(*arguments: Any, **named: Any) -> Any:
        if any(type(x) is Sym for x in (*arguments, *named.values())):
            if rule is None:
                raise current().stop(f"{real.__name__}() of a number that depends on the step")
            return rule(*arguments, **named)
        try:
            made = real(*arguments, **named)
        except (ValueError, ArithmeticError) as own:
            raise type(own)(*own.args) from None  # the function's own
        kind = type(made)
        if kind.__module__ == "numpy" and kind.__name__ != "float64" and current().symbolic:
            raise current().stop(f"it makes a {kind.__name__} of numpy's")  # which has rules of its own
        return made

    CALLS[real] = call


def _of_math(op: str, outside: str = "", limit: float = 0.0, *, grows: bool = False) -> Rule:
    """A function that is one operation; it may raise OverflowError if it ``grows``.

    ``outside``: the comparison with the limit by which it raises ValueError; "inf": for infinities; "": for nothing.
    """

    def rule(a: Any, /) -> Sym:
        x = lift(a)
        raises = is_infinite(x) if outside == "inf" else bounds(x).low <= limit and outside and is_(outside, x, limit)
        if raises:
            raise ValueError("math domain error")
        made = apply(op, "float", x)
        return finite(made, x) if grows else made

    return rule


_LN = _of_math("log", "le")


def _domain(rule: Rule) -> Rule:
    """Two floats, with ValueError where operators raise ZeroDivisionError."""

    def call(a: Any, b: Any, /) -> Any:
        try:
            return rule(*(Sym(node_of(lift(x)), "float") for x in (a, b)))
        except ZeroDivisionError:
            raise ValueError("math domain error") from None

    return call


def _fmod(x: Any, y: Any, /) -> Sym:
    if is_infinite(x):
        raise ValueError("math domain error")
    return _copysign(abs(x) % abs(y), x)


def _copysign(a: Any, b: Any, /) -> Sym:
    x, y = lift(a), lift(b)
    if bounds(y).nan:
        raise current().stop("math.copysign with what may be a NaN")
    size = apply("abs", "float", x)
    zero = apply("and", "bool", apply("eq", "bool", y, 0.0), apply("lt", "bool", apply("div", "float", 1.0, y), 0.0))
    negative = apply("or", "bool", apply("lt", "bool", y, 0.0), zero)
    return apply("where", "float", negative, apply("neg", "float", size), size)


_TESTS: dict[str, Rule] = {
    "isnan": lambda x, /: apply("ne", "bool", x, x),
    "isinf": lambda x, /: apply("eq", "bool", abs(x), math.inf),
    "isfinite": lambda x, /: apply("lt", "bool", abs(x), math.inf),
}
_MATH: dict[str, Rule] = {
    "sqrt": _of_math("sqrt", "lt"), "log": lambda x, /, *base: _LN(x) / _LN(*base) if base else _LN(x),
    "log2": _of_math("log2", "le"), "log10": _of_math("log10", "le"),
    "log1p": _of_math("log1p", "le", -1.0), "exp": _of_math("exp", grows=True), "expm1": _of_math("expm1", grows=True),
    "cos": _of_math("cos", "inf"), "sin": _of_math("sin", "inf"), "tan": _of_math("tan", "inf"),
    "atan": _of_math("atan"), "tanh": _of_math("tanh"), "fabs": _of_math("abs"),
    "floor": lambda x, /: to_integer(x, "floor"), "ceil": lambda x, /: to_integer(x, "ceil"),
    "trunc": lambda x, /: to_integer(x, "trunc"),
    "degrees": lambda x, /: apply("mul", "float", x, 180.0 / math.pi),
    "radians": lambda x, /: apply("mul", "float", x, math.pi / 180.0),
    "pow": _domain(lambda x, y: x**y), "fmod": _domain(_fmod), "copysign": _copysign,
    **_TESTS,
}  # fmt: skip
for _name, _real in vars(math).items():
    if isinstance(_real, types.BuiltinFunctionType):
        stands_for(_real, _MATH.get(_name))


# -- numpy's ufuncs on scalars -----------------------------------------------------------------------------

_FLOATS = ("exp", "expm1", "log", "log2", "log10", "log1p", "cos", "sin", "tan", "tanh", "sqrt")
_UFUNCS = {
    **{name: name for name in (*_FLOATS, "floor", "ceil", "trunc")}, "rint": "round", "arctan": "atan",
    "power": "pow", "fabs": "abs", "absolute": "abs", "negative": "neg", "add": "add", "subtract": "sub",
    "multiply": "mul", "divide": "div", "minimum": "min", "maximum": "max",
}  # fmt: skip
_OF_INTS = (*_FLOATS, "arctan", "divide", "minimum", "maximum")


def _ufunc(name: str) -> Rule:
    """A ufunc on numbers, as numpy computes it."""
    op = _UFUNCS[name]

    def rule(*arguments: Any, **named: Any) -> Sym:
        xs = [x for x in map(lift, arguments) if x is not None]
        of_ints = all(kind_of(x) in INTS for x in xs)
        odd = len(xs) < len(arguments) or any("bool" in kind_of(x) for x in xs) or (of_ints and name not in _OF_INTS)
        odd = odd or len(xs) != TABLE[op].operands
        if named or odd:
            raise current().stop(f"numpy.{name}() of arrays, truth values or ints, or with options")
        if op in ("min", "max") and of_ints:
            return apply(op, "numpy int", *xs)
        if op in ("min", "max"):
            zeros = all(bounds(x).has(0.0) for x in xs) and not all(_has_no_minus_zero(node_of(x)) for x in xs)
            if zeros or any(bounds(x).nan for x in xs):
                raise current().stop(f"numpy.{name}() of NaNs, or of zeros, whose sign depends on the machine")
        if op in JUMPS:
            refuse_jump(*xs)
        return apply(op, "numpy", *xs, value="numpy" if TABLE[op].units else None)

    return rule


def _has_no_minus_zero(node: Node) -> bool:
    """Whether a zero of it is surely the positive one."""
    if node.op in ("mul", "div") and any(current().ranges.bounds(a).low < 0 for a in node.args):
        return False
    if node.op in ("add", "sub", "mul", "div"):
        return (any if node.op == "add" else all)(map(_has_no_minus_zero, node.args[: 1 if node.op == "sub" else 2]))
    return math.copysign(1.0, node.value) > 0 if node.is_const else node.op == "input" and node.whole


def _as_numpys(rule: Rule) -> Rule:
    return lambda x, /: Sym(node_of(rule(x)), "numpy bool")


def _where(condition: Any, a: Any, b: Any, /) -> Any:
    x, y = lift(a), lift(b)
    kinds = {kind_of(x), kind_of(y)}
    if kinds <= set(INTS) or kinds & {"bool", "numpy bool"}:
        raise current().stop("numpy.where() of ints or truth values")
    return apply("where", "numpy array", lift(condition), x, y)


def quiet_numpy() -> AbstractContextManager[Any]:
    """Register numpy's functions, once numpy is imported by somebody; a context in which it does not warn."""
    np = sys.modules.get("numpy")
    if np is None or not hasattr(np, "where"):
        return nullcontext()
    if np.exp not in CALLS:
        for name in _UFUNCS:
            stands_for(getattr(np, name), _ufunc(name))
        for name, rule in _TESTS.items():
            stands_for(getattr(np, name), _as_numpys(rule))
        stands_for(np.clip, lambda a, a_min, a_max: _ufunc("minimum")(_ufunc("maximum")(a, a_min), a_max))
        stands_for(np.where, _where)
        stands_for(np.float64, lambda x, /: Sym(node_of(x), "numpy"))
    return np.errstate(all="ignore")  # type: ignore[no-any-return]
