"""What a program gives on a path that the comparison of the trace does not visit is right too, or nothing is traced."""

from __future__ import annotations

import bisect
import decimal
import enum
import fractions
import functools
import itertools
import math
import numbers
import operator
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from schedule_twins import same_bits
from test_grammar import Evaluators, outcome

from fused_sched.trace import Untraceable, trace

HERE = Path(__file__).parent
EXPRESSIONS = (HERE / "rare_expressions.txt").read_text().splitlines()
STATEMENTS = (HERE / "rare_statements.txt").read_text().split("---\n")
PERIOD = 1_000_003
STEPS = [5 * pow(7, -1, PERIOD) % PERIOD + k * PERIOD for k in (0, 1, 2, 3, 50, 1501)]
MODULES: dict[str, Any] = {
    m.__name__: m for m in (bisect, decimal, enum, fractions, functools, itertools, math, numbers, operator)
}


class Five(enum.IntEnum):
    five = 5


class Whole(int):
    """An int of a class of its own."""


class Text(str):
    """A text of a class of its own."""


class Pair(NamedTuple):
    """A tuple of a class of its own."""

    a: int
    b: int


class Config:
    """What a function reads by attribute."""

    rate, scale = 0.5, np.float64(0.25)
    many: tuple[float, ...] = (1.0, 2.0)

    def __init__(self) -> None:
        self.nested = {"a": 1.5}

    def double(self, x: float) -> float:
        return 2 * x

    @property
    def prop(self) -> float:
        return 2.0


def _function(body: str) -> Any:
    source = f"def f(step):\n    if (step * 7) % {PERIOD} != 5:\n        return 0.5\n{textwrap.indent(body, '    ')}\n"
    outside: dict[str, Any] = {
        **MODULES, "np": np, "Decimal": decimal.Decimal, "MIL": [10, 100, 1000], "MIXED": [0, 1.0, 2],
        "KINDS": [2, 0.5, True],
        "MIXEDDICT": {0: 0, 1: 1.0}, "FLAGS": [True, 0.5, 0], "NESTED": [[1, 2], (3, 4)], "WORDS": ["a", "b"],
        "FN": [np.float64(5.0)], "NPKEYS": {np.float64(5.0): 1.0, 9: 2.0}, "NPSET": {np.float64(5.0), 9},
        "NPINTS": [np.int64(5)], "NPINTLIST": [np.int64(5), 7], "I5": np.int64(5), "F32": np.float32(5),
        "D5": decimal.Decimal(5), "FR5": fractions.Fraction(5), "C5": 5 + 0j, "TRUE": np.bool_(True), "E5": Five.five,
        "INTSUB": Whole(5), "STRSUB": Text("a"), "TUPSUB": Pair(1, 2),
        "LISTSUB": [1.0, 2.0], "NAN": math.nan, "CFG": Config(), "Cfg": Config, "HOLDER": {},
    }  # fmt: skip
    exec(source, outside)  # noqa: S102 - from the lists beside this file
    return outside["f"]


def _wrong(body: str) -> str:
    """What is wrong at some step; "" if nothing is, or it is not traced."""
    function = _function(body)
    try:
        traced = trace(function)
    except Untraceable:
        return ""
    evaluate = Evaluators(traced)
    for step in STEPS:
        expected = outcome(function, step) if step <= traced.outcome.horizon else None
        found = evaluate(step)["host"]
        right = found is expected if found is None or expected is None else same_bits(found, expected)
        if not right:
            return f"{body} is {found!r} at step {step}, not {expected!r}"
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "bodies", [[f"return {e}" for e in EXPRESSIONS], STATEMENTS], ids=["expressions", "statements"]
)
def test_rare_paths(bodies: list[str]) -> None:
    wrong = [*filter(None, map(_wrong, bodies))]
    assert not wrong, "\n".join(wrong)
