"""Symbolic numbers: Python's int, float and bool, and numpy's float64, whose value depends on the step."""

from __future__ import annotations

import math
from typing import Any

from .explore import EXACT, MAX_CONCRETE, Path, current
from .expression import Node

_CLASSES = {"bool": bool, "int": int, "float": float, "numpy": float}
_RANK = {"bool": 0, "int": 1, "float": 2, "numpy": 3}


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
        return _CLASSES[self.kind]

    def __bool__(self) -> bool:
        return current().decide(self.node)

    def __hash__(self) -> int:
        return _hash(self)

    def __index__(self) -> int:
        if self.kind not in ("int", "bool"):
            raise TypeError("'float' object cannot be interpreted as an integer")
        return concrete(self)

    def _refuse(self) -> Any:
        raise current().stop("a C function needs the value of a number that depends on the step")

    __float__ = __int__ = __complex__ = _refuse

    def _show(self, *specification: Any) -> str:
        path = current()
        path.text = path.text or path.located("it makes text of a number that depends on the step")
        return "<a number that depends on the step>"

    __str__ = __repr__ = __format__ = _show

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(self.__class__, name):
            raise AttributeError(f"{self.__class__.__name__!r} object has no attribute {name!r}")
        if name in ("real", "numerator"):
            return self
        if name == "is_integer":
            return lambda: apply("eq", "bool", self, apply("floor", "float", self))
        if name in ("conjugate", "__pos__"):
            return lambda: self
        raise current().stop(f"it uses .{name} of a number that depends on the step")

    def __neg__(self) -> Sym:
        return positive_zero(apply("neg", number_kind(self), self))

    def __pos__(self) -> Sym:
        return Sym(self.node, number_kind(self))

    def __abs__(self) -> Sym:
        return apply("abs", number_kind(self), self)

    def __invert__(self) -> Sym:
        return apply("sub", "int", -self, 1.0)

    def __round__(self, digits: int | None = None) -> Sym:
        if self.kind in ("int", "bool") and (digits is None or digits >= 0):
            return +self
        if digits is not None:
            raise current().stop("round() to decimal digits has no exact counterpart in binary arithmetic")
        return to_integer(self, "round")

    def __trunc__(self) -> Sym:
        return to_integer(self, "trunc")

    def __floor__(self) -> Sym:
        return to_integer(self, "floor")

    def __ceil__(self) -> Sym:
        return to_integer(self, "ceil")


def lift(value: Any) -> Sym | None:
    """A number as a symbolic one; None for what is no number."""
    if type(value) is Sym:
        return value
    graph = current().explorer.graph
    kind = type(value)
    if kind in (bool, int, float):
        if kind is int and not (-EXACT <= value <= EXACT) and (abs(value) > 2**1023 or int(float(value)) != value):
            raise current().stop(f"{value} is an int that float64 cannot hold")
        return Sym(graph.const(float(value)), kind.__name__)
    module = kind.__module__
    if module == "numpy" and kind.__name__ == "float64":
        return Sym(graph.const(float(value)), "numpy")
    if module == "numpy" and hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
        if value.dtype.kind in "iub":
            return lift(value.item())
        raise current().stop(f"it computes with numpy's {value.dtype}, which rounds otherwise than float64")
    if isinstance(value, (complex,)):
        raise current().stop("it computes with a complex number")
    if module.startswith("torch") and hasattr(value, "dtype"):
        raise current().stop("it computes with a tensor")
    if isinstance(value, int):
        return lift(int(value))
    if isinstance(value, float):
        return lift(float(value))
    return None


def number_kind(*values: Sym) -> str:
    """The kind of a sum of such values."""
    kind = max((v.kind for v in values), key=_RANK.__getitem__)
    return "int" if kind == "bool" else kind


def apply(op: str, kind: str, *operands: Any, value: Any = None) -> Sym:
    """The result of an operation of the program on symbolic operands and numbers."""
    path = current()
    path.event()
    nodes = [x.node if type(x) is Sym else path.explorer.graph.const(x) for x in operands]
    made = Sym(path.explorer.graph.apply(op, *nodes, value=value), kind)
    if kind == "int":
        check_exact(path, made.node)
    return made


def check_exact(path: Path, node: Node) -> None:
    """An int is computed exactly as far as float64 holds all whole numbers."""
    low, high, _ = path.ranges.bounds(node)
    if low >= -EXACT and high <= EXACT:
        return
    explorer = path.explorer
    for horizon in (2**31 + 1, 10**7):
        nearer = path.nearer(horizon)
        low, high, _ = nearer.bounds(node)
        if low >= -EXACT and high <= EXACT:
            explorer.horizon = min(explorer.horizon, horizon)
            return
    raise path.stop("an int may exceed 2**53, the last that float64 holds exactly: compute with floats")


def bounds(x: Sym) -> tuple[float, float, bool]:
    return current().ranges.bounds(x.node)


def positive_zero(x: Sym) -> Sym:
    """An int has no -0."""
    low, high, _ = bounds(x)
    return apply("add", "int", x, 0.0) if x.kind == "int" and low <= 0 <= high else x


def is_(op: str, a: Any, b: Any) -> bool:
    """Decide a comparison."""
    return bool(apply(op, "bool", a, b))


def to_integer(x: Sym, op: str) -> Sym:
    """floor, ceil, trunc or round to an int, with the errors of int()."""
    if x.kind in ("int", "bool"):
        return +x
    low, high, nan = bounds(x)
    if nan and is_("ne", x, x):
        raise ValueError("cannot convert float NaN to integer")
    if (low == -math.inf or high == math.inf) and is_("eq", abs(x), math.inf):
        raise OverflowError("cannot convert float infinity to integer")
    return positive_zero(apply(op, "int", x))


def concrete(x: Sym) -> int:
    """The value itself, by a path for each that is possible."""
    low, high, nan = bounds(x)
    if nan or high - low >= MAX_CONCRETE:
        raise current().stop(f"it needs the value itself of a number with more than {MAX_CONCRETE} possible values")
    least, most = math.ceil(low), math.floor(high)
    while least < most:
        middle = (least + most) // 2
        if is_("le", x, float(middle)):
            most = middle
        else:
            least = middle + 1
    return least


def _hash(x: Sym) -> int:
    """For a dict or set made by the function itself: decide against each number it may hold."""
    low, high, nan = bounds(x)
    candidates = sorted(c for c in current().explorer.constants if low <= c <= high)
    if nan or len(candidates) > MAX_CONCRETE:
        raise current().stop("it looks a number that depends on the step up among too many keys")
    for candidate in candidates:
        if is_("eq", x, candidate):
            return hash(candidate)
    return 0x5EED_5EED_5EED  # equal to none
