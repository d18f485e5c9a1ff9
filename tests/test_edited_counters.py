"""``last_epoch`` and ``_step_count`` that no counting leads to: functions are traced for others, and Python steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedule_twins import OURS, TORCH, optimizer
from torch.optim.lr_scheduler import LRScheduler

import fused_sched

VALUES = (-10, -2, -1, 2.5, 7.0, -3.5, True, 2**50)
CALLS: list[Any] = []


def by_kind(step: float) -> float:
    """Another value for each kind of step."""
    scale = 1.0 if step >= 0 else 0.5
    return scale * (1 + step % 4) / (2 if isinstance(step, int) else 4) + step // 3 % 5


def noted(step: float) -> float:
    CALLS.append((type(step), step))
    return by_kind(step)


class ByEpoch(LRScheduler):
    def get_lr(self) -> list[Any]:
        return [base * by_kind(self.last_epoch) for base in self.base_lrs]


class ByCount(LRScheduler):
    def get_lr(self) -> list[Any]:
        return [base * by_kind(self._step_count) for base in self.base_lrs]


class Squares(LRScheduler):
    """Whole numbers that are exact up to epoch 94,906,265."""

    def get_lr(self) -> list[Any]:
        return [base * ((self.last_epoch * self.last_epoch + 1) % 3) for base in self.base_lrs]


def _own(cls: Any) -> Callable[..., Any]:
    def make(home: Any, made: Any, **options: Any) -> Any:
        return fused_sched.lr_scheduler.on_device(cls(made), **options) if home is OURS else cls(made)

    return make


def _with_part(home: Any, made: Any, **options: Any) -> Any:
    return home.SequentialLR(made, [home.LambdaLR(made, by_kind), home.StepLR(made, 3, 0.9)], [40], **options)


MAKERS: dict[str, Callable[..., Any]] = {
    "LambdaLR": lambda home, made, **o: home.LambdaLR(made, by_kind, **o),
    "MultiplicativeLR": lambda home, made, **o: home.MultiplicativeLR(made, by_kind, **o),
    "CyclicLR": lambda home, made, **o: home.CyclicLR(made, 0.1, 0.5, 4, scale_fn=by_kind, **o),
    "iterations": lambda home, made, **o: home.CyclicLR(
        made, 0.1, 0.5, 4, scale_fn=by_kind, scale_mode="iterations", **o
    ),
    "table": lambda home, made, **o: home.LambdaLR(made, noted, **o),
    "own": _own(ByEpoch),
    "count": _own(ByCount),
    "squares": _own(Squares),
    "ExponentialLR": lambda home, made, **o: home.ExponentialLR(made, 0.99, **o),
    "StepLR": lambda home, made, **o: home.StepLR(made, 3, 0.9, **o),
}


def _edit(scheduler: Any, name: str, way: str, value: float) -> None:
    if way == "set":
        setattr(scheduler, name, value)
    elif way == "dict":
        scheduler.__dict__[name] = value
    else:
        scheduler.load_state_dict({**scheduler.state_dict(), name: value})


def _run(home: Any, module: Any, make: Callable[..., Any], first: int, edits: Any, **options: Any) -> Any:
    CALLS.clear()
    made = optimizer(module, "SGD", [0.1, 0.2])
    seen: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(home, made, **options)
        for step in range(first + 40):
            for name, way, value in edits.get(step - first, ()):
                _edit(scheduler, name, way, value)
            made.step()
            scheduler.step()
            epoch, count = scheduler.last_epoch, scheduler._step_count
            lrs = [group["lr"] for group in made.param_groups]
            seen.append((step, type(epoch), epoch, count, lrs, scheduler.get_last_lr()))
    return seen, [*CALLS]


def _compare(make: Callable[..., Any], first: int, edits: Any, **options: Any) -> None:
    ours = _run(OURS, fused_sched.optim, make, first, edits, **options)
    theirs = _run(TORCH, torch.optim, make, first, edits)
    for mine, expected in zip(ours[0], theirs[0], strict=True):
        assert mine == expected
    assert ours[1] == theirs[1]


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("name", MAKERS)
def test_an_edited_epoch_means_what_it_means_in_torch(name: str, value: float, fused: bool) -> None:
    """Within the first 64 steps, in which functions are called, and after them; back to a count at the end."""
    for first, way in ((3, "set"), (80, "dict"), (70, "loaded")):
        edits = {0: [("last_epoch", way, value)], 20: [("last_epoch", "set", 5)]}
        _compare(MAKERS[name], first, edits, fused=fused)


@pytest.mark.parametrize("value", [-3, 0, 2.5, 9.0], ids=repr)
def test_an_edited_count_of_steps(value: float) -> None:
    for first in (3, 80):
        edits = {0: [("_step_count", "set", value)], 20: [("_step_count", "set", 30)]}
        _compare(MAKERS["count"], first, edits)


@pytest.mark.parametrize("far", [94_906_260, 10**8, 2**40])
@pytest.mark.parametrize("name", ["squares", "own", "count"])
def test_get_lr_beyond_what_float64_counts(name: str, far: int) -> None:
    counter = "_step_count" if name == "count" else "last_epoch"
    for first in (3, 80):
        _compare(MAKERS[name], first, {0: [(counter, "set", far)]})


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_of_a_part(value: float) -> None:
    def run(home: Any, module: Any) -> list[Any]:
        made = optimizer(module, "SGD", [0.1, 0.2])
        seen = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = _with_part(home, made)
            for step in range(30):
                if step == 8:
                    scheduler._schedulers[0].last_epoch = value
                made.step()
                scheduler.step()
                part = scheduler._schedulers[0]
                seen.append((step, type(part.last_epoch), part.last_epoch, [g["lr"] for g in made.param_groups]))
        return seen

    assert run(OURS, fused_sched.optim) == run(TORCH, torch.optim)


@pytest.mark.parametrize("value", [-10, 2.5, 7.0], ids=repr)
def test_rows_ahead_are_those_of_the_edited_epoch(value: float) -> None:
    def make(home: Any, made: Any, **options: Any) -> Any:
        return home.LambdaLR(made, noted, **options)

    for first in (3, 80):
        edits = {0: [("last_epoch", "set", value)], 20: [("last_epoch", "set", 5)]}
        ours = _run(OURS, fused_sched.optim, make, first, edits, horizon=4)[0]
        assert ours == _run(TORCH, torch.optim, make, first, edits)[0]
