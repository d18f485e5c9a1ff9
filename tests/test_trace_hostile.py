"""Functions that cannot become a program are refused in one line, quickly, and without being called."""

from __future__ import annotations

import functools
import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from trace_cases import on_host

from fused_sched.trace import Untraceable, trace

SEEN: list[Any] = []
COUNTER = 0
FACTOR = 0.5


class Counting:
    calls = 0
    rate = 0.1

    def __call__(self, step: int) -> float:
        self.calls += 1
        return self.rate * step


class Measured:
    """A descriptor: it goes before what the object's own dict has under the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> float:
        return len(SEEN) + 0.5

    def __set__(self, instance: Any, value: float) -> None:
        vars(instance)[self.name] = value


class Meter:
    level = Measured()

    def __init__(self) -> None:
        self.level = 0.1


METER = Meter()


class Slotted:
    __slots__ = ("last",)

    def __call__(self, step: int) -> float:
        self.last = step
        return 1.0


def _append(step: int) -> float:
    SEEN.append(step)
    return 1.0


def _global(step: int) -> float:
    global COUNTER
    COUNTER += 1
    return float(COUNTER)


def _nonlocal() -> Callable[[int], float]:
    count = 0

    def inner(step: int) -> float:
        nonlocal count
        count += 1
        return float(count)

    return inner


def _print(step: int) -> float:
    print(step)
    return 1.0


def _open(step: int) -> float:
    with open("/nowhere/at/all") as file:
        return float(file.read())


def _swallow(step: int) -> float:
    try:  # noqa: SIM105
        SEEN.append(step)
    except:  # noqa: E722
        pass
    return 1.0


def _swallow_base(step: int) -> float:
    try:  # noqa: SIM105
        SEEN.append(step)
    except BaseException:
        pass
    return 1.0


def _swallow_the_rest(step: int) -> float:
    while True:
        try:
            SEEN.append(step)
        except KeyError:
            pass
        except:  # noqa: E722
            pass
    return 1.0


def _continues(step: int) -> float:
    while True:
        try:
            step += 1
        finally:
            continue  # noqa: B012


def _continues_by_an_error(step: int) -> float:
    while True:
        try:
            try:
                step += 1
            finally:
                1 / 0
        except ZeroDivisionError:
            pass


def _continues_by_a_name(step: int) -> float:
    while True:
        try:
            try:  # noqa: SIM105
                step += 1
            except SEEN.nothing:  # type: ignore[attr-defined]
                pass
        except AttributeError:
            pass


def _except_as(step: int) -> float:
    try:
        return 1 / (step % 3)
    except ZeroDivisionError as error:
        return len(error.args) / 7


def _generator(step: int) -> Any:
    yield 1.0


def _for_ever(step: int) -> float:
    while True:
        pass


def _late_for_ever(step: int) -> float:
    while step > 100:
        pass
    return 1.0


def _for_ever_and_swallow(step: int) -> float:
    while True:
        try:  # noqa: SIM105
            pass
        except:  # noqa: E722
            pass


def _periods(step: int) -> float:
    while step >= 7:
        step -= 7
    return step / 7


def _deep(step: int) -> float:
    return _deep(step) + 1


def _attribute(step: int) -> float:
    _attribute.last = step  # type: ignore[attr-defined]
    return 1.0


def _local_import(step: int) -> float:
    import this  # noqa: F401

    return 1.0


def _no_return(step: int) -> None:
    step + 1


def _local_class(step: int) -> float:
    class Local:
        x = 3.0

    return Local.x * step


@functools.cache
def _cached(step: int) -> float:
    return 0.9**step


class Sloping:
    warmup = 100

    @property
    def slope(self) -> float:
        return 1.0 / self.warmup

    def __call__(self, step: int) -> float:
        return step * self.slope


REFUSED: dict[str, tuple[Any, str]] = {
    "append": (_append, r"_append .*line \d+ of _append: it uses .append of a list that was made outside of it"),
    "global": (_global, r"assigns to the global variable 'COUNTER' \(line \d+\)"),
    "nonlocal": (_nonlocal(), r"assigns to 'count' of an enclosing function"),
    "attribute": (Counting(), r"it assigns to .calls of a .*test_trace_hostile.Counting"),
    "slot": (Slotted(), r"it assigns to .last of a"),
    "function attribute": (_attribute, r"it assigns to .last of .*test_trace_hostile._attribute"),
    "print": (_print, r"it uses print, which is compiled and may do anything"),
    "open": (_open, r"has .* a with, where a trace may not end \(line \d+\)"),
    "random": (lambda step: random.random(), r"random.*which is compiled"),
    "numpy random": (lambda step: np.random.rand(), r"numpy, which has a __getattr__|cython|rand"),  # noqa: NPY002
    "time": (lambda step: time.time() * step, r"it calls time.time, which is compiled"),
    "next": (functools.partial(lambda it, step: next(it), itertools.count()), r"__next__ of a itertools.count"),
    "setdefault": (lambda step: vars(random), r"it uses vars"),
    "bare except": (_swallow, r"has an except: for everything, .* \(line \d+\)"),
    "bare except after another": (_swallow_the_rest, r"has an except: for everything, .* \(line \d+\)"),
    "for ever, finally": (_continues, r"a finally: .*, where a trace may not end \(line \d+\)"),
    "for ever, an error in finally": (_continues_by_an_error, r"a finally: .*, where a trace may not end \(line \d+\)"),
    "for ever, an error in except": (_continues_by_a_name, r"a finally: .*, where a trace may not end \(line \d+\)"),
    "except BaseException": (_swallow_base, r"it uses .append of a list"),
    "generator": (_generator, r"it computes with a generator"),
    "except as": (_except_as, r"has an except ... as, or deletes 'error' \(line \d+\)"),
    "getattr": (lambda step: getattr(METER, "level", 0.5), r"it uses getattr, which is compiled"),
    "for ever": (_for_ever, r"it runs more than 300,000 lines: is there a loop without an end"),
    "for ever after 100": (_late_for_ever, r"more than (300,000 lines|20000 times)"),
    "for ever, bare except": (_for_ever_and_swallow, r"has an except: for everything"),
    "periods": (_periods, r"more than (256 decisions on one path|1 s)|recurses too deeply"),
    "recursion": (_deep, r"it recurses too deeply"),
    "import": (_local_import, r"it imports this, which is not imported yet"),
    "None": (_no_return, r"it returns None, not a number"),
    "str": (lambda step: "0.1", r"it returns a str, not a number"),
    "tensor": (lambda step: torch.zeros(()), r"it calls torch.*zeros, which is compiled"),
    "constant tensor": (functools.partial(lambda t, step: t, torch.zeros(())), r"it returns a"),
    "complex": (lambda step: (10 - step) ** 0.5, r"a negative number to a fractional power is complex"),
    "complex constant": (lambda step: 1j, r"it computes with a complex"),
    "text": (lambda step: float(str(step)), r"could not convert string to float"),
    "f-string": (lambda step: len(f"{step:d}"), r"it makes text of a number"),
    "round to digits": (lambda step: round(step / 7, 3), r"round\(\) to decimal digits"),
    "range": (lambda step: sum(range(step)), r"more than 64 possible values"),
    "float32": (lambda step: step * np.float32(0.1), r"it makes an object of numpy.float32"),
    "torch": (lambda step: torch.tanh(step), r"it calls .*tanh, which is compiled"),
    "hypot": (lambda step: __import__("math").hypot(step, 1.0), r"hypot\(\) of a number that depends on"),
    "descriptor": (lambda step: METER.level * step, r"it reads 'level', a Measured of .*Meter, which computes it"),
    "always raises": (lambda step: step / 0, r"it raises ZeroDivisionError .* at every step"),
    "big int": (lambda step: 2**step % 7, r"the value itself of a number with more than 64 possible values"),
    "not callable": (3, r"not callable"),
    "eval": (lambda step: eval("step"), r"it uses eval"),  # noqa: S307
    "class": (_local_class, r"defines a class \(line \d+\)"),
    "cache": (_cached, r"it calls .*_cached, which is compiled"),
    "property": (Sloping(), r"it reads 'slope', a property of .*Sloping, which computes it"),
    "sleep": (lambda step: time.sleep(100), r"it calls time.sleep"),
}  # fmt: skip


# Python 3.10 asks for signals only inside of the try, where the bare except swallows them.
NO_SIGNAL = {"for ever, bare except"} if sys.version_info < (3, 11) else set()


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - NO_SIGNAL))
def test_refused_with_a_reason_and_not_called(name: str) -> None:
    function, reason = REFUSED[name]
    SEEN.clear()
    with pytest.raises(Untraceable, match=reason) as caught:
        trace(function)
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 300
    assert SEEN == []
    assert COUNTER == 0
    assert Counting.calls == 0
    assert not hasattr(Slotted.last, "x")


@pytest.mark.slow
def test_what_is_refused_costs_little() -> None:
    for name in ("append", "periods", "range"):
        trace_time = []
        for _ in range(3):
            start = time.process_time()
            with pytest.raises(Untraceable):
                trace(REFUSED[name][0])
            trace_time.append(time.process_time() - start)
        assert min(trace_time) < 3.0, name  # ten times what the longest takes on an idle machine


def test_many_branches_are_refused() -> None:
    lines = ["def f(step):"] + [f"    if step == {7 * i}: return {i}.5" for i in range(2000)] + ["    return 0.0"]
    space: dict[str, Any] = {}
    exec("\n".join(lines), space)  # noqa: S102
    with pytest.raises(Untraceable, match="more than (256|20000) (paths|times)|20000 times"):
        trace(space["f"])


# -- what looks hostile but has a program --------------------------------------------------------------------


def _raises_at_37(step: int) -> float:
    if step == 37:
        raise KeyError(f"no rate for step {step}")
    return 1.0 / (step + 1)


def _sometimes_nan(step: int) -> float:
    return float("nan") if step % 10 == 3 else float("inf") - step


def _local_effects(step: int) -> float:
    seen: list[float] = []
    for i in range(5):
        seen.append(step * i)  # noqa: PERF401
    box = {"sum": sum(seen)}
    box["sum"] += 1
    return box["sum"] * 4.0


def test_a_step_that_raises_becomes_a_trap() -> None:
    traced = trace(_raises_at_37)
    assert traced.traps
    assert "raises at some steps" in traced.explain()
    assert on_host(traced)(36) == 1 / 37


@pytest.mark.parametrize("function", [_sometimes_nan, _local_effects], ids=["nan", "local effects"])
def test_harmless_functions_are_traced(function: Callable[[int], float]) -> None:
    host = on_host(trace(function))
    for step in range(3000):
        expected = function(step)
        assert host(step) == expected or (expected != expected and host(step) != host(step))


def test_a_function_that_is_not_what_it_seemed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check against the function itself, with a trace that is wrong."""
    from fused_sched.trace import function as tracing

    real = tracing.evaluator_of

    def wrong(*arguments: Any) -> Any:
        evaluator = real(*arguments)
        return lambda given: tuple(x * (1 + 1e-15) for x in evaluator(given) or ())

    monkeypatch.setattr(tracing, "evaluator_of", wrong)
    with pytest.raises(Untraceable, match=r"at step \d+ its program gives .*, but the function 0\.\d+"):
        trace(lambda step: step * FACTOR + 0.1)


@pytest.mark.parametrize("before", range(5))
def test_a_handler_that_is_ended_leaves_no_handled_exception(before: int) -> None:
    """Wherever in its handler a function that runs for too long is ended."""
    lines = "\n".join(f"    x{i} = {i}" for i in range(before))
    source = (
        "def one(step):\n    try:\n        raise ValueError\n    except ValueError:\n        return 1.0\n"
        f"def rate(step):\n{lines}\n    while True:\n        one(step)\n"
    )
    made: dict[str, Any] = {}
    exec(source, made)  # noqa: S102
    with pytest.raises(Untraceable, match="300,000 lines"):
        trace(made["rate"])
    assert sys.exc_info() == (None, None, None)
