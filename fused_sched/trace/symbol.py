"""Symbolic numbers: Python's int, float and bool, and numpy's float64, whose value depends on the step.

Operators follow Python's rules of kinds, errors and signed zeros.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

from .operations import Interval, Node
from .paths import EXACT, Path, current

MAX_CONCRETE = 64  # values of a symbolic index
MOST_MULTIPLICATIONS = 64  # of a whole power
NOT_EXACT = "an int may exceed 2**53, the last that float64 holds exactly: compute with floats"

_CLASSES = {"bool": bool, "int": int, "float": float}
_NUMPYS = {"numpy bool": "bool_", "numpy int": "int64", "numpy": "float64", "numpy array": "ndarray"}
_KINDS = ["bool", "int", "numpy int", "float", "numpy"]
_NO_NUMBERS = (str, bytes, type(None), tuple, list, dict, set, frozenset)
INTS = ("int", "numpy int")


class Sym:
    """A number inside a traced function: ``node`` computes it, ``kind`` is whose rules it follows.

    Truth values decide the path. What a program cannot compute ends the trace.
    """

    __slots__ = ("kind", "node")
    __array_ufunc__ = None  # numpy's scalars leave operators to this class

    def __init__(self, node: Node, kind: str) -> None:
        self.node, self.kind = node, kind

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # so that isinstance() sees a number
        return _CLASSES.get(self.kind) or getattr(sys.modules["numpy"], _NUMPYS[self.kind])

    def __bool__(self) -> bool:
        return current().decide(self.node)

    def __hash__(self) -> int:
        return hash(concrete(self))  # for a dict or set of the function's own

    def __index__(self) -> int:
        if self.kind not in ("int", "bool"):
            raise current().stop(f"it uses a {self.kind} that depends on the step as an index")
        return concrete(self)

    def _refuse(self) -> Any:
        raise current().stop("a C function needs the value of a number that depends on the step")

    __float__ = __int__ = __complex__ = _refuse

    def _show(self, *specification: Any) -> str:
        return current().placeholder("a number that depends on the step")

    __str__ = __repr__ = __format__ = _show

    def __getattr__(self, name: str) -> Any:
        if name == "is_integer" and self.kind in ("float", "numpy"):
            return lambda: apply("and", "bool", apply("lt", "bool", abs(self), math.inf), is_whole(self))
        raise current().stop(f"it uses .{name} of a number that depends on the step")

    def __neg__(self) -> Sym:
        return positive_zero(apply("neg", number_kind(self), self))

    def __pos__(self) -> Sym:
        return Sym(self.node, number_kind(self))

    def __invert__(self) -> Sym:
        if self.kind == "numpy bool":
            return apply("not", "numpy bool", self)
        if self.kind not in ("bool", "int"):
            raise current().stop("the bit operation ~ of a float")
        return sub(-self, Sym(current().explorer.graph.const(1.0), "int"))

    def __abs__(self) -> Sym:
        return apply("abs", number_kind(self), self)

    def __round__(self, digits: int | None = None) -> Sym:
        if digits is not None and (self.kind not in ("int", "bool") or digits < 0):
            raise current().stop("round() to decimal digits has no exact counterpart in binary arithmetic")
        return to_integer(self, "round")


for _op in ("trunc", "floor", "ceil"):
    setattr(Sym, f"__{_op}__", lambda self, op=_op: to_integer(self, op))


def is_numpy_float(kind: type) -> bool:
    """Whether it is numpy's float64."""
    return kind is getattr(sys.modules.get("numpy"), "float64", None)


def lift(value: Any) -> Sym | None:
    """A number as a symbolic one; None for what is no number."""
    kind = type(value)
    if kind is Sym:
        return value  # type: ignore[no-any-return]
    if kind in (bool, int, float):
        if kind is int and abs(value) > EXACT and (abs(value) > 2**1023 or int(float(value)) != value):
            raise current().stop(f"{value} is an int that float64 cannot hold")
        return Sym(current().explorer.graph.const(float(value)), kind.__name__)
    if is_numpy_float(kind):
        return Sym(current().explorer.graph.const(float(value)), "numpy")
    if kind.__module__.startswith("fused_sched.") or issubclass(kind, _NO_NUMBERS) or callable(value):
        return None
    raise current().stop(f"it computes with a {kind.__name__}")


def number_kind(*values: Sym) -> str:
    """The kind of a sum of such values."""
    kinds = [v.kind.replace(" array", "") for v in values]
    if "numpy bool" in kinds:
        raise current().stop("it computes with numpy's truth values, which have rules of their own")
    kind = max(kinds, key=_KINDS.index)
    if kind == "float" and "numpy int" in kinds:
        return "numpy"
    return "int" if kind == "bool" else kind


