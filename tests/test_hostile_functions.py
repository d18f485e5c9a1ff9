"""LambdaLR with functions made to fool a trace, beside torch's: the same values and side effects, or a table."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import random
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hostile import LATER, MAKERS, PROGRAM, TABLE, Subject, later
from schedule_twins import same_bits
from tolerances import SCHEDULE_RELATIVE

from fused_sched.lr_scheduler import LambdaLR
from fused_sched.optim import SGD

STEPS = int(os.environ.get("FUSED_SCHED_TEST_HOSTILE_STEPS", "500"))
SOME = 40  # functions in the fast lane
FIRST_EDITS = (3, 40, 64, 65, 90)  # the first edit comes at one of these, or later


@dataclasses.dataclass
class Run:
    """One scheduler, its copy of the function and what became of it."""

    subject: Subject
    scheduler: Any = None
    optimizer: Any = None
    error: str | None = None

    def construct(self, kind: Any, optimizer: Any, function: Any) -> None:
        self.optimizer = optimizer
        optimizer._opt_called = True
        try:
            self.scheduler = kind(optimizer, function)
            self.subject.attach(self.scheduler)
        except Exception as error:
            self.error = type(error).__name__

    def step(self) -> None:
        self.error = None
        try:
            self.scheduler.step()
        except Exception as error:
            self.error = type(error).__name__

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


def _parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1))]


def _pair(name: str, late: bool) -> tuple[Run, Run]:
    """Torch's and ours, each with a copy of the function."""
    torchs, ours = (Run(MAKERS[name][0]()) for _ in range(2))
    pairs = ((torchs, torch.optim.lr_scheduler.LambdaLR, torch.optim.SGD), (ours, LambdaLR, SGD))
    for run, kind, optimizer in pairs:
        function = run.subject.function
        run.construct(kind, optimizer(_parameters(), lr=0.1), later(function) if late else function)
    return torchs, ours


def _edit_steps(rng: random.Random, n: int, late: bool, steps: int) -> list[int]:
    """When the user edits the state: at times within the first steps, in which functions are called to compare."""
    first = LATER + 5 if late else rng.choice((*FIRST_EDITS, LATER + 50))
    return sorted([first, *rng.sample(range(first + 1, steps - 20), n - 1)]) if n else []


def _agree(ours: float, torchs: float, relative: float) -> bool:
    return same_bits(ours, torchs) or bool(relative and math.isclose(ours, torchs, rel_tol=relative))


def _relative(scheduler: Any) -> float:
    """0 where the same bits are promised."""
    return SCHEDULE_RELATIVE if " units in the last place" in scheduler.explain() else 0.0


def _check(name: str, late: bool, rng: random.Random, steps: int = STEPS) -> None:
    torchs, ours = _pair(name, late)
    try:
        assert ours.error == torchs.error, "at construction"
        if torchs.error is None:
            _compare(torchs, ours, _edit_steps(rng, len(ours.subject.edits), late, steps), steps)
            _explained(ours.scheduler, MAKERS[name][1])
    finally:
        ours.subject.clean()


def _compare(torchs: Run, ours: Run, edits: list[int], steps: int) -> None:
    shared = ours.subject.shared
    relative = _relative(ours.scheduler)
    for step in range(1, steps + 1):
        for k in [k for k, at in enumerate(edits) if at == step]:
            for run in (torchs, ours):
                run.subject.edits[k]()
            assert shared or ours.subject.state() == torchs.subject.state(), f"effects before edit {k} at step {step}"
        torchs.step()
        ours.step()
        assert ours.error == torchs.error, f"step {step}: {ours.error}, torch has {torchs.error}"
        if torchs.error is not None:  # torch's has moved on, and both go on from there
            ours.scheduler.last_epoch = torchs.scheduler.last_epoch
            ours.scheduler._step_count = torchs.scheduler._step_count
        if step in edits:
            relative = _relative(ours.scheduler)
        if not shared and not _agree(ours.lr, torchs.lr, relative):
            relative = _relative(ours.scheduler)  # it may have become another program meanwhile
            shown = (
                f"step {step} (edits {edits}): {ours.lr!r}, torch has {torchs.lr!r}\n{ours.scheduler.explain()[:600]}"
            )
            assert _agree(ours.lr, torchs.lr, relative), shown
    assert shared or ours.subject.state() == torchs.subject.state(), f"effects\n{ours.scheduler.explain()[:600]}"


def _explained(scheduler: Any, where: str) -> None:
    why = scheduler.explain()
    if scheduler._source is None or not scheduler._source.traced:
        assert re.search(r"because .{10,}", why), why
        assert where != PROGRAM, why
    else:
        assert "its function is part of the program" in why
        assert where != TABLE, why


LONGEST = 30  # seconds of the processor for a test, whose functions take less than one each


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """A constructor that never returns is a failure."""

    def expire(*_: Any) -> None:
        raise BaseException(f"not done after {LONGEST} s")

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("name", MAKERS)
def test_hostile(name: str, late: bool, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check(name, late, rng, STEPS)
    gc.collect(0)
    assert [x.exc_value for x in raised] == []


@pytest.mark.parametrize("part", range(4))
def test_some_hostile_functions(part: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rng.sample(sorted(MAKERS), SOME // 4):
        with monkeypatch.context() as patch:
            test_hostile(name, rng.random() < 0.5, rng, patch)


def test_there_are_many() -> None:
    assert len(MAKERS) >= 150
