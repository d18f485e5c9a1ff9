"""Ctrl-C at every line of a scheduler's code: nothing has changed, or all has, and nothing changes later."""

from __future__ import annotations

import copy
import gc
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from schedule_twins import MEASURED, TORCH, divergence
from torch.optim import lr_scheduler as torchs

from fused_sched import lr_scheduler as ours
from fused_sched.optim import SGD

PLACES = ("fused_sched/lr_scheduler/", "fused_sched/program/schedule", "torch/optim/lr_scheduler", "/contextlib.py")
LOG: list[int] = []


def decay(step: int) -> float:
    return 1.0 / (1.0 + step) if step < 5 else 0.5 ** (step // 3)


def tabled(step: int) -> float:
    LOG.append(step)
    return 1.0 / (1.0 + step)


def own(home: Any, optimizer: Any, impure: bool = False) -> Any:
    class Own(home.StepLR):  # type: ignore[misc,name-defined]
        def get_lr(self) -> list[float]:
            if impure:
                LOG.append(self.last_epoch)
            return [b * 0.9 ** (self.last_epoch % 7) for b in self.base_lrs]

    return Own(optimizer, 3)


KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "traced": lambda home, o: home.LambdaLR(o, decay),
    "table": lambda home, o: home.LambdaLR(o, tabled),
    "product": lambda home, o: home.MultiplicativeLR(o, tabled),
    "get_lr": own,
    "get_lr of Python": lambda home, o: own(home, o, impure=True),
    "plateau": lambda home, o: home.ReduceLROnPlateau(o, patience=1),
    "divergence": lambda home, o: home.KLAdaptiveLR(o, **MEASURED["KLAdaptiveLR"]),
    "feedback": lambda home, o: home.FeedbackLR(o, **MEASURED["FeedbackLR"]),
    "sequence": lambda home, o: home.SequentialLR(o, [home.LambdaLR(o, decay), home.LambdaLR(o, tabled)], [2]),
    "chain": lambda home, o: home.ChainedScheduler([home.LambdaLR(o, decay), home.MultiplicativeLR(o, tabled)], o),
}
CONSTRUCTORS = KINDS | {
    "fused": lambda home, o: home.LambdaLR(o, decay, fused=True),
    "fused table": lambda home, o: home.LambdaLR(o, tabled, fused=True, horizon=8),
}


class InterruptAt:
    """Raise KeyboardInterrupt at the given line that is run in :data:`PLACES`."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not any(place in frame.f_code.co_filename for place in PLACES):
            return None
        if event in ("call", "line"):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self


def interrupted(call: Callable[[], Any], moment: int) -> bool:
    """Whether the call was interrupted; the tracer that was there is there again."""
    before = sys.gettrace()
    sys.settrace(InterruptAt(moment))
    try:
        next(apart(call))
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def apart(call: Callable[[], Any]) -> Iterator[Any]:
    """Where what is raised for a handler's last line leaves no handled exception behind, as it would from 3.11 on."""
    yield call()


def make(home: Any, of: Any, kind: str) -> tuple[Any, Any]:
    optimizer = of([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)], lr=0.1)
    return optimizer, CONSTRUCTORS[kind](home, optimizer)


def step(optimizer: Any, scheduler: Any) -> None:
    optimizer.step()
    if type(scheduler).__name__ in MEASURED:
        scheduler.observe(divergence(scheduler.last_epoch))
    scheduler.step(*([1.0] if isinstance(scheduler, torchs.ReduceLROnPlateau) else []))


def epoch(scheduler: Any) -> int:
    one = scheduler._schedulers[0] if isinstance(scheduler, torchs.ChainedScheduler) else scheduler
    return int(one.last_epoch)


def state(optimizer: Any, scheduler: Any) -> Any:
    saved = {k: v for k, v in scheduler.state_dict().items() if k not in ("lr_lambdas", "function", "_schedulers")}
    return copy.deepcopy(([dict(g, params=0) for g in optimizer.param_groups], saved))