def apply(op: str, kind: str, *operands: Any, value: Any = None) -> Sym:
    """The result of an operation of the program on symbolic operands, nodes and numbers."""
    path = current()
    path.event()
    const = path.explorer.graph.const
    nodes = [x.node if type(x) is Sym else x if type(x) is Node else const(x) for x in operands]
    made = Sym(path.explorer.graph.apply(op, *nodes, value=value), kind)
    if kind in INTS:
        _check_exact(path, made.node)
    return made


def _check_exact(path: Path, node: Node) -> None:
    """An int is computed exactly as far as float64 holds all whole numbers."""
    low, high, _ = path.ranges.bounds(node)
    if low >= -EXACT and high <= EXACT:
        return
    for horizon in (2**31 + 1, 10**7):
        low, high, _ = path.nearer(horizon).bounds(node)
        if low >= -EXACT and high <= EXACT:
            path.explorer.horizon = min(path.explorer.horizon, horizon)
            return
    raise path.stop(NOT_EXACT)


def bounds(x: Sym) -> Interval:
    return current().ranges.bounds(x.node)


def may_be(x: Sym, value: float) -> bool:
    """Whether bounds allow ``value``."""
    return bounds(x).has(value)


def is_(op: str, a: Any, b: Any) -> bool:
    """Decide a comparison."""
    return bool(apply(op, "bool", a, b))


def is_whole(x: Sym) -> Sym:
    """Whether a finite number has no fraction."""
    return apply("eq", "bool", x, whole("floor", x))


def compare(op: str, a: Sym, b: Sym) -> Sym:
    """A comparison by Python's operators: numpy's have truth values of their own."""
    return apply(op, "numpy bool" if "numpy" in a.kind + b.kind else "bool", a, b)


def positive_zero(x: Sym) -> Sym:
    """An int has no -0."""
    return apply("add", x.kind, x, 0.0) if x.kind in INTS and may_be(x, 0.0) else x


def whole(op: str, x: Sym) -> Sym:
    """``x`` rounded to a whole number, where all evaluators give the same one."""
    refuse_jump(x)
    return apply(op, number_kind(x), x)


def refuse_jump(x: Sym) -> None:
    """End the trace where an operation jumps at values that evaluators have up to their last places only."""
    if x.node.inexact:
        raise current().stop(
            f"it makes a whole number of what {x.node.inexact} gave, whose last place is not the same on every device"
        )


def to_integer(x: Sym, op: str) -> Sym:
    """floor, ceil, trunc or round to an int, with the errors of int()."""
    if x.kind in ("bool", *INTS):
        return Sym(x.node, "int")
    if bounds(x).nan and is_("ne", x, x):
        raise ValueError("cannot convert float NaN to integer")
    if (may_be(x, math.inf) or may_be(x, -math.inf)) and is_("eq", abs(x), math.inf):
        raise OverflowError("cannot convert float infinity to integer")
    made = Sym(whole(op, x).node, "int")
    _check_exact(current(), made.node)
    return positive_zero(made)


def concrete(x: Sym) -> int:
    """The value itself, by a path for each that is possible."""
    low, high, nan = bounds(x)
    if nan or high - low >= MAX_CONCRETE or not x.node.whole:
        raise current().stop(f"it needs the value itself of a number with more than {MAX_CONCRETE} possible values")
    least, most = math.ceil(low), math.floor(high)
    while least < most:
        middle = (least + most) // 2
        if is_("le", x, float(middle)):
            most = middle
        else:
            least = middle + 1
    return least


# -- operators ---------------------------------------------------------------------------------------------


def add(a: Sym, b: Sym) -> Sym:
    return apply("add", number_kind(a, b), a, b)


def sub(a: Sym, b: Sym) -> Sym:
    return apply("sub", number_kind(a, b), a, b)


def mul(a: Sym, b: Sym) -> Sym:
    return positive_zero(apply("mul", number_kind(a, b), a, b))


def truediv(a: Sym, b: Sym) -> Sym:
    kind = _divided(a, b, "division by zero")
    return apply("div", "numpy" if kind.startswith("numpy") else "float", a, b)


def floordiv(a: Sym, b: Sym) -> Sym:
    return _by_periods("floordiv", a, b, "integer division or modulo by zero")


def mod(a: Sym, b: Sym) -> Sym:
    return _by_periods("mod", a, b, "integer modulo by zero")


def divmod(a: Sym, b: Sym) -> tuple[Sym, Sym]:
    return floordiv(a, b), mod(a, b)


def _by_periods(op: str, a: Sym, b: Sym, message: str) -> Sym:
    kind = _divided(a, b, message)
    if kind == "numpy int":
        raise current().stop("it divides numpy's ints, which have rules of their own")
    refuse_jump(a)
    refuse_jump(b)
    return positive_zero(apply(op, kind, a, b))


