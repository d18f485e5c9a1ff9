"""get_lr of torch's and of users' schedulers becomes a program with get_lr's own bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from fused_sched.lr_scheduler.traced_get_lr import TracedGetLR, trace_get_lr
from fused_sched.memory.control_block import FIELDS, GROUP_STRIDE, GROUPS_OFFSET
from fused_sched.program.builder import Builder
from fused_sched.trace import Untraceable


def _optimizer(n: int = 3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1 * (g + 1)} for g in range(n)])


class Recursive(torchs.LRScheduler):
    def __init__(self, optimizer: Any, gamma: float, every: int) -> None:
        self.gamma, self.every = gamma, every
        super().__init__(optimizer)

    def due(self) -> bool:
        return self.last_epoch > 0 and self.last_epoch % self.every == 0

    def get_lr(self) -> list[Any]:
        return [self._next(group["lr"]) if self.due() else group["lr"] for group in self.optimizer.param_groups]

    def _next(self, lr: float) -> float:
        return max(lr * self.gamma, 1e-6)


class WarmCosine(torchs.CosineAnnealingLR):
    def get_lr(self) -> list[Any]:
        if self.last_epoch < 10:
            return [base * (self.last_epoch + 1) / 10 for base in self.base_lrs]
        return super().get_lr()


class Threshold(torchs.LRScheduler):
    def get_lr(self) -> list[Any]:
        lrs = []
        for group in self.optimizer.param_groups:
            lr = group["lr"] * 0.5
            if lr < 1e-3:
                lr = 1e-3
            lrs.append(lr)
        return lrs


class Neighbour(torchs.LRScheduler):
    def get_lr(self) -> list[Any]:
        groups = self.optimizer.param_groups
        return [groups[i - 1]["lr"] for i in range(len(groups))]


class Writes(torchs.LRScheduler):
    def get_lr(self) -> list[Any]:
        self.previous = self.last_epoch
        return list(self.base_lrs)


class WritesGroup(torchs.LRScheduler):
    def get_lr(self) -> list[Any]:
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.1
        return list(self.base_lrs)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: torchs.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o: torchs.MultiStepLR(o, [3, 10, 10, 50, 51, 90], 0.5),
    "ExponentialLR": lambda o: torchs.ExponentialLR(o, 0.97),
    "CosineAnnealingLR": lambda o: torchs.CosineAnnealingLR(o, 37, 1e-4),
    "LinearLR": lambda o: torchs.LinearLR(o, 0.25, 1.0, 20),
    "ConstantLR": lambda o: torchs.ConstantLR(o, 0.5, 9),
    "PolynomialLR": lambda o: torchs.PolynomialLR(o, 60, 1.7),
    "MultiplicativeLR": lambda o: torchs.MultiplicativeLR(o, lambda epoch: 0.9 if epoch % 2 else 0.99),
    "LambdaLR": lambda o: torchs.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (e + 1), lambda e: 1.0]),
    "OneCycleLR": lambda o: torchs.OneCycleLR(o, [0.1, 0.2, 0.3], 200, cycle_momentum=False),
    "Recursive": lambda o: Recursive(o, 0.5, 4),
    "WarmCosine": lambda o: WarmCosine(o, 50),
    "Threshold": Threshold,
}


def _advance_on_host(traced: TracedGetLR, scheduler: Any, epoch: int, lrs: list[float]) -> list[float]:
    n = len(lrs)
    b = Builder(n)
    lr = traced.emit(b, b.register("epoch", float(epoch)), b.register("count", float(epoch + 1)))
    b.set_field("lr", lr)
    program = b.finish("get_lr")
    control = [0.0] * (GROUPS_OFFSET + GROUP_STRIDE * n)
    for g, value in enumerate(lrs):
        control[GROUPS_OFFSET + GROUP_STRIDE * g + FIELDS["lr"]] = value
    program.compile_host()(program.initial_memory(range(program.n_groups)).tolist(), control)
    return [control[GROUPS_OFFSET + GROUP_STRIDE * g + FIELDS["lr"]] for g in range(n)]


@pytest.mark.parametrize("name", MAKERS)
def test_get_lr_has_its_own_bits(name: str) -> None:
    optimizer = _optimizer()
    scheduler = MAKERS[name](optimizer)
    traced = trace_get_lr(scheduler)
    assert traced.compared > 50
    for _ in range(120):
        before = [float(g["lr"]) for g in optimizer.param_groups]
        optimizer.step()
        scheduler.step()
        after = [float(g["lr"]) for g in optimizer.param_groups]
        assert _advance_on_host(traced, scheduler, scheduler.last_epoch, before) == after, scheduler.last_epoch
    assert not traced.changed()


def test_a_step_after_the_last_becomes_a_trap() -> None:
    assert trace_get_lr(MAKERS["OneCycleLR"](_optimizer())).traps


def test_changed_attributes_are_seen() -> None:
    scheduler = Recursive(_optimizer(), 0.5, 4)
    traced = trace_get_lr(scheduler)
    assert not traced.changed()
    scheduler.gamma = 0.25
    assert traced.changed()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Neighbour, r"the lr of group 0 depends on 'lr' of group 2"),
        (Writes, r"it assigns to .previous of a"),
        (WritesGroup, r"it changes a param group"),
    ],
)
def test_refused(make: Any, reason: str) -> None:
    optimizer = _optimizer()
    scheduler = make(optimizer)
    scheduler.__dict__.pop("previous", None)
    with pytest.raises(Untraceable, match=reason):
        trace_get_lr(scheduler)
    assert "previous" not in scheduler.__dict__
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.01) or make is WritesGroup
