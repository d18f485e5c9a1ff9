"""Rows that replays of a captured CUDA graph write, read without a wait."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, REAL, Body, Gpu, Graph

from fused_sched import Monitor, Row
from fused_sched.lr_scheduler import ExponentialLR
from fused_sched.optim import SGD

Capture = Callable[[Body], Graph]
NoSync = Callable[[], Any]
GAMMA = 0.999


class Loop:
    """Two groups whose lrs decay; the gradients' norm is 2 * size, and a NaN in it skips the step."""

    def __init__(self, backend: Any, fused: bool = True) -> None:
        self.params = [torch.nn.Parameter(torch.zeros(2, device=DEVICE)) for _ in range(2)]
        groups = [{"params": [p], "lr": 0.5**i} for i, p in enumerate(self.params)]
        self.optimizer = SGD(groups, backend=backend, skip_nonfinite=True)
        self.scheduler = ExponentialLR(self.optimizer, GAMMA, fused=fused)
        self.size = torch.ones((), device=DEVICE)
        for p in self.params:
            p.grad = torch.ones_like(p)

    def step(self) -> None:
        for p in self.params:
            assert p.grad is not None
            p.grad.fill_(1.0).mul_(self.size)
        self.optimizer.step()
        self.scheduler.step()


def check(rows: list[Row], numbers: list[int], skipped: Callable[[int], bool] = lambda n: False) -> None:
    assert [row.step for row in rows] == numbers
    for n, lr, norm, was_skipped, scale in rows:
        assert lr == pytest.approx([GAMMA**n, 0.5 * GAMMA**n], rel=1e-12)
        assert was_skipped == skipped(n)
        assert was_skipped or norm == pytest.approx(2.0 + n % 3)
        assert scale != scale


def replay(loop: Loop, graph: Graph, first: int, times: int) -> None:
    """Replays with gradients whose norm is 2 + n % 3, or NaN where n % 10 is 4."""
    for n in range(first, first + times):
        loop.size.fill_(float("nan") if n % 10 == 4 else 1 + n % 3 / 2)
        graph.replay()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.slow
