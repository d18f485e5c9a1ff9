"""A flag that stops updates, in captured graphs: each replay reads it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Graph

from fused_sched.lr_scheduler import ExponentialLR
from fused_sched.optim import SGD, AdamW

Capture = Callable[[Body], Graph]
NoSync = Callable[[], Any]


class Loop:
    """Parameters with gradients that they decide themselves, and a step whose flag may be set."""

    def __init__(self, backend: Any, skip: bool, **options: Any) -> None:
        self.params = [torch.nn.Parameter(torch.linspace(-1, 1, n).to(DEVICE)) for n in (5, 130)]
        self.optimizer = AdamW(self.params, lr=0.01, backend=backend, **options)
        self.scheduler = ExponentialLR(self.optimizer, 0.99, fused=True, skip_with_optimizer=skip)
        for p in self.params:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self.params:
            assert p.grad is not None
            p.grad.copy_(torch.sin(p.detach() * 3) * 0.5 + 0.01)
        self.optimizer.step()
        self.scheduler.step()

    def contents(self) -> list[torch.Tensor]:
        """What steps change, as the device has it."""
        states = [self.optimizer.state[p][key] for p in self.params for key in ("exp_avg", "exp_avg_sq")]
        hosted = self.optimizer._block.tensor.view(torch.int64), self.optimizer._block.counts
        return [t.detach().cpu() for t in (*self.params, *states, *hosted, self.scheduler._schedule.memory.tensor)]


@pytest.mark.parametrize("skip", [False, True], ids=["as torch", "skip_with_optimizer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool], ids=str)
@pytest.mark.thin
def test_a_hundred_replays_with_a_flag_that_is_written_between(
    dtype: torch.dtype, skip: bool, gpu_backend: Any, capture: Capture, no_sync: NoSync
) -> None:
    eager, captured = (Loop(gpu_backend, skip, max_grad_norm=1.0) for _ in range(2))
    flags = []
    for loop in (eager, captured):
        flags.append(torch.zeros((), dtype=dtype, device=DEVICE))
        loop.optimizer.stop_when(flags[-1])
        loop.step()
    graph = capture(captured.step)
    stopped = [i % 7 in (2, 3) or i > 90 for i in range(100)]
    with no_sync():
        for stops in stopped:
            for flag in flags:
                flag.fill_(stops)
            graph.replay()
            eager.step()
    for a, b in zip(captured.contents(), eager.contents(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    made = 1 + stopped.count(False)
    assert int(captured.optimizer.state[captured.params[0]]["step"]) == made
    assert captured.optimizer.skipped_steps.item() == 101 - made
    assert captured.scheduler.last_epoch == (made if skip else 101)


def test_a_flag_that_the_graph_itself_sets(gpu_backend: Any, capture: Capture, no_sync: NoSync) -> None:
    """The early stop of an epoch: from the step on that goes too far, until somebody begins the next."""
    p = torch.nn.Parameter(torch.zeros(3, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = SGD([p], lr=1.0, backend=gpu_backend)
    stop = torch.zeros((), device=DEVICE)
    optimizer.stop_when(stop)
    optimizer.step()

    def minibatch() -> None:
        stop.copy_(torch.maximum(stop, (p.detach().min() < -4.5).float()))
        optimizer.step()

    graph = capture(minibatch)
    with no_sync():
        for _ in range(20):
            graph.replay()
    assert p.tolist() == [-5.0] * 3
    p.data.zero_()
    stop.zero_()
    with no_sync():
        for _ in range(3):
            graph.replay()
    assert p.tolist() == [-3.0] * 3


@pytest.mark.parametrize(("dtype", "more"), [(torch.float32, 0), (torch.bool, 1), (torch.int64, 1)], ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_launches(
    scaled: bool, dtype: torch.dtype, more: int, gpu_backend: Any, work: Callable[[Body], list[str]], no_sync: NoSync
) -> None:
    p = torch.nn.Parameter(torch.zeros(3, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = SGD([p], lr=1.0, backend=gpu_backend)
    optimizer.stop_when(torch.zeros((), dtype=dtype, device=DEVICE))
    if scaled:  # GradScaler's flag and ours are one launch together
        optimizer.found_inf = torch.zeros((), device=DEVICE)
        more = 1
    optimizer.step()
    with no_sync():
        assert len(work(optimizer.step)) == 1 + more


def test_a_graph_keeps_the_flag(gpu_backend: Any, capture: Capture) -> None:
    """Whatever becomes of the optimizer, and of the user's reference, while the parameters live."""
    p = torch.nn.Parameter(torch.zeros(3, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = SGD([p], lr=1.0, backend=gpu_backend)
    optimizer.stop_when(torch.zeros((), dtype=torch.int32, device=DEVICE))
    optimizer.step()
    graph = capture(optimizer.step)
    del optimizer
    gc.collect()
    others = [torch.ones((), dtype=torch.int32, device=DEVICE) for _ in range(20)]
    graph.replay()
    assert p.tolist() == [-2.0] * 3
    assert len(others) == 20


def test_what_a_graph_would_not_see_is_refused(gpu_backend: Any, capture: Capture) -> None:
    p = torch.nn.Parameter(torch.zeros(3, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = SGD([p], lr=1.0, backend=gpu_backend)
    flag = torch.zeros((), device=DEVICE)
    optimizer.step()
    with pytest.raises(ValueError, match=r"the flag of stop_when\(\) is on cpu, but the optimizer on"):
        optimizer.stop_when(torch.zeros(()))

    def both() -> None:
        with pytest.raises(RuntimeError, match=r"stop_when\(\) was called inside a CUDA graph capture"):
            optimizer.stop_when(flag)
        optimizer.step()

    capture(both)
    with pytest.raises(RuntimeError, match=r"was given after a CUDA graph was captured, whose replays would not see"):
        optimizer.stop_when(flag)