def _divided(a: Sym, b: Sym, message: str) -> str:
    """The kind, after Python's ZeroDivisionError; numpy has none."""
    kind = number_kind(a, b)
    if not kind.startswith("numpy") and may_be(b, 0.0) and is_("eq", b, 0.0):
        raise ZeroDivisionError(message)
    return kind


def pow(a: Sym, b: Sym) -> Sym:
    kind = number_kind(a, b)
    if kind == "numpy int":
        raise current().stop("it takes a power of numpy's ints, which overflow")
    if kind != "int" or is_("lt", b, 0.0):
        return checked_pow(a, b, "float" if kind == "int" else kind)
    # multiplied out or looked up, since the last place of a library's power need not be exact
    const = current().explorer.graph.const
    if b.node.is_const and b.node.value <= MOST_MULTIPLICATIONS:
        power = Sym(const(1.0), "int")
        for _ in range(int(b.node.value)):
            power = mul(power, a)
        return power
    base, most = (a.node.value if a.node.is_const else math.nan), bounds(b).high
    if abs(base) <= 1.0:  # 0, 1 or -1
        b, most = (mod(b, Sym(const(2.0), "int")) if base else apply("min", "int", b, 1.0)), 1.0
    if not abs(base) ** min(most, 64.0) <= EXACT:
        raise current().stop(NOT_EXACT)
    return apply("lookup", "int", b, value=tuple(float(int(base) ** e) for e in range(int(most) + 1)))


def checked_pow(a: Sym, b: Sym, kind: str) -> Sym:
    """A float power, with Python's errors unless it is numpy's."""
    if kind == "numpy":
        return apply("pow", kind, a, b)
    if may_be(a, 0.0) and bounds(b).low < 0 and is_("lt", b, 0.0) and is_("eq", a, 0.0) and is_("ne", b, -math.inf):
        raise ZeroDivisionError("0.0 cannot be raised to a negative power")
    known_whole = b.node.whole or (b.node.is_const and not math.isfinite(b.node.value))
    if bounds(a).low < 0 and not known_whole and is_("lt", a, 0.0) and not bool(is_whole(b)):
        raise current().stop("a negative number to a fractional power is complex")
    made = apply("pow", kind, a, b)
    refuse_overflow(made, a, b)
    return made


def refuse_overflow(made: Sym, *operands: Sym) -> None:
    """Python's OverflowError where finite operands give an infinity."""
    if not (may_be(made, math.inf) or may_be(made, -math.inf)):
        return
    if is_("eq", abs(made), math.inf) and not any(is_("eq", abs(x), math.inf) for x in operands):
        raise OverflowError(34, "Numerical result out of range")


def _bits(op: str, a: Sym, b: Sym) -> Sym:
    """Bit operations of truth values, and of ints those that are arithmetic."""
    if {a.kind, b.kind} <= {"bool", "numpy bool"} and op in _OF_TRUTHS:
        return apply(_OF_TRUTHS[op], "bool" if a.kind == b.kind == "bool" else "numpy bool", a, b)
    n = int(b.node.value) if b.node.is_const and number_kind(a, b) == "int" else -1
    if op == "and" and n >= 0 and (n + 1) & n == 0:
        return mod(a, Sym(current().explorer.graph.const(n + 1.0), "int"))
    if op in ("lshift", "rshift") and 0 <= n <= 52:
        return (mul if op == "lshift" else floordiv)(a, Sym(current().explorer.graph.const(2.0**n), "int"))
    raise current().stop(f"the bit operation {op!r} of a number that depends on the step")


_OF_TRUTHS = {"and": "and", "or": "or", "xor": "ne"}


def _install(name: str, rule: Callable[[Sym, Sym], Any]) -> None:
    def left(self: Any, other: Any, *rest: Any) -> Any:
        second = lift(other)
        if rest and rest != (None,):
            raise current().stop("pow() with three arguments")
        return NotImplemented if second is None else rule(self, second)

    def right(self: Any, other: Any) -> Any:
        first = lift(other)
        return NotImplemented if first is None else rule(first, self)

    setattr(Sym, f"__{name}__", left)
    setattr(Sym, f"__r{name}__", right)


for _rule in (add, sub, mul, truediv, floordiv, mod, divmod, pow):
    _install(_rule.__name__, _rule)
for _op in ("and", "or", "xor", "lshift", "rshift"):
    _install(_op, functools.partial(_bits, _op))
for _op in ("lt", "le", "eq", "ne"):
    _install(_op, functools.partial(compare, _op))
for _op, _swapped in (("gt", "rlt"), ("ge", "rle")):
    setattr(Sym, f"__{_op}__", getattr(Sym, f"__{_swapped}__"))
