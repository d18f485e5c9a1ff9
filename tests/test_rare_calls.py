"""Every function that a traced function may call, with arguments at random, right and wrong, on a rare path.

The comparison of the trace runs what stands in for Python's functions, and does not come to that path: so what a
stand-in takes and Python's function refuses, or takes otherwise, shows here alone.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import operator
import random
from typing import Any

import numpy as np
import pytest
from schedule_twins import same_bits
from test_grammar import Evaluators, outcome
from test_rare_paths import PERIOD, STEPS

from fused_sched.trace import Untraceable, trace
from fused_sched.trace.mathematics import CALLS, quiet_numpy

CALLS_OF_EACH = 60
OUTSIDE = """
def score(x):
    if x is None:
        return 0.25
    if isinstance(x, bool):
        return 0.125 + 0.5 * x
    if isinstance(x, int):
        return 0.0625 + x
    if isinstance(x, float):
        return x
    if isinstance(x, str):
        return 3.0 + len(x)
    total = 0.5
    for y in x.items() if isinstance(x, dict) else list(x)[:9]:
        total = 1.25 * total + score(y)
    return total


def double(x):
    return 2 * x


def add(x, y):
    return x + y
"""
MODULES: dict[str, Any] = {m.__name__: m for m in (bisect, functools, itertools, math, operator)}
ARGUMENTS = (
    *(
        "step",
        "step",
        "step * 0.5",
        "step * 0.5",
        "step % 3",
        "-step * 1.0",
        "step > 5",
        "2",
        "2.0",
        "0",
        "-1",
        "1e308",
    ),
    *("None", "True", "'a'", "[step, 1.0]", "(2, 3.0)", "{1: 2.0}", "{1, 2}", "[1.0, 2.0, 4.0]", "range(3)", "LIST"),
    *(
        "(y for y in (1, step))",
        "DICT",
        "SET",
        "abs",
        "int",
        "double",
        "add",
        "float('nan')",
        "float('inf')",
        "zip((1, 2))",
    ),
    *("-0.0", "step - step", "0.0 * -step", "[[step], [2]]", "'-4.5'", "'11'", "b'7'", "10**400", "TEXT", "slice(1)"),
)
NAMES = (
    *(
        "x",
        "a",
        "b",
        "y",
        "i",
        "key",
        "default",
        "start",
        "base",
        "value",
        "values",
        "iterable",
        "object",
        "reverse",
        "self",
    ),
    *(
        "strict",
        "function",
        "func",
        "initial",
        "ndigits",
        "number",
        "sequence",
        "classes",
        "out",
        "a_min",
        "a_max",
        "rule",
    ),
    *(
        "min",
        "max",
        "condition",
        "mod",
        "exp",
        "lo",
        "hi",
        "op",
        "items",
        "real",
        "arguments",
        "named",
        "obj",
        "step",
        "stop",
    ),
)
METHODS = (
    *("LIST.index", "LIST.count", "LIST.copy", "DICT.get", "DICT.items", "DICT.keys", "DICT.values", "DICT.copy"),
    *(
        "TUPLE.index",
        "TUPLE.count",
        "COUNTS.get",
        "COUNTS.elements",
        "LIST.append",
        "DICT.pop",
        "SET.union",
        "TEXT.count",
    ),
)


def _callables() -> list[str]:
    with quiet_numpy():
        found = set[str]()
        for real in CALLS:
            name, module = getattr(real, "__name__", ""), getattr(real, "__module__", None)
            home = "np" if isinstance(real, np.ufunc) or module == "numpy" else (module or "builtins").lstrip("_")
            if home in ("np", "builtins", *MODULES) and name.isidentifier():
                found.add(name if home == "builtins" else f"{home}.{name}")
        return sorted(found)


def _call(name: str, rng: random.Random) -> str:
    given = [rng.choice(ARGUMENTS) for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 2, 2, 3, 4)))]
    named = rng.sample(NAMES, rng.choice((0, 0, 0, 1, 1, 2) if given else (1, 1, 1, 2)))
    return f"{name}({', '.join([*given, *(f'{n}={rng.choice(ARGUMENTS)}' for n in named)])})"


def _function(call: str) -> Any:
    source = (
        f"{OUTSIDE}\ndef f(step):\n    if (step * 7) % {PERIOD} != 5:\n        return 0.5\n    return score({call})\n"
    )
    outside: dict[str, Any] = {
        **MODULES, "np": np, "LIST": [1, 2.0, 5], "TUPLE": (5, 2, 5.0), "DICT": {0: 0.5, 1: 2.0, "a": 3}, "SET": {1, 5},
        "TEXT": "text", "COUNTS": __import__("collections").Counter([5, 5, 10]),
    }  # fmt: skip
    exec(source, outside)  # noqa: S102 - from the lists above
    return outside["f"]


def _wrong(call: str) -> str:
    """What is wrong at some step; "" if nothing is, or it is not traced."""
    function = _function(call)
    try:
        traced = trace(function)
    except Untraceable:
        return ""
    evaluate = Evaluators(traced)
    for step in STEPS:
        expected = outcome(function, step) if step <= traced.outcome.horizon else None
        found = evaluate(step)["host"]
        if not (found is expected if found is None or expected is None else same_bits(found, expected)):
            return f"{call} is {found!r} at step {step}, not {expected!r}"
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*_callables(), *METHODS])
def test_rare_calls(name: str, rng: random.Random) -> None:
    wrong = [*filter(None, (_wrong(_call(name, rng)) for _ in range(CALLS_OF_EACH)))]
    assert not wrong, "\n".join(wrong)
