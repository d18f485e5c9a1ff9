"""Python's operators on symbolic numbers: their kinds, errors and signed zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .explore import current
from .symbol import Sym, apply, bounds, is_, lift, number_kind, positive_zero

MOST_MULTIPLICATIONS = 16  # of a whole power; they are exact, where a library's power need not be


def add(a: Sym, b: Sym) -> Sym:
    return apply("add", number_kind(a, b), a, b)


def sub(a: Sym, b: Sym) -> Sym:
    return apply("sub", number_kind(a, b), a, b)


def mul(a: Sym, b: Sym) -> Sym:
    made = apply("mul", number_kind(a, b), a, b)
    return made if bounds(a)[0] >= 0 and bounds(b)[0] >= 0 else positive_zero(made)


def refuse_zero(a: Sym, b: Sym, message: str) -> None:
    """Python's ZeroDivisionError; numpy has none."""
    if number_kind(a, b) != "numpy" and bounds(b)[0] <= 0 <= bounds(b)[1] and is_("eq", b, 0.0):
        raise ZeroDivisionError(message)


def truediv(a: Sym, b: Sym) -> Sym:
    refuse_zero(a, b, "division by zero")
    kind = number_kind(a, b)
    return apply("div", "float" if kind == "int" else kind, a, b)


def floordiv(a: Sym, b: Sym) -> Sym:
    refuse_zero(a, b, "integer division or modulo by zero")
    made = apply("floordiv", number_kind(a, b), a, b)
    return made if bounds(a)[0] >= 0 and bounds(b)[0] > 0 else positive_zero(made)


def mod(a: Sym, b: Sym) -> Sym:
    refuse_zero(a, b, "integer modulo by zero")
    made = apply("mod", number_kind(a, b), a, b)
    return made if bounds(b)[0] > 0 else positive_zero(made)


def divmod(a: Sym, b: Sym) -> tuple[Sym, Sym]:
    return floordiv(a, b), mod(a, b)


def pow(a: Sym, b: Sym) -> Sym:
    kind = number_kind(a, b)
    if kind == "int":
        if is_("lt", b, 0.0):
            kind = "float"
        else:
            return _whole_power(a, b)
    return checked_pow(a, b, kind)


def _whole_power(a: Sym, b: Sym) -> Sym:
    if b.node.is_const and b.node.value <= MOST_MULTIPLICATIONS:
        power: Any = +a if b.node.value else Sym(current().explorer.graph.const(1.0), "int")
        for _ in range(int(b.node.value) - 1):
            power = mul(power, a)
        return power  # type: ignore[no-any-return]
    return apply("pow", "int", a, b)


def checked_pow(a: Sym, b: Sym, kind: str, library: str | None = None) -> Sym:
    """A float power, with Python's errors unless it is numpy's."""
    if kind == "numpy":
        return apply("pow", kind, a, b, value=library)
    low, high, _ = bounds(a)
    if low <= 0 <= high and bounds(b)[0] < 0 and is_("lt", b, 0.0) and is_("eq", a, 0.0):
        raise ZeroDivisionError("0.0 cannot be raised to a negative power")
    whole = b.node.whole or (b.node.is_const and not math.isfinite(b.node.value))
    if low < 0 and not whole and is_("lt", a, 0.0) and is_("ne", b, apply("floor", "float", b)):
        raise current().stop("a negative number to a fractional power is complex")
    made = apply("pow", kind, a, b)
    refuse_overflow(made, a, b)
    return made


def refuse_overflow(made: Sym, *operands: Sym) -> None:
    """Python's OverflowError where finite operands give an infinity."""
    low, high, _ = bounds(made)
    if low > -math.inf and high < math.inf:
        return
    if is_("eq", abs(made), math.inf) and not any(is_("eq", abs(x), math.inf) for x in operands):
        raise OverflowError(34, "Numerical result out of range")


def and_(a: Sym, b: Sym) -> Any:
    if a.kind == b.kind == "bool":
        return apply("and", "bool", a, b)
    if b.node.is_const and b.node.value >= 0 and (int(b.node.value) + 1) & int(b.node.value) == 0:
        _integers(a, b)
        return mod(a, Sym(current().explorer.graph.const(b.node.value + 1), "int"))
    return _bitwise("&")


def or_(a: Sym, b: Sym) -> Any:
    return apply("or", "bool", a, b) if a.kind == b.kind == "bool" else _bitwise("|")


def xor(a: Sym, b: Sym) -> Any:
    return apply("ne", "bool", a, b) if a.kind == b.kind == "bool" else _bitwise("^")


def lshift(a: Sym, b: Sym) -> Any:
    return mul(a, _power_of_two(a, b, "<<"))


def rshift(a: Sym, b: Sym) -> Any:
    return floordiv(a, _power_of_two(a, b, ">>"))


def _power_of_two(a: Sym, b: Sym, name: str) -> Any:
    _integers(a, b)
    if not b.node.is_const or not 0 <= b.node.value <= 52:
        return _bitwise(name)
    return Sym(current().explorer.graph.const(2.0**b.node.value), "int")


def _integers(a: Sym, b: Sym) -> None:
    if number_kind(a, b) != "int":
        raise TypeError("unsupported operand type(s): float")


def _bitwise(name: str) -> Any:
    raise current().stop(f"the bit operation {name} of a number that depends on the step")


def _operators(op: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    rule = globals()[op]

    def left(self: Any, other: Any, *rest: Any) -> Any:
        second = lift(other)
        return NotImplemented if second is None else rule(self, second)

    def right(self: Any, other: Any, *rest: Any) -> Any:
        first = lift(other)
        return NotImplemented if first is None else rule(first, self)

    return left, right


def _install() -> None:
    names = (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "divmod",
        "pow",
        "and_",
        "or_",
        "xor",
        "lshift",
        "rshift",
    )
    for name in names:
        left, right = _operators(name)
        setattr(Sym, f"__{name.rstrip('_')}__", left)
        setattr(Sym, f"__r{name.rstrip('_')}__", right)
    for name, op, swap in (("lt", "lt", False), ("le", "le", False), ("gt", "lt", True), ("ge", "le", True)):
        setattr(Sym, f"__{name}__", _comparison(op, swap))
    Sym.__eq__ = _comparison("eq", False)  # type: ignore[method-assign]
    Sym.__ne__ = _comparison("ne", False)  # type: ignore[method-assign]


def _comparison(op: str, swap: bool) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        second = lift(other)
        if second is None:
            return NotImplemented
        return apply(op, "bool", second, self) if swap else apply(op, "bool", self, second)

    return compare


_install()
