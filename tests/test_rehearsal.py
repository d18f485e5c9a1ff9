"""Warm-up runs that leave no trace: whatever a training function may do is put back, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fused_sched import lr_scheduler, optim
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
    rehearsal = Rehearsal([model.optimizer], [], CPU, TORCH)
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
