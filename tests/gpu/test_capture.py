"""Steps inside CUDA graphs: replays equal eager steps, follow edits, and skip overflows on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from gpus import DEFAULTS, DEVICE, REAL, Body, Gpu, Graph
from schedule_twins import assert_alike, last_lr_on_the_device, on_the_device, seen
from tolerances import COSINE_PAST_TROUGH_RELATIVE, SCHEDULE_RELATIVE

from fused_sched.lr_scheduler import CosineAnnealingLR, ExponentialLR, StepLR
from fused_sched.optim import SGD, AdamW

T_MAX = 600
SHAPES = [(7,), (128, 33), (1024,), (3, 5, 7), (20_000,)] if REAL else [(7,), (3, 33), (3, 5, 7), (1100,)]


class Loop:
    """Parameters, an optimizer, a scheduler, and a training step with deterministic gradients.

    With ``fresh`` the gradients are new tensors at each step, as autograd's after ``zero_grad()``.
    """

    def __init__(
        self, backend: Any, optimizer: str = "adamw", fused: bool = True, fresh: bool = False, **scheduler: Any
    ) -> None:
        generator = torch.Generator().manual_seed(3)
        self.fresh = fresh
        self.params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(DEVICE)) for s in SHAPES]
        groups = [{"params": self.params[:2], "lr": 0.02}, {"params": self.params[2:]}]
        if optimizer == "adamw":
            self.optimizer: Any = AdamW(groups, lr=0.01, backend=backend)
        else:
            options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
            self.optimizer = SGD(groups, lr=0.01, backend=backend, **options)
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=T_MAX, fused=fused, **scheduler)
        for p in self.params:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self.params:
            gradient = torch.sin(p.detach() * 3) * 0.5 + 0.01
            if self.fresh:
                p.grad = gradient
            else:
                p.grad.copy_(gradient)
        self.optimizer.step()
        self.scheduler.step()

    def tensors(self) -> list[torch.Tensor]:
        """Everything that a step changes."""
        states = [v for p in self.params for v in self.optimizer.state[p].values() if v is not None]
        return [p.detach().clone() for p in self.params] + [s.clone() for s in states]

    def lrs(self) -> list[float]:
        """As the device has them."""
        return [row["lr"] for row in on_the_device(self.optimizer)]

    def memories(self) -> list[torch.Tensor]:
        """Control block and schedule, as the device has them; integers, by which every bit counts."""
        hosted = self.optimizer._block, self.scheduler._schedule.memory
        return [x.tensor.view(torch.int64).cpu() for x in hosted]


def check_equal(a: Loop, b: Loop) -> None:
    """The same bits on the device. A mirror that ran on by itself has another cosine, so other last places."""
    for x, y in zip(a.memories() + a.tensors(), b.memories() + b.tensors(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    assert a.scheduler.last_epoch == b.scheduler.last_epoch
    relative = COSINE_PAST_TROUGH_RELATIVE if a.scheduler.last_epoch >= T_MAX else SCHEDULE_RELATIVE
    for loop in (a, b):
        assert_alike(seen(loop.optimizer), on_the_device(loop.optimizer), relative, "mirror")
        assert loop.scheduler.get_last_lr() == pytest.approx(last_lr_on_the_device(loop.scheduler), rel=relative)


Capture = Callable[[Body], Graph]
WarmUp = Callable[[Body, int], None]
NoSync = Callable[[], Any]
Make = Callable[..., Loop]


@pytest.fixture(params=DEFAULTS)
def make(request: pytest.FixtureRequest, gpu: Gpu) -> Make:
    """Makes a :class:`Loop`."""
    return partial(Loop, gpu.backend(request.param))


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_thousand_replays_equal_eager(
    optimizer: str, fused: bool, make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync
) -> None:
    eager, captured = make(optimizer, fused), make(optimizer, fused)
    for loop in (eager, captured):
        warm_up(loop.step, 3)
    graph = capture(captured.step)
    with no_sync():
        for _ in range(1000):
            eager.step()
        for _ in range(1000):
            graph.replay()
    check_equal(captured, eager)


@pytest.mark.parametrize("fresh", [False, True], ids=["static gradients", "gradients of the graph"])
def test_eight_steps_in_one_graph(fresh: bool, make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync) -> None:
    eager, captured = make(fresh=fresh), make(fresh=fresh)
    for loop in (eager, captured):
        warm_up(loop.step, 3)

    def eight() -> None:
        for _ in range(8):
            captured.step()

    graph = capture(eight)
    with no_sync():
        for _ in range(5):
            graph.replay()
            for _ in range(8):
                eager.step()
    check_equal(captured, eager)


def test_edits_between_replays_are_seen(make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync) -> None:
    eager, captured = make(), make()
    for loop in (eager, captured):
        warm_up(loop.step, 3)
    graph = capture(captured.step)
    with no_sync():
        for i in range(20):
            for loop in (eager, captured):
                loop.optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
                loop.optimizer.param_groups[1]["betas"] = (0.5 + i / 100, 0.99)
                loop.optimizer.param_groups[1]["weight_decay"] = i / 100
            graph.replay()
            eager.step()
    check_equal(captured, eager)


def test_eager_steps_between_replays(make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync) -> None:
    eager, captured = make(), make()
    for loop in (eager, captured):
        warm_up(loop.step, 3)
    graph = capture(captured.step)
    static = [p.grad for p in captured.params]
    with no_sync():
        for _ in range(50):
            graph.replay()
            captured.fresh = True  # the table of the eager steps follows new gradients, the graph's does not
            captured.step()
            captured.fresh = False
            for p, grad in zip(captured.params, static, strict=True):
                p.grad = grad
            graph.replay()
            captured.step()
            for _ in range(4):
                eager.step()
    check_equal(captured, eager)


@pytest.mark.parametrize("stands_still", [False, True])
def test_overflow_steps_are_skipped_on_the_device(
    stands_still: bool, make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync
) -> None:
    eager, captured = (make(skip_with_optimizer=stands_still) for _ in range(2))
    flags = []
    for loop in (eager, captured):
        loop.optimizer.found_inf = torch.zeros((), device=DEVICE)
        loop.optimizer.grad_scale = torch.full((), 2.0, device=DEVICE)
        flags.append(loop.optimizer.found_inf)
        warm_up(loop.step, 3)
    graph = capture(captured.step)
    with no_sync():
        for i in range(30):
            for flag in flags:
                flag.fill_(float(i % 3 == 1))
            graph.replay()
            eager.step()
    check_equal(captured, eager)
    assert captured.scheduler.last_epoch == 3 + (20 if stands_still else 30)
    assert int(captured.optimizer.state[captured.params[0]]["step"]) == 23


@pytest.mark.parametrize("replayed", [False, True])
def test_torchs_gradient_scaler(replayed: bool, make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync) -> None:
    """Overflows halve the scale and skip the step; the scales are powers of two, so what is left is exact."""
    scaled, plain = make(), make()
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, growth_interval=4)
    factor = torch.ones((), device=DEVICE)

    def step() -> None:
        scaled.optimizer.zero_grad()
        loss = sum((p * torch.sin(p.detach() * 3)).sum() for p in scaled.params)
        scaler.scale(loss * factor).backward()
        scaler.step(scaled.optimizer)
        scaler.update()
        scaled.scheduler.step()

    def plain_step(overflow: bool) -> None:
        for p in plain.params:
            p.grad = torch.sin(p.detach() * 3)
        plain.optimizer.found_inf = torch.full((), float(overflow), device=DEVICE)
        plain.optimizer.step()
        plain.scheduler.step()

    warm_up(step, 2)
    warm_up(lambda: plain_step(False), 2)
    again = capture(step).replay if replayed else step
    with no_sync():
        for i in range(8):
            factor.fill_(torch.inf if i % 6 == 1 else 1.0)
            again()
            plain_step(i % 6 == 1)
    check_equal(scaled, plain)
    assert int(scaled.optimizer.state[scaled.params[0]]["step"]) == 2 + 6
    assert scaler.get_scale() == 2.0**9  # halved, doubled after four good steps, halved


def test_two_optimizers_in_one_graph(make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync) -> None:
    loops = [make("adamw"), make("sgd"), make("adamw"), make("sgd")]
    for loop in loops:
        warm_up(loop.step, 2)

    def both() -> None:
        loops[0].step()
        loops[1].step()

    graph = capture(both)
    with no_sync():
        for _ in range(25):
            graph.replay()
            loops[2].step()
            loops[3].step()
    check_equal(loops[0], loops[2])
    check_equal(loops[1], loops[3])


def test_two_schedulers_on_one_optimizer(make: Make, capture: Capture, warm_up: WarmUp, no_sync: NoSync) -> None:
    loops = [make(), make()]
    more = [(ExponentialLR(x.optimizer, 0.99, fused=True), StepLR(x.optimizer, 7)) for x in loops]

    def step(i: int) -> None:
        loops[i].step()
        for scheduler in more[i]:
            scheduler.step()

    for i in range(2):
        warm_up(lambda i=i: step(i), 2)
    graph = capture(lambda: step(0))
    with no_sync():
        for _ in range(30):
            graph.replay()
            step(1)
    check_equal(*loops)


def test_a_capture_without_a_warm_up_says_what_to_do(make: Make, capture: Capture) -> None:
    loop = make()
    with pytest.raises(RuntimeError, match=r"run one optimizer\.step\(\)"):
        capture(loop.step)


def test_a_scheduler_step_may_be_compiled_during_the_capture(make: Make, capture: Capture, warm_up: WarmUp) -> None:
    loop = make(fused=True)
    warm_up(loop.step, 2)
    other = ExponentialLR(loop.optimizer, 0.5)
    before = loop.lrs()
    graph = capture(other.step)
    assert loop.lrs() == before
    graph.replay()
    graph.replay()
    assert loop.lrs() == [x * 0.25 for x in before]  # twice a half: exact
