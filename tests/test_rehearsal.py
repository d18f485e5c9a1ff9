"""Warm-up runs that leave no trace: whatever a training function may do is put back, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fused_sched import Monitor, lr_scheduler, optim
from fused_sched.graphs.rehearsal import Rehearsal
from fused_sched.memory.platforms import TORCH

CPU = torch.device("cpu")


class Model:
    """A model with all that training changes, and its optimizer, scheduler and scaler."""

    def __init__(self, backend: Any = "cpu", name: str = "AdamW", fused: bool = True, **options: Any) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(
            nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
        )
        self.optimizer: Any = getattr(optim, name)(self.net.parameters(), lr=0.1, backend=backend, **options)
        warm = lr_scheduler.LinearLR(self.optimizer, total_iters=3)
        cosine = lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=9)
        self.scheduler = lr_scheduler.SequentialLR(self.optimizer, [warm, cosine], milestones=[4], fused=fused)
        self.generator = torch.Generator().manual_seed(8)
        self.x, self.counter = torch.randn(6, 5), torch.zeros(3)

    def step(self) -> None:
        self.optimizer.zero_grad()
        noise = torch.randn(6, 5, generator=self.generator)
        loss = self.net(self.x + 0.01 * noise).square().mean()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.counter[1:].add_(1)

    def seen(self) -> list[Any]:
        saved = self.optimizer.state_dict(), self.scheduler.state_dict()
        tensors = [*self.net.state_dict().values(), self.counter, torch.get_rng_state(), self.generator.get_state()]
        grads = [None if p.grad is None else p.grad.clone() for p in self.net.parameters()]
        return [[t.clone() for t in tensors], grads, repr(saved)]


def rehearse(model: Any, times: int = 3, watched: int = 2) -> None:
    rehearsal = Rehearsal([model.optimizer], {}, CPU, TORCH)
    with rehearsal.going_on():
        for k in range(times):
            if k < watched:
                with rehearsal.watched():
                    model.step()
            else:
                model.step()


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW": ("AdamW", {}),
    "amsgrad": ("AdamW", {"amsgrad": True}),
    "SGD": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9, "dampening": 0.1}),
    "around": ("AdamW", {"max_grad_norm": 0.5, "ema_decay": 0.9, "skip_nonfinite": True}),
    "spikes": ("Adam", {"skip_spikes": optim.SpikeRule(4, 3.0)}),
    "zeroing": ("SGD", {"momentum": 0.9, "zero_grad_in_step": True}),
}


@pytest.mark.thin("triton")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("case", OPTIONS)
def test_no_trace_is_left(case: str, before: int, fused: bool, backend: Any) -> None:
    name, options = OPTIONS[case]
    model, other = (Model(backend, name, fused, **options) for _ in range(2))
    for one in (model, other):
        torch.manual_seed(5)
        for _ in range(before):
            one.step()
    seen = model.seen()
    rehearse(model)
    assert_equal(model.seen(), seen)
    for one in (model, other):
        torch.manual_seed(6)
        for _ in range(4):
            one.step()
    assert_equal(model.seen(), other.seen())


class Scaled(Model):
    """With GradScaler, whose scale is made when it is first used."""

    def __init__(self) -> None:
        super().__init__("cpu", "SGD")
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.net(self.x).square().mean()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()


@pytest.mark.parametrize("before", [0, 3])
def test_a_gradient_scaler(before: int) -> None:
    model = Scaled()
    for _ in range(before):
        model.step()
    seen, state = model.seen(), model.scaler.state_dict()
    rehearse(model, 5, 4)
    assert_equal(model.seen(), seen)
    assert model.scaler.state_dict() == state
    model.step()
    assert model.scaler.get_scale() == (2.0**12 if before else 2.0**10)


def test_what_is_compiled_is_compiled_in_the_last_run() -> None:
    model, runs = Model(), []

    def backend(module: Any, inputs: Any) -> Any:
        runs.append(module)
        return module.forward

    model.net = torch.compile(model.net, backend=backend)  # type: ignore[assignment]
    seen = model.seen()
    rehearse(model)
    assert_equal(model.seen(), seen)
    assert runs


def test_a_monitor_is_told_nothing() -> None:
    model = Model()
    monitor = Monitor(model.optimizer, every=1)
    model.step()
    rehearse(model)
    model.step()
    monitor.flush()
    assert [row.step for row in monitor.rows] == [0, 1]


def test_a_schedule_of_torchs_optimizer() -> None:
    """Its lr is a tensor, which a launch writes to."""

    class Foreign(Model):
        def __init__(self) -> None:
            super().__init__()
            self.lr = torch.tensor(0.1)
            self.other = torch.optim.NAdam([nn.Parameter(torch.ones(2))], lr=self.lr)
            self.of_other = lr_scheduler.ExponentialLR(self.other, 0.5)

        def step(self) -> None:
            super().step()
            for p in self.other.param_groups[0]["params"]:
                p.grad = torch.ones(2)
            self.other.step()
            self.of_other.step()

    model = Foreign()
    model.step()
    seen = model.seen(), model.lr.clone(), repr(model.other.state_dict()), model.of_other.last_epoch
    rehearse(model)
    assert_equal(model.seen(), seen[0])
    assert (model.lr, repr(model.other.state_dict()), model.of_other.last_epoch) == seen[1:]


def test_another_optimizer_is_refused_before_its_step() -> None:
    model, other = Model(), Model()
    seen = model.seen(), other.seen()

    class Both:
        optimizer = model.optimizer

        def step(self) -> None:
            model.step()
            other.step()

    with pytest.raises(RuntimeError, match=r"a step of AdamW is taken inside, which was not named"):
        rehearse(Both())
    assert_equal(model.seen(), seen[0])
    assert_equal(list(other.net.parameters()), list(Model().net.parameters()))
    assert other.scheduler.last_epoch == 0
