"""Symbolic numbers: Python's int, float and bool, and numpy's float64, whose value depends on the step.

Operators follow Python's rules of kinds, errors and signed zeros.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

from ..program.bounds import Interval
from .graph import Node
from .paths import EXACT, LAST_STEP, Guarded, current

MAX_CONCRETE = 64  # values of a symbolic index
NOT_EXACT = "an int may exceed 2**53, the last that float64 holds exactly: compute with floats"

_KINDS = ["bool", "int", "numpy int", "float", "numpy"]  # the kind of a sum is the later one
_NO_NUMBERS = (str, bytes, type(None), tuple, list, dict, set, frozenset, Guarded, Exception)
INTS = ("int", "numpy int")
_SIGNED_ZEROS = ("neg", "mul", "floordiv", "mod", "floor", "ceil", "trunc", "round")


class Sym(Guarded):
    """A number inside a traced function: a node computes it, and a kind says whose rules it follows.

    Truth values decide the path. What a program cannot compute ends the trace.
    """

    __slots__ = ("_kind", "_node")
    __array_ufunc__ = None  # numpy's scalars leave operators to this class

    def __init__(self, node: Node, kind: str) -> None:
        _SET_NODE(self, node)
        _SET_KIND(self, kind)

    def _what(self) -> str:
        return "a number that depends on the step"

    def __bool__(self) -> bool:
        return current().decide(node_of(self))

    def __hash__(self) -> int:
        return hash(concrete(self))  # for a dict or set of the function's own

    def __index__(self) -> int:
        if kind_of(self) not in ("int", "bool"):
            raise current().stop(f"it uses a {kind_of(self)} that depends on the step as an index")
        return concrete(self)

    def _refuse(self) -> Any:
        raise current().stop("a C function needs the value of a number that depends on the step")

    __float__ = __int__ = __complex__ = _refuse

    def __format__(self, specification: str) -> str:
        return repr(self)

    def __pos__(self) -> Sym:
        return Sym(node_of(self), number_kind(self))

    def __round__(self, digits: int | None = None) -> Sym:
        exact = digits is None or (kind_of(self) in ("int", "bool") and type(digits) is int and digits >= 0)
        if not exact:
            raise current().stop("round() to decimal digits has no exact counterpart in binary arithmetic")
        return to_integer(self, "round")


_SET_NODE, _SET_KIND = Sym._node.__set__, Sym._kind.__set__  # type: ignore[attr-defined]
node_of: Callable[[Sym], Node] = Sym._node.__get__  # type: ignore[attr-defined]
kind_of: Callable[[Sym], str] = Sym._kind.__get__  # type: ignore[attr-defined]


def is_numpy(kind: type, name: str = "float64") -> bool:
    """Whether it is the class of numpy's that has this name."""
    return kind is getattr(sys.modules.get("numpy"), name, None)


def constant(value: float, kind: str = "int") -> Sym:
    """A symbolic number that is the same at every step."""
    return Sym(current().explorer.graph.const(float(value)), kind)


def lift(value: Any) -> Any:
    """A number as a symbolic one; None for what is no number."""
    kind = type(value)
    if kind is Sym:
        return value
    if kind in (bool, int, float):
        if kind is int and abs(value) > EXACT and (abs(value) > 2**1023 or int(float(value)) != value):
            raise current().stop("it computes with an int that float64 cannot hold")
        return constant(value, kind.__name__)
    if is_numpy(kind):
        return constant(value, "numpy")
    if issubclass(kind, _NO_NUMBERS) or callable(value):
        return None
    raise current().stop(f"it computes with a {kind.__name__}")


def number_kind(*values: Sym) -> str:
    """The kind of a sum of such values."""
    kinds = [kind_of(v).replace(" array", "") for v in values]
    if "numpy bool" in kinds:
        raise current().stop("it computes with numpy's truth values, which have rules of their own")
    kind = max(kinds, key=_KINDS.index)
    if kind == "float" and "numpy int" in kinds:
        return "numpy"
    return "int" if kind == "bool" else kind


def apply(op: str, kind: str, *operands: Any, value: Any = None) -> Sym:
    """The result of an operation of the program on symbolic operands and numbers.

    An int has no -0, and is computed exactly as far as float64 holds all whole numbers.
    """
    path = current()
    path.event()
    graph = path.explorer.graph
    node = graph.apply(op, *(node_of(x) if type(x) is Sym else graph.const(x) for x in operands), value=value)
    if kind in INTS:
        if op in _SIGNED_ZEROS and path.ranges.bounds(node).has(0.0):
            node = graph.apply("add", node, graph.const(0.0))
        for horizon in (LAST_STEP, 2**31 + 1, 10**7):
            low, high, _ = (path.ranges if horizon == LAST_STEP else path.nearer(horizon)).bounds(node)
            if low >= -EXACT and high <= EXACT:
                path.explorer.horizon = min(path.explorer.horizon, horizon)
                break
        else:
            raise path.stop(NOT_EXACT)
    return Sym(node, kind)


def bounds(x: Sym) -> Interval:
    """Between which numbers it lies on this path."""
    return current().ranges.bounds(node_of(x))


def is_(op: str, a: Any, b: Any) -> bool:
    """Decide a comparison."""
    return bool(apply(op, "bool", a, b))


def is_infinite(x: Sym) -> bool:
    """Decide whether it is an infinity."""
    return bounds(x).endless and is_("eq", abs(x), math.inf)


def refuse_jump(*values: Sym) -> None:
    """End the trace where an operation jumps at values that evaluators have up to their last places only."""
    for gave in filter(None, (node_of(x).inexact for x in values)):
        why = "whose last place is not the same on every device"
        raise current().stop(f"it makes a whole number of what {gave} gave, {why}")


