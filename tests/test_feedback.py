"""FeedbackLR: any function of the lr and the signal does what Python does."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from measured import EDGES, by_kl, halve, lrs_of, observe_and_step, same_lrs, unread
from schedule_twins import made_with, random_lrs
from tolerances import SCHEDULE_RELATIVE

from fused_sched.lr_scheduler import (
    FeedbackLR,
    KLAdaptiveLR,
)


class Controller:
    """A callable with attributes of its own."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, lr: float, kl: float) -> float:
        return lr * math.exp(-self.gain * max(-1.0, min(1.0, kl - 0.01)))


SETTINGS = SimpleNamespace(target=0.02, step=[1.5, 1.25])
LIMIT = 0.05


def _closure(target: float) -> Callable[[float, float], float]:
    def function(lr: float, x: float) -> float:
        ratio = x / target
        return lr * (0.8 if ratio > 2 else 1.2 if ratio < 0.5 else 1.0)

    return function


def _raises_at_some(lr: float, x: float) -> float:
    if x > 50:
        raise ValueError(f"{x} is too large")
    return lr * 0.9


def _loops(lr: float, x: float) -> float:
    for bound, factor in ((0.001, 1.5), (0.01, 1.1), (0.1, 0.9)):
        if x < bound:
            return lr * factor
    return lr * 0.5


def _catches(lr: float, x: float) -> float:
    try:
        return lr + 1e-4 / x
    except ZeroDivisionError:
        return lr


FUNCTIONS: dict[str, Callable[[float, float], Any]] = {
    "constant": lambda lr, x: 0.01,
    "signal": lambda lr, x: x,
    "arithmetic": lambda lr, x: lr * (1 - 0.1 * x) + 1e-5,
    "min and max": lambda lr, x: max(1e-6, min(LIMIT, lr * x)),
    "conditional": by_kl,
    "chained comparison": lambda lr, x: lr if 0.005 <= x <= 0.02 else lr * 0.7,
    "lr decides": lambda lr, x: lr * 0.5 if lr > 0.1 and x > 0 else lr,
    "exp": lambda lr, x: lr * math.exp(-abs(x)),
    "tanh by exp": lambda lr, x: lr * (1 + 0.5 * math.tanh(0.01 - x)),
    "sqrt": lambda lr, x: lr * math.sqrt(abs(x)),
    "log1p": lambda lr, x: lr / (1 + math.log1p(abs(x))) if math.isfinite(x) else lr,
    "floor": lambda lr, x: lr * 0.5 ** math.floor(max(0.0, min(5.0, x))),
    "closure": _closure(0.01),
    "object": Controller(0.5),
    "attributes": lambda lr, x: lr / SETTINGS.step[0] if x > SETTINGS.target else lr * SETTINGS.step[1],
    "loop": _loops,
    "catches": _catches,
    "divides": lambda lr, x: lr * min(2.0, 0.01 / x),
    "raises": _raises_at_some,
    "int and bool": lambda lr, x: x > 1,
}
UNTRACEABLE: dict[str, Callable[[float, float], Any]] = {
    "calls": lambda lr, x, seen=[]: seen.append(x) or lr * 0.9,
    "whether it raises depends on the lr": lambda lr, x: math.log(lr),
    "tensor": lambda lr, x: float(torch.tensor(lr) * 0.5),
}


def _signals(rng: random.Random, n: int) -> list[float]:
    return [
        rng.choice([rng.choice(EDGES), 10.0 ** rng.uniform(-4, 2), rng.uniform(-1, 1), 0.01, 0.02, 0.005, 100.0])
        for _ in range(n)
    ]


