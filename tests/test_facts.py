"""What is looked at before every step: C++ and Python find the same."""

from __future__ import annotations

import collections
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from schedule_twins import optimizer

import fused_sched
from fused_sched import facts, lr_scheduler
from fused_sched.facts import ANSWER, ATTRIBUTE, ENTRY, EQUAL, NO_ENTRY, OWNER_WEAKLY, VALUE_WEAKLY, alike, look_at


@pytest.fixture(params=["C++", "Python"])
def outdated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "Python":
        monkeypatch.setattr(facts, "_C", None)
    elif facts._C is None:
        pytest.skip("there is no C++ extension")
    return lambda *given: look_at(given)()


def _new_class() -> Any:
    class Thing:
        rate = 0.5

        @classmethod
        def made(cls) -> None:
            """Another object each time it is asked for."""

    return Thing


def _changes() -> list[tuple[int, Any, Any, Any, Callable[[], Any]]]:
    """Facts, and what makes something else of each."""
    kind, other, entries, numbers = _new_class(), _new_class(), {"a": 0.5}, [0.5]
    thing, counter = kind(), collections.Counter(a=1)
    return [
        (ATTRIBUTE, thing, "rate", 0.5, lambda: setattr(thing, "rate", 0.25)),
        (ATTRIBUTE, kind, "made", kind.made, lambda: setattr(kind, "made", other.made)),
        (ENTRY, entries, "a", 0.5, entries.clear),
        (ENTRY, vars(kind), "rate", 0.5, lambda: setattr(kind, "rate", 1)),
        (NO_ENTRY, entries, "b", None, lambda: entries.update(b=None)),
        (NO_ENTRY, vars(kind), "b", None, lambda: setattr(kind, "b", None)),
        (ANSWER, thing, type, kind, lambda: setattr(thing, "__class__", other)),
        (ANSWER, counter, dict(counter).__eq__, True, lambda: counter.update(b=0)),
        (EQUAL, numbers, None, [0.5], lambda: numbers.append(0.25)),
    ]


@pytest.mark.parametrize("case", range(len(_changes())))
def test_a_fact_holds_until_something_changes(outdated: Any, case: int) -> None:
    *fact, change = _changes()[case]
    others = [(ATTRIBUTE, 1j, "real", 0.0)] * 3
    assert not outdated(*others, fact, *others)
    change()
    assert outdated(*others, fact, *others)


def test_objects_that_are_had_weakly(outdated: Any) -> None:
    owner, value = _new_class()(), _new_class()()
    owner.part = value
    fact = ATTRIBUTE + OWNER_WEAKLY + VALUE_WEAKLY, weakref.ref(owner), "part", weakref.ref(value)
    assert not outdated(fact)
    owner.part = _new_class()()
    assert outdated(fact)
    del value
    gc.collect()
    assert outdated(fact)
    del owner
    gc.collect()
    assert not outdated(fact), "nobody can ask"


def test_what_raises_has_changed(outdated: Any) -> None:
    def raises(error: BaseException) -> Any:
        raise error

    assert outdated((ATTRIBUTE, 1j, "nothing", None))
    assert outdated((ANSWER, KeyError(), raises, None))
    for interrupt in (KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(interrupt)):
            outdated((ANSWER, interrupt, raises, None))


def test_cpp_refuses_what_is_no_fact() -> None:
    outdated = pytest.importorskip("fused_sched._C").outdated
    for wrong in ((), (alike, ATTRIBUTE, 1j, "real"), (alike, "how", 1j, "real", 0.0)):
        with pytest.raises(TypeError):
            outdated(*wrong)
    with pytest.raises(ValueError, match=r"^how=-1 must be between 0 and"):
        outdated(alike, -1, 1j, "real", 0.0)


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        (0.5, float("0.5"), True),
        (0.0, -0.0, False),
        (1, 1.0, False),
        (True, 1, False),
        (float("nan"), float("nan"), False),
        ("a b", " ".join("ab"), True),
        ([], [], False),
        ([].append, [].append, False),
    ],
)
def test_alike(now: Any, then: Any, expected: bool) -> None:
    assert alike(now, then) == expected


def test_a_class_method_is_no_change(host_backend: str) -> None:
    class Own(lr_scheduler.StepLR):
        @classmethod
        def get_lr(cls) -> list[float]:
            return [0.5]

    scheduler = Own(optimizer(fused_sched.optim, "SGD", [0.1], backend=host_backend), 3)
    schedule = scheduler._schedule
    for _ in range(3):
        scheduler.optimizer.step()
        scheduler.step()
    assert scheduler._schedule is schedule is not None
    Own.get_lr = classmethod(lambda cls: [0.25])  # type: ignore[method-assign,assignment]
    scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.25