def to_integer(x: Sym, op: str) -> Sym:
    """floor, ceil, trunc or round to an int, with the errors of int()."""
    if kind_of(x) in ("bool", *INTS):
        return Sym(node_of(x), "int")
    if bounds(x).nan and is_("ne", x, x):
        raise ValueError("cannot convert float NaN to integer")
    if is_infinite(x):
        raise OverflowError("cannot convert float infinity to integer")
    number_kind(x)
    refuse_jump(x)
    return apply(op, "int", x)


def concrete(x: Sym) -> int:
    """The value itself, by a path for each that is possible."""
    low, high, nan = bounds(x)
    if nan or high - low >= MAX_CONCRETE or not node_of(x).whole:
        raise current().stop(f"it needs the value itself of a number with more than {MAX_CONCRETE} possible values")
    values = range(math.ceil(low), math.floor(high) + 1)
    return next((value for value in values[:-1] if is_("le", x, float(value))), values[-1])


# -- operators ---------------------------------------------------------------------------------------------


def _divide(op: str, a: Sym, b: Sym) -> Sym:
    """``a / b``, ``a // b`` or ``a % b``, after Python's ZeroDivisionError; numpy has none."""
    kind = number_kind(a, b)
    if not kind.startswith("numpy") and bounds(b).has(0.0) and is_("eq", b, 0.0):
        raise ZeroDivisionError("division by zero")
    if op == "div":
        return apply(op, "numpy" if kind.startswith("numpy") else "float", a, b)
    if kind == "numpy int":
        raise current().stop("it divides numpy's ints, which have rules of their own")
    refuse_jump(a, b)
    return apply(op, kind, a, b)


def _power(a: Sym, b: Sym) -> Sym:
    """``a ** b``, with Python's errors unless it is numpy's."""
    kind = number_kind(a, b)
    if kind == "numpy int":
        raise current().stop("it takes a power of numpy's ints, which overflow")
    if kind == "numpy":
        return apply("pow", kind, a, b)
    if kind == "int" and not is_("lt", b, 0.0):
        times = concrete(b)  # multiplied out, since the last place of a library's power need not be exact
        return functools.reduce(operator.mul, itertools.repeat(a, times), constant(1))
    if bounds(a).has(0.0) and bounds(b).low < 0 and is_("lt", b, 0.0) and is_("eq", a, 0.0) and is_("ne", b, -math.inf):
        raise ZeroDivisionError("0.0 cannot be raised to a negative power")
    power = node_of(b)
    known_whole = power.whole or (power.is_const and not math.isfinite(power.value))
    if bounds(a).low < 0 and not known_whole and is_("lt", a, 0.0):
        raise current().stop(
            "a negative number to a fractional power is complex: keep what is raised at 0 or above, as max(0.0, x) ** y"
        )
    return finite(apply("pow", "float", a, b), a, b)


def finite(made: Sym, *operands: Sym) -> Sym:
    """``made``, after Python's OverflowError where finite operands give an infinity."""
    if is_infinite(made) and not any(is_("eq", abs(x), math.inf) for x in operands):
        raise OverflowError("Numerical result out of range")
    return made


def _bits(op: str, a: Sym, b: Sym) -> Sym:
    """Bit operations of truth values, and of ints those that are arithmetic."""
    if kind_of(a) == kind_of(b) == "bool" and op in ("and", "or"):
        return apply(op, "bool", a, b)
    n = int(node_of(b).value) if node_of(b).is_const and number_kind(a, b) == "int" else -1
    if op == "and" and n >= 0 and (n + 1) & n == 0:
        return _divide("mod", a, constant(n + 1))
    if op == "rshift" and 0 <= n <= 52:
        return _divide("floordiv", a, constant(2**n))
    raise current().stop(f"the bit operation {op!r} of a number that depends on the step")


def _operator(rule: Callable[[Any, Any], Any], *, swapped: bool) -> Any:
    def operate(self: Sym, other: Any, *rest: Any) -> Any:
        x = lift(other)
        if rest and rest != (None,):
            raise current().stop("pow() with three arguments")
        return NotImplemented if x is None else rule(x, self) if swapped else rule(self, x)

    return operate


_OPERATORS: dict[str, Callable[[Sym, Sym], Any]] = {
    **{op: lambda a, b, op=op: apply(op, number_kind(a, b), a, b) for op in ("add", "sub", "mul")},  # type: ignore[misc]
    "divmod": lambda a, b: (_divide("floordiv", a, b), _divide("mod", a, b)), "pow": _power,
    "truediv": functools.partial(_divide, "div"),
    **{op: functools.partial(_divide, op) for op in ("floordiv", "mod")},
    **{op: functools.partial(_bits, op) for op in ("and", "or", "xor", "lshift", "rshift")},
    **{
        op: lambda a, b, op=op: apply(op, "numpy bool" if "numpy" in kind_of(a) + kind_of(b) else "bool", a, b)  # type: ignore[misc]
        for op in ("lt", "le", "eq", "ne")
    },
}  # fmt: skip
for _op, _rule in _OPERATORS.items():
    setattr(Sym, f"__{_op}__", _operator(_rule, swapped=False))
    setattr(Sym, f"__r{_op}__", _operator(_rule, swapped=True))
for _op, _swapped in (("gt", "rlt"), ("ge", "rle")):
    setattr(Sym, f"__{_op}__", getattr(Sym, f"__{_swapped}__"))
for _op in ("neg", "abs"):
    setattr(Sym, f"__{_op}__", lambda self, op=_op: apply(op, number_kind(self), self))
for _op in ("trunc", "floor", "ceil"):
    setattr(Sym, f"__{_op}__", lambda self, op=_op: to_integer(self, op))
