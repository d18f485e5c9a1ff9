"""Loops around a fused schedule, captured in part or as a whole: it is where the loop would have it with torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, Body, Gpu, Graph

from fused_sched.lr_scheduler import ExponentialLR
from fused_sched.optim import SGD

Capture = Callable[[Body], Graph]
WarmUp = Callable[[Body, int], None]
NoSync = Callable[[], Any]


class Loop:
    """An lr that is halved at every step, and what a loop with torch's classes would have made of it.

    Attributes:
        steps: calls of ``scheduler.step()`` so far.
    """

    def __init__(self, backend: Any, guarded: bool = False) -> None:
        self.p = torch.nn.Parameter(torch.ones(5, device=DEVICE))
        self.p.grad = torch.zeros_like(self.p)
        self.optimizer = SGD([self.p], lr=1.0, momentum=0.9, backend=backend)
        self.scheduler = ExponentialLR(self.optimizer, 0.5, fused=True, skip_with_optimizer=guarded)
        self.steps = 0

    def with_overflows(self) -> torch.Tensor:
        """Give all updates from now on this ``found_inf``."""
        flag = torch.zeros((), device=DEVICE)
        self.optimizer.found_inf = flag
        return flag

    def update(self) -> None:
        self.optimizer.step()

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.scheduler.step()
        self.steps += times

    def check(self) -> None:
        """The lr and the epoch, of the device and of the mirror."""
        block, row = self.optimizer._block, self.optimizer.rows[0]
        assert block.tensor[block.slot(row, "lr")].item() == 0.5**self.steps
        assert self.optimizer.param_groups[0]["lr"] == 0.5**self.steps
        assert self.scheduler.last_epoch == self.steps


@pytest.fixture(params=DEFAULTS)
def make(request: pytest.FixtureRequest, gpu: Gpu) -> Callable[..., Loop]:
    return partial(Loop, gpu.backend(request.param))


@pytest.mark.parametrize("overflows", [False, True], ids=["no scaler", "found_inf"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_steps_for_each_captured_update(
    steps: int, overflows: bool, make: Callable[..., Loop], capture: Capture, warm_up: WarmUp, no_sync: NoSync
) -> None:
    """In the graph itself, or after its replays where there are none in it."""
    loop = make()
    flag = loop.with_overflows() if overflows else torch.zeros((), device=DEVICE)

    def body(times: int) -> None:
        loop.update()
        loop.step(times)

    warm_up(lambda: body(max(1, steps)), 2)
    before = loop.steps
    graph = capture(lambda: body(steps))
    loop.steps = before  # nothing of the capture has happened yet
    with no_sync():
        for i in range(12):
            flag.fill_(float(i % 4 in (0, 3)))
            graph.replay()
            loop.steps += steps
            if steps == 0:
                loop.step(2 if i == 5 else 1)
    loop.check()
    for i in range(6):  # and eager ones again
        flag.fill_(float(i % 3 == 0))
        loop.update()
        loop.step(1 + i % 2)
        if i % 2:
            loop.check()
    flag.fill_(0.0)
    graph.replay()
    loop.steps += steps
    loop.step(0 if steps else 1)
    loop.check()


@pytest.mark.parametrize("overflows", [False, True], ids=["no scaler", "found_inf"])
@pytest.mark.parametrize("settled", [False, True])
def test_a_graph_that_begins_with_the_step(
    settled: bool, overflows: bool, make: Callable[..., Loop], capture: Capture, warm_up: WarmUp, no_sync: NoSync
) -> None:
    """As of the update before, which is that of the replay before; ``settled``: it had been called for that already."""
    loop = make()
    flag = loop.with_overflows() if overflows else torch.zeros((), device=DEVICE)

    def eager() -> None:
        loop.update()
        loop.step()

    warm_up(eager, 2)
    if not settled:
        loop.update()
    before = loop.steps

    def body() -> None:
        loop.step()
        loop.update()

    graph = capture(body)
    loop.steps = before
    with no_sync():
        for i in range(9):
            flag.fill_(float(i % 3 == 1))
            graph.replay()
            loop.steps += 1
    flag.fill_(0.0)
    loop.step()  # of the last update
    loop.check()


def test_steps_only_for_updates_that_were_not_skipped(
    make: Callable[..., Loop], capture: Capture, warm_up: WarmUp
) -> None:
    """The loop that looks at the scale."""
    for captured in (False, True):
        loop = make()
        flag = loop.with_overflows()
        warm_up(loop.update, 1)
        loop.step()
        again = capture(loop.update).replay if captured else loop.update
        for i in range(12):
            flag.fill_(float(i % 4 in (0, 3)))
            again()
            if i % 4 not in (0, 3):
                loop.step()
        loop.check()


def test_a_loop_with_a_scaler_does_not_wait_for_reads(make: Callable[..., Loop], no_sync: NoSync) -> None:
    """After scheduler.step() the lr is known, whether the update was skipped or not."""
    loop = make()
    flag = loop.with_overflows()
    for _ in range(2):
        loop.update()
        loop.step()
        loop.check()
    with no_sync():
        for i in range(10):
            flag.fill_(float(i % 3 == 1))
            loop.update()
            loop.step()
            assert loop.scheduler.get_last_lr() == [0.5**loop.steps]
    loop.check()


def test_a_scheduler_that_stands_still_with_the_optimizer(
    make: Callable[..., Loop], capture: Capture, warm_up: WarmUp
) -> None:
    for captured in (False, True):
        loop = make(guarded=True)
        flag = loop.with_overflows()
        warm_up(loop.update, 1)
        loop.step()
        again = capture(loop.update).replay if captured else loop.update
        for i in range(12):
            flag.fill_(float(i % 4 in (0, 3)))
            again()
            loop.scheduler.step()
            loop.steps += i % 4 not in (0, 3)
        loop.check()


def test_a_loop_without_a_scaler_is_one_launch_an_update(
    make: Callable[..., Loop], warm_up: WarmUp, work: Callable[[Body], list[str]]
) -> None:
    loop = make()

    def body() -> None:
        loop.update()
        loop.step()

    warm_up(body, 2)
    assert len(work(body)) == 1
