"""What stands in for something shows a traced function nothing but what Python would give."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import math
import operator
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from schedule_twins import same_bits
from trace_cases import on_host

from fused_sched.trace import Untraceable, trace
from fused_sched.trace.builtin import COPIES
from fused_sched.trace.outside import StandIn
from fused_sched.trace.paths import Guarded, Stop
from fused_sched.trace.sandbox import Sandbox
from fused_sched.trace.symbol import Sym

CALLED: list[Any] = []


def helper(step: float = 0) -> float:
    return 0.5


def effect(step: float = 0) -> float:
    CALLED.append(step)
    return 0.5


class Config:
    rate = 0.5

    def __init__(self) -> None:
        self.scale = 2.0

    def method(self, step: float = 0) -> float:
        return self.rate

    def __call__(self, step: float = 0) -> float:
        return 0.25


class Derived(Config):
    def method(self, step: float = 0) -> float:
        return super()._view if step else 0.5  # type: ignore[misc,no-any-return]

    def start(self, step: float = 0) -> float:
        return super()._start if step else 0.5  # type: ignore[misc,no-any-return]

    def real(self, step: float = 0) -> float:
        return super().real.rate if step else 0.5  # type: ignore[misc,no-any-return]


@functools.wraps(helper)
def wrapped(step: float = 0) -> float:
    return 0.5


OUTSIDE: dict[str, Any] = {
    "helper": helper, "effect": effect, "wrapped": wrapped, "partial": functools.partial(effect, 3), "CONFIG": Config(),
    "DERIVED": Derived(), "LIST": [effect, 1.0], "TUPLE": (1.0, 2.0), "DICT": {"a": 1.0}, "SET": {1, 2},
    "COUNTER": collections.Counter(a=1), "math": math, "np": np, "functools": functools, "itertools": itertools,
    "operator": operator, "types": types,
}  # fmt: skip

MEMBERS = """
step.node step.kind step._node step._kind step.real step.imag step.numerator step.bit_length step._refuse step._what
(step/7).is_integer.func (step/7)._node (step>3).node (step>3)._kind
helper.real helper.made helper.bound helper.func helper._real helper._made helper._what helper.args helper.nothing
wrapped.__wrapped__ helper.__globals__ helper.__call__ helper.__class__ effect.real effect.made
partial.func partial.args partial.keywords partial.real partial.made partial._made
math.cos.real math.cos._made math.cos.__self__ abs.real abs._made abs._real np.exp.real np.exp.nin np.exp._made
CONFIG._box CONFIG._real CONFIG._fused_real CONFIG.__dict__ CONFIG.method.func CONFIG.method.real CONFIG.method._made
CONFIG.method.__func__ CONFIG.method.args Config._real math._box DERIVED.method(step) DERIVED.start(step)
DERIVED.real(step) int._real float._box type(step)._node type(helper)._made type(LIST)._what
LIST.append LIST._changes LIST._what LIST.__class__ LIST.sort LIST.copy.func LIST.index._made LIST.count.__self__
TUPLE._what TUPLE._changes DICT.update DICT._what DICT.get.func DICT.get._made DICT.get.args DICT.items.real DICT.pop
SET.add SET._refuse SET._what SET.union SET.pop COUNTER.update COUNTER.most_common COUNTER._keep_positive
range(3)._real zip.real zip._made map.func itertools.chain.from_iterable functools.partial.func
{1,2,step%3}.real (lambda: 0).gi_frame (x for x in LIST).gi_frame (x for x in LIST).gi_code (x for x in LIST).cr_frame
"""
NAMES = [
    name
    for line in MEMBERS.splitlines()
    for name in re.findall(r"\S*\(x for[^)]*\)\S*|\S*\(lambda[^)]*\)\S*|\S+", line)
]

# each gives a number that tells whether it got at something
USES = {
    "calls through a partial": "partial.func(step)",
    "calls what is made": "effect.made(step)",
    "calls what is real": "effect.real(step)",
    "calls what is in a list": "LIST[0].real(step)",
    "format of the step": "len('{0.node}'.format(step))",
    "format of a function": "len('{0.real}'.format(helper))",
    "format put together": "len(('{0.' + 'node}').format(step))",
    "format by a mapping": "len('{x.node}'.format_map({'x': step}))",
    "format of a spec": "len('{:{0._node}}'.format(1, step))",
    "text of a function": "len(str(helper))",
    "text of a method": "len(f'{DICT.get}')",
    "text of an import": "len(str(__import__))",
    "class of a list": "len(str(type(LIST)))",
    "getattr": "getattr(step, 'node')",
    "getattr of a function": "getattr(effect, 'real')(step)",
    "attrgetter": "operator.attrgetter('node')(step)",
    "methodcaller": "operator.methodcaller('real', 3)(effect)",
    "attribute of a function written": "setattr(helper, 'x', 1)",
    "file of numpy's": "np.float64(1.0).tofile('nowhere')",
    "vars": "len(vars(step))",
    "dir": "len(dir(helper))",
}
ERRORS = {
    "division": "1 / (step % 50)",
    "floor": "7 // (step % 50)",
    "logarithm": "math.log(step % 50)",
    "overflow": "math.exp(step * 100)",
    "power": "0.0 ** (-1.0 * (step % 50 != 0) - 1)",
    "index": "[1.0, 2.0][step % 50]",
    "key": "DICT[step % 50]",
    "attribute": "CONFIG.nothing",
}
SEEN = (
    "len(str(e))",
    "len(e.args)",
    "len(repr(e))",
    "len(f'{e}')",
    "e._what",
    "len(e.args[0])",
    "e.name is None",
    "e.obj",
)


def _function(body: str) -> Callable[[int], Any]:
    space = {**OUTSIDE, "Config": Config}
    exec(f"def f(step):\n{body}", space)  # noqa: S102 - from the lists above
    return space["f"]  # type: ignore[no-any-return]


def _right_or_untraced(function: Callable[[int], Any], *, refused: bool = False) -> None:
    """It is not traced, and nothing was called; or it has Python's values."""
    CALLED.clear()
    try:
        traced = trace(function)
    except Untraceable as error:
        assert (len(error.reason) > 10, CALLED) == (True, [])  # noqa: PT017
        return
    assert CALLED == []
    assert not refused, traced.explain()
    host = on_host(traced)
    for step in range(200):
        try:
            expected = float(function(step))
        except Exception:
            assert traced.evaluate(step) is None
        else:
            assert same_bits(host(step), expected), step