STRIDES = pytest.mark.parametrize("stride", [4, pytest.param(60, marks=pytest.mark.slow)])


def later(moment: int, stride: int, seed: int) -> int:
    """Each of the first moments, then ever fewer of them."""
    return moment + 1 + random.Random(f"{seed} {moment}").randrange(1 + 2 * moment // stride)


@STRIDES
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_made_or_not(kind: str, stride: int, seed: int) -> None:
    moment = 0
    while True:
        pair, twin = make(ours, SGD, kind), make(TORCH, torch.optim.SGD, kind)
        for _ in range(1 + moment % 3):
            step(*pair)
            step(*twin)
        pair[0].step()
        for _, one in (pair, twin):
            if kind in ("divergence", "feedback"):
                one.observe(5.0)
        before = state(*pair)
        arguments = [1.0] if kind == "plateau" else []
        if not interrupted(partial(pair[1].step, *arguments), moment):
            break
        found = state(*pair)
        if found != before:  # then it is whole
            twin[0].step()
            twin[1].step(*arguments)
            assert found[0] == [dict(g, params=0) for g in pair[0].param_groups]
            assert [g["lr"] for g in found[0]] == [g["lr"] for g in twin[0].param_groups], moment
        assert epoch(pair[1]) == epoch(twin[1]), moment
        for g in (*pair[0].param_groups, *twin[0].param_groups):
            g["lr"] = 0.7  # by hand
        gc.collect(0)
        assert [g["lr"] for g in pair[0].param_groups] == [0.7, 0.7], moment
        for _ in range(3):
            step(*pair)
            step(*twin)
            assert [g["lr"] for g in pair[0].param_groups] == [g["lr"] for g in twin[0].param_groups], moment
        moment = later(moment, stride, seed)
    assert moment > 10


@STRIDES
@pytest.mark.parametrize("kind", CONSTRUCTORS)
def test_a_constructor_changes_nothing(kind: str, stride: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: late.append(found.exc_value))
    moment = 0
    made = [dict(g, params=[]) for g in make(ours, SGD, kind)[0].param_groups]
    while True:
        optimizer = SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)], lr=0.1)
        before = [dict(g, params=[]) for g in optimizer.param_groups]
        if not interrupted(partial(CONSTRUCTORS[kind], ours, optimizer), moment):
            break
        found = [dict(g, params=[]) for g in optimizer.param_groups]
        assert found in (before, made), moment  # made: Ctrl-C came as it was about to return
        for g in optimizer.param_groups:
            g["lr"] = 0.7
        gc.collect(0)
        if found == before:
            optimizer.step()  # advances nothing
        assert [g["lr"] for g in optimizer.param_groups] == [0.7, 0.7], moment
        assert not [x for x in late if not isinstance(x, KeyboardInterrupt)], moment
        moment = later(moment, stride, seed)
    assert moment > 100


@pytest.mark.parametrize("fused", [False, True])
def test_a_sequence_that_fails_leaves_its_parts(fused: bool) -> None:
    """Ctrl-C in a function that its constructor calls, or what it refuses."""
    interrupts = [False]

    def decays(step: int) -> float:
        if interrupts[0]:
            interrupts[0] = False
            raise KeyboardInterrupt
        return 0.5**step

    class Own(ours.StepLR):
        def _update_lr(self, epoch: float | None = None) -> None:
            self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    optimizer, _ = make(ours, SGD, "traced")
    first = ours.LambdaLR(optimizer, decays)
    for _ in range(3):
        step(optimizer, first)
    second = Own(optimizer, 2)
    for lr, group in zip((0.0125, 0.025), optimizer.param_groups, strict=True):
        group["lr"] = lr
    before = [state(optimizer, one) for one in (first, second)]
    interrupts[0] = not fused
    with pytest.raises(ValueError if fused else KeyboardInterrupt):
        ours.SequentialLR(optimizer, [first, second], [4], fused=fused)
    assert [state(optimizer, one) for one in (first, second)] == before
    step(optimizer, first)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 / 16, 0.2 / 16]