def test_three_hundred_replays(fused: bool, gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    """The ring is smaller than that, and polled in time."""
    loop, rows = Loop(gpu_backend, fused), list[Row]()
    monitor = Monitor(loop.optimizer, every=10, to=rows.extend, capacity=40)
    loop.size.fill_(1.0)
    loop.step()
    graph = capture(loop.step)
    for first in range(1, 301, 10):
        with no_sync():  # which waits for a real GPU, and so for the copies, when it is left
            replay(loop, graph, first, 10)
            monitor.poll()
    assert len(rows) >= 291  # those of the last poll may be on their way
    monitor.flush()
    check(rows, [*range(301)], lambda n: n % 10 == 4)
    assert monitor.overwritten == 0
    monitor.close()


def test_rows_that_are_overwritten_are_counted(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    loop, rows = Loop(gpu_backend), list[Row]()
    monitor = Monitor(loop.optimizer, every=10, to=rows.extend, capacity=40)
    loop.step()
    graph = capture(loop.step)

    def replay_and_poll() -> None:
        with no_sync():
            replay(loop, graph, 1, 300)
            monitor.poll()
        with no_sync():
            monitor.poll()

    with pytest.warns(UserWarning, match="^261 rows of a Monitor were overwritten before they were read") as caught:
        replay_and_poll()
    assert caught[0].filename == __file__
    check(rows, [*range(261, 301)], lambda n: n % 10 == 4)
    with no_sync():
        replay(loop, graph, 301, 100)
    monitor.flush()  # and warns no more
    check(rows, [*range(261, 301), *range(361, 401)], lambda n: n % 10 == 4)
    assert monitor.overwritten == 261 + 60
    monitor.close()


def test_steps_of_the_host_and_replays(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    loop, rows = Loop(gpu_backend), list[Row]()
    monitor = Monitor(loop.optimizer, every=3, to=rows.extend)
    loop.step()
    graph = capture(loop.step)
    n = 1
    with no_sync():
        for _ in range(10):
            for again in (graph.replay, loop.step, graph.replay):
                loop.size.fill_(1 + n % 3 / 2)
                again()
                n += 1
    assert REAL or len(rows) > 20  # a real GPU may be behind
    monitor.flush()
    check(rows, [*range(31)])
    monitor.close()


def test_a_host_that_steps_never_waits(gpu_backend: Any, no_sync: NoSync, gpu: Gpu) -> None:
    loop, rows = Loop(gpu_backend), list[Row]()
    with Monitor(loop.optimizer, every=4, to=rows.extend):
        loop.step()
        gpu.synchronize()
        with no_sync():
            for n in range(1, 21):
                loop.size.fill_(1 + n % 3 / 2)
                loop.step()
        assert REAL or len(rows) in (16, 20)
    check(rows, [*range(21)])


def test_a_graph_keeps_the_ring_of_a_monitor_that_is_gone(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    loop = Loop(gpu_backend)
    monitor = Monitor(loop.optimizer)
    loop.step()
    graph = capture(loop.step)
    del monitor
    gc.collect()
    others = [torch.zeros(n, dtype=torch.int64, device=DEVICE) for n in range(1, 60)]
    with no_sync():
        for _ in range(5):
            graph.replay()
    assert not any(bool(x.any()) for x in others)
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(GAMMA**6)


def test_a_ring_that_begins_in_a_capture(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    """The first step that it is told of is one that is captured."""
    loop, rows = Loop(gpu_backend), list[Row]()
    with Monitor(loop.optimizer, to=rows.extend) as monitor:
        with loop.optimizer.unobserved():
            loop.step()
        loop.scheduler.last_epoch = 0
        for group, lr in zip(loop.optimizer.param_groups, (1.0, 0.5), strict=True):
            group["lr"] = lr
        graph = capture(loop.step)
        monitor.flush()
        assert rows == []
        with no_sync():
            replay(loop, graph, 0, 4)
    check(rows, [*range(4)])


def test_groups_that_come_after_a_capture(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    params, rows = [torch.nn.Parameter(torch.zeros(2, device=DEVICE)) for _ in range(3)], list[Row]()
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = SGD([{"params": [p]} for p in params[:2]], lr=1.0, backend=gpu_backend)
    with Monitor(optimizer, to=rows.extend, every=1, capacity=5) as monitor:
        optimizer.step()
        graph = capture(optimizer.step)
        graph.replay()
        optimizer.add_param_group({"params": params[2:], "lr": 3.0})
        optimizer.step()
        with no_sync():
            graph.replay()
            graph.replay()
            monitor.poll()
        optimizer.step()
        graph.replay()
        monitor.flush()
    assert [row.step for row in rows] == [*range(7)]
    assert [len(row.lr) for row in rows] == [2, 2, 3, 2, 2, 3, 2]
    assert rows[5].lr[2] == 3.0
    assert monitor.overwritten == 0


def test_an_lr_that_is_a_tensor(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    """What is written to it between replays is the lr of the next."""
    lr, p = torch.tensor(0.5, device=DEVICE), torch.nn.Parameter(torch.zeros(3, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = SGD([{"params": [p]}, {"params": [], "lr": 0.125}], lr=lr, backend=gpu_backend)
    with Monitor(optimizer) as monitor:
        optimizer.step()
        graph = capture(optimizer.step)
        with no_sync():
            for n in range(1, 5):
                lr.fill_(0.5 + n)
                graph.replay()
    assert [row.lr for row in monitor.rows] == [(0.5 + n, 0.125) for n in range(5)]
    assert p.tolist() == [-12.5] * 3


def test_refused_in_a_capture(gpu_backend: Any, capture: Capture) -> None:
    loop = Loop(gpu_backend)
    with Monitor(loop.optimizer) as monitor:
        loop.step()

        def body() -> None:
            with pytest.raises(
                RuntimeError, match="^a Monitor was made inside a CUDA graph capture.*before the capture"
            ):
                Monitor(loop.optimizer)
            for method in (monitor.poll, monitor.flush, monitor.close):
                with pytest.raises(
                    RuntimeError, match=rf"^Monitor\.{method.__name__}\(\) was called inside a CUDA gra"
                ):
                    method()
            loop.step()

        graph = capture(body)
        graph.replay()
    assert [row.step for row in monitor.rows] == [0, 1]
    with pytest.warns(UserWarning, match="was made after a CUDA graph was captured: replays of that graph tell it not"):
        late = Monitor(loop.optimizer)
    late.close()


@pytest.mark.parametrize("monitors", [0, 1, 2])
def test_launches(monitors: int, gpu_backend: Any, work: Callable[[Body], list[str]], no_sync: NoSync) -> None:
    """Without a monitor there are none; the lrs of a step are read once for all of them."""
    loop = Loop(gpu_backend)
    made = [Monitor(loop.optimizer) for _ in range(monitors)]
    loop.step()
    with no_sync():
        kernels = work(loop.optimizer.step)
    # the simulated GPU does not see what makes a tensor, such as the read of the lrs
    assert len(kernels) - 2 - 4 * monitors in ((0, 1) if made else (0,)), kernels
    for monitor in made:
        monitor.close()