@pytest.mark.parametrize("name", NAMES)
def test_members_that_nobody_named(name: str) -> None:
    function = _function(f"  found = {name}\n  return 0.5 if found is None else 0.25")
    _right_or_untraced(function, refused=not name.startswith("DERIVED"))  # whose super() raises at most steps


@pytest.mark.parametrize("name", NAMES)
def test_members_behind_a_handler(name: str) -> None:
    """Python raises AttributeError for some of these; it is swallowed."""
    _right_or_untraced(_function(f"  try: found = {name}\n  except Exception: return 0.125\n  return 0.25"))


@pytest.mark.parametrize("name", USES)
def test_ways_to_members(name: str) -> None:
    _right_or_untraced(_function(f"  return {USES[name]}"), refused=True)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", ERRORS)
def test_errors_that_are_looked_at_are_refused(name: str, seen: str) -> None:
    body = f"  if step != 150: return 0.5\n  try: return {ERRORS[name]}\n  except Exception as e: return {seen}"
    _right_or_untraced(_function(body), refused=True)


def test_errors_in_pythons_place_are_of_its_classes() -> None:
    for risk, kind in (("1 / (step % 3)", "ZeroDivisionError"), ("math.sqrt(5 - step)", "ValueError")):
        function = _function(f"  try: return {risk}\n  except {kind}: return 7.0")
        host = on_host(trace(function))
        assert all(host(step) == function(step) for step in range(50))


def test_a_missing_attribute_may_be_handled() -> None:
    function = _function("  try: return CONFIG.nothing\n  except AttributeError: return step / 7")
    host = on_host(trace(function))
    assert all(host(step) == step / 7 for step in range(50))


def test_errors_may_become_other_errors() -> None:
    function = _function("  try: return 1 / (step - 7)\n  except ZeroDivisionError: raise ValueError(f'no: {step}')")
    traced = trace(function)
    assert traced.evaluate(7) is None
    assert traced.evaluate(8) == (1.0,)


def test_texts_may_be_in_errors() -> None:
    raises = _function("  if step == 9: raise KeyError(f'step {step / 2:.3f} of {\"x\"}')\n  return step / 2")
    traced = trace(raises)
    assert traced.evaluate(9) is None
    assert traced.evaluate(8) == (4.0,)


def test_errors_with_stand_ins_in_them_are_traps_or_refused() -> None:
    for given in ("CONFIG", "helper", "LIST", "step", "step, CONFIG"):
        _right_or_untraced(_function(f"  if step == 9: raise ValueError({given})\n  return step / 2"))
        _right_or_untraced(_function(f"  raise ValueError({given})"), refused=True)


def test_all_stand_ins_are_guarded() -> None:
    """Whatever the sandbox hands out is Python's own, or guarded."""
    with contextlib.closing(Sandbox()) as box:
        handed = [box.wrap(x) for x in (*OUTSIDE.values(), Config, abs, CALLED, frozenset({1}), Config().method)]
        made = [*handed, *box.builtins.values()]
    classes = {type(x) for x in made}
    assert {StandIn, *(COPIES[x] for x in (list, tuple, dict, set, frozenset, collections.Counter))} <= classes
    for kind in (StandIn, Sym, *COPIES.values()):
        assert issubclass(kind, Guarded)
    for stand_in in made:
        assert isinstance(type(stand_in), type)
        assert issubclass(type(stand_in), Guarded) or type(stand_in) in (type, type(...), type(NotImplemented))
    assert issubclass(Stop, BaseException)
    assert not issubclass(Stop, Exception)