@pytest.mark.parametrize("tensor", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("name", [*FUNCTIONS, *UNTRACEABLE])
def test_functions_do_what_python_does(
    name: str, tensor: bool, rng: random.Random, host_backend: Any, mirrored: bool
) -> None:
    function = {**FUNCTIONS, **UNTRACEABLE}[name]
    lrs = random_lrs(rng, 2)
    made = made_with([*lrs], host_backend)
    if name in UNTRACEABLE:
        with pytest.warns(UserWarning, match="its lr is computed on the host at every step"):
            scheduler = FeedbackLR(made, function)
        assert scheduler.explain().startswith("FeedbackLR runs on the host: ")
    else:
        scheduler = FeedbackLR(made, function)
        assert "its function is part of the program" in scheduler.explain()
        assert "the same bits as the function" in scheduler.explain()
    rounds = name in ("exp", "tanh by exp", "log1p", "object", "floor")
    epoch = 0
    for signal in _signals(rng, 100):
        given = torch.tensor(signal, dtype=torch.float64) if tensor else signal
        expected, raised = [*lrs], None
        if not math.isnan(signal):
            try:
                expected = [float(function(lr, signal)) for lr in lrs]
            except Exception as error:
                raised = error
        scheduler.observe(given)
        if raised is None:
            scheduler.step()
            epoch += 1
        else:
            with pytest.raises(type(raised)) as caught:
                scheduler.step()
            assert str(caught.value) == str(raised)
            expected = lrs
        found = lrs_of(made)
        near = [math.isclose(a, b, rel_tol=SCHEDULE_RELATIVE) for a, b in zip(found, expected, strict=True)]
        assert same_lrs(found, expected) or (rounds and all(near)), f"{name} at {signal!r}"
        assert scheduler.last_epoch == epoch
        lrs = found
        if not all(1e-12 < abs(lr) < 1e6 for lr in lrs):
            lrs = random_lrs(rng, 2)
            for group, lr in zip(made.param_groups, lrs, strict=True):
                group["lr"] = lr


def test_a_function_for_each_group(host_backend: Any, mirrored: bool) -> None:
    functions: list[Any] = [Controller(0.5), Controller(0.25), by_kl, lambda lr, x: lr]
    made, lrs = made_with([0.1, 0.2, 0.3, 0.4], host_backend), [0.1, 0.2, 0.3, 0.4]
    scheduler = FeedbackLR(made, functions)
    assert scheduler.program is not None
    for step, signal in enumerate([0.5, 0.001, 0.01, 3.0, -2.0, math.inf]):
        if step == 3:
            functions[0].gain = 0.125  # traced anew
        # of a tensor the host knows nothing, and calls no function to compare
        observe_and_step(scheduler, torch.tensor(signal, dtype=torch.float64) if mirrored else signal)
        lrs = [f(lr, signal) for f, lr in zip(functions, lrs, strict=True)]
        assert lrs_of(made) == pytest.approx(lrs, rel=SCHEDULE_RELATIVE)
    assert scheduler.program is not None
    state = scheduler.state_dict()
    assert [x and sorted(x) for x in state["function"]] == [["gain"], ["gain"], None, None]
    other = FeedbackLR(made_with([0.1] * 4), [Controller(9.0), Controller(9.0), by_kl, lambda lr, x: lr])
    other.load_state_dict(state)
    assert (other.function[0].gain, other.function[1].gain) == (0.125, 0.25)
    scheduler.function = halve
    before = lrs_of(made)
    observe_and_step(scheduler, 1.0)
    assert lrs_of(made) == [lr * 0.5 for lr in before]


def test_a_traced_function_is_called_to_compare_where_the_host_knows_the_signal(
    host_backend: Any, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(lr: float, x: float) -> float:
        return lr * 0.999 if x > 0 else lr

    scheduler = FeedbackLR(made_with([0.1, 0.2], host_backend), counted)
    code = counted.__code__

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is code:
            calls.append(frame.f_globals["__name__"])

    sys.setprofile(watch)
    try:
        for _ in range(70):
            observe_and_step(scheduler, 1.0)
        scheduler.step()
        with unread(monkeypatch) if mirrored else nullcontext():
            observe_and_step(scheduler, torch.tensor(1.0, dtype=torch.float64)) if mirrored else None
    finally:
        sys.setprofile(None)
    assert calls == [__name__] * 128
    assert "in 64 step(s) that the host made; it is not called any more" in scheduler.explain()


def test_a_function_that_turns_out_to_be_another_one(host_backend: Any, mirrored: bool) -> None:
    made = made_with([0.1], host_backend)
    scheduler = FeedbackLR(made, by_kl)
    assert scheduler._traced is not None
    (traced,) = scheduler._traced
    evaluator = traced.evaluator
    scheduler._traced = [replace(traced, evaluator=lambda given: tuple(x * 1.5 for x in evaluator(given) or ()))]
    scheduler.observe(0.5)
    with pytest.warns(UserWarning, match=r"at signal 0.5 the function gave 0.08, where its program gives 0.12"):
        scheduler.step()
    assert lrs_of(made) == [0.1 / 1.25]
    assert scheduler.program is None
    observe_and_step(scheduler, 0.5)
    assert lrs_of(made) == [0.1 / 1.25 / 1.25]


@pytest.mark.parametrize("value", [None, "0.1", [0.1]])
def test_what_is_returned_must_be_a_number(value: Any, host_backend: Any) -> None:
    made = made_with([0.1], host_backend)
    with pytest.warns(UserWarning, match="its lr is computed on the host"):
        scheduler = FeedbackLR(made, lambda lr, x: value)
    scheduler.observe(2.0)
    with pytest.raises(TypeError, match=r"^function\(0.1, 2.0\) returned .*, but must return a number: the next lr$"):
        scheduler.step()
    assert lrs_of(made) == [0.1]
    with pytest.raises(ValueError, match="leave out fused and skip_with_optimizer"):
        FeedbackLR(made, lambda lr, x: value, fused=True)


def test_bad_functions(host_backend: Any) -> None:
    made = made_with([0.1, 0.2], host_backend)
    with pytest.raises(TypeError, match="^function=3 must be a function of the lr and the signal$"):
        FeedbackLR(made, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="^function=0.5 must be a function"):
        FeedbackLR(made, [by_kl, 0.5])  # type: ignore[list-item]
    for wrong in (lambda lr: lr, lambda a, b, c: a, lambda *, lr, signal: lr):
        with pytest.raises(TypeError, match="^function=.* must take the lr and the signal, two floats: "):
            FeedbackLR(made, [by_kl, wrong])
    FeedbackLR(made, max)  # says nothing of its arguments
    FeedbackLR(made, lambda *given: given[0])
    with pytest.raises(ValueError, match="^function is a list of 1 for 2 param groups: give one a group$"):
        FeedbackLR(made, [by_kl])
    for cls in (KLAdaptiveLR, lambda o: FeedbackLR(o, by_kl)):
        with pytest.raises(TypeError, match="is not an Optimizer$"):
            cls(torch.nn.Linear(1, 1))  # type: ignore[operator]
