# ruff: noqa: E501  # programs of one line
# fmt: off
"""Functions that use an object as a number, a truth or an index, which runs a method of its own."""

from __future__ import annotations

import math
import operator
import types
from typing import Any

import numpy as np

from hostile.registry import TABLE, Subject, hostile, module, setting


def _conversion(name: str, method: str, use: str, value: Any) -> None:
    """An object with one special method, which notes that it was called."""

    def make() -> Subject:
        box = types.SimpleNamespace(calls=0, value=value)

        def special(self: Any, *arguments: Any) -> Any:
            box.calls += 1
            return box.value

        kind = type("Special", (), {method: special})
        made = module(f"def f(step): return {use}", X=kind(), math=math, np=np, operator=operator)
        later_value = {bool: lambda: False, float: lambda: 0.125, int: lambda: 1, str: lambda: "abc"}[type(value)]()
        return Subject(made.f, [setting(box, "value", later_value)], lambda: box.calls)

    make.__name__ = f"special_{name}"
    hostile(TABLE)(make)


for _arguments in (
    ("float", "__float__", "float(X)", 0.25), ("math", "__float__", "math.sqrt(X)", 0.25),
    ("isclose", "__float__", "math.isclose(X, 0.25) + 0.5", 0.25), ("numpy", "__float__", "np.float64(X)", 0.25),
    ("index", "__index__", "[0.1, 0.2, 0.3][X]", 2), ("index_of_range", "__index__", "len(range(X)) / 7", 2),
    ("index_of_operator", "__index__", "operator.index(X) / 7", 2), ("gcd", "__index__", "math.gcd(X, 4) / 7", 2),
    ("int", "__int__", "int(X) / 7", 2), ("bool", "__bool__", "0.5 if X else 0.25", True),
    ("not", "__bool__", "0.5 if not X else 0.25", True), ("truth", "__bool__", "operator.truth(X) / 2", True),
    ("and", "__bool__", "(X and 0.5) or 0.25", True), ("len", "__len__", "len(X) / 7", 2),
    ("length_as_truth", "__len__", "0.5 if X else 0.25", 2), ("contains", "__contains__", "(step in X) / 2", True),
    ("mul", "__mul__", "X * step", 0.5), ("rmul", "__rmul__", "step * X", 0.5), ("add", "__add__", "X + 1", 0.5),
    ("radd", "__radd__", "1 + X", 0.5), ("rlshift", "__rlshift__", "(1 << X) / 7", 2),
    ("rrshift", "__rrshift__", "(1 >> X) / 7", 2), ("rpow", "__rpow__", "2.0 ** X", 0.5), ("neg", "__neg__", "-X", 0.5),
    ("abs", "__abs__", "abs(X)", 0.5), ("round", "__round__", "round(X) / 7", 2), ("floor", "__floor__", "math.floor(X) / 7", 2),
    ("eq", "__eq__", "(X == 3) / 2", True), ("ne", "__ne__", "(X != 3) / 2", True), ("lt", "__lt__", "(X < step) / 2", True),
    ("eq_in_a_list", "__eq__", "(3 in [X]) / 2", True), ("getitem", "__getitem__", "X[step]", 0.5),
    ("str", "__str__", "len(str(X)) / 7", "ab"), ("repr", "__repr__", "len(repr(X)) / 7", "ab"),
    ("format", "__format__", "len(f'{X}') / 7", "ab"), ("format_percent", "__str__", "len('%s' % X) / 7", "ab"),
    ("format_percent_d", "__int__", "len('%d' % X) / 7", 12), ("hash", "__hash__", "hash(X) / 7", 2),
    ("hash_in_a_dict", "__hash__", "len({X: 1}) / 2", 2), ("matmul", "__matmul__", "X @ 1", 0.5),
    ("divmod", "__rdivmod__", "divmod(1, X)", 0.5),
):  # fmt: skip
    _conversion(*_arguments)  # type: ignore[arg-type]


def _swallowed(name: str, use: str, method: str, value: Any) -> None:
    """As :func:`_conversion`, where a wrong TypeError would be swallowed."""

    def make() -> Subject:
        kind = type("Special", (), {method: lambda self, *arguments: value})
        source = f"def f(step):\n try: return {use}\n except (TypeError, AttributeError): return 0.375"
        return Subject(module(source, X=kind(), math=math, np=np).f)

    make.__name__ = f"swallowed_{name}"
    hostile()(make)


for _arguments in (
    ("rlshift", "5 << X", "__rlshift__", 0.5), ("rrshift", "5 >> X", "__rrshift__", 0.5),
    ("rmatmul", "5 @ X", "__rmatmul__", 0.5), ("rdivmod", "divmod(5, X)[0]", "__rdivmod__", (0.5, 1)),
    ("instancecheck", "isinstance(5, X) / 2", "__instancecheck__", True), ("length_hint", "len(list(X)) / 7", "__iter__", None),
    ("numpy_exp", "np.exp(X)", "exp", 0.5), ("keys", "len({**X}) + 0.5", "keys", ()), ("step_lshift", "step << X", "__rlshift__", 0.5),
    ("step_matmul", "step @ X", "__rmatmul__", 0.5),
):  # fmt: skip
    _swallowed(*_arguments)  # type: ignore[arg-type]
