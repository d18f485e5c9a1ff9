"""Every scheduler with arguments for a run of given length, made alike with torch's classes and with ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim.swa_utils import SWALR

import fused_sched

LR = 1e-3
TORCH = SimpleNamespace(**vars(torch.optim.lr_scheduler), SWALR=SWALR)  # torch has one of them elsewhere


def inverse_square_root(step: int) -> float:
    """A function for LambdaLR, as users write them."""
    return (1 + step / 1000) ** -0.5


def slowly(step: int) -> float:
    """A factor for MultiplicativeLR."""
    return 0.99999 if step % 3 else 1.0


Make = Callable[[Any, Any, int], Any]


@dataclass(frozen=True)
class Case:
    """A scheduler; ``make(library, optimizer, steps)`` builds it for a run of ``steps`` steps."""

    name: str
    make: Make
    label: str = ""

    def __str__(self) -> str:
        return f"{self.name}{', ' if self.label else ''}{self.label}"


def _sequential(m: Any, o: Any, n: int) -> Any:
    parts = [m.LinearLR(o, 0.01, total_iters=n // 20), m.CosineAnnealingLR(o, n, LR / 10)]
    return m.SequentialLR(o, parts, milestones=[n // 20])


def _chained(m: Any, o: Any, n: int) -> Any:
    return m.ChainedScheduler([m.ConstantLR(o, 0.1, n // 20), m.ExponentialLR(o, 10 ** (-2 / n))], optimizer=o)


CASES = [
    Case("StepLR", lambda m, o, n: m.StepLR(o, max(1, n // 100), 0.97)),
    Case("MultiStepLR", lambda m, o, n: m.MultiStepLR(o, [n // 2, 3 * n // 4], 0.3)),
    Case("ConstantLR", lambda m, o, n: m.ConstantLR(o, 0.3, n // 10)),
    Case("LinearLR", lambda m, o, n: m.LinearLR(o, 0.01, 1.0, n // 2)),
    Case("ExponentialLR", lambda m, o, n: m.ExponentialLR(o, 10 ** (-2 / n))),
    Case("PolynomialLR", lambda m, o, n: m.PolynomialLR(o, n + n // 4, 2.0)),
    Case("CosineAnnealingLR", lambda m, o, n: m.CosineAnnealingLR(o, n, LR / 10), "one descent"),
    Case("CosineAnnealingLR", lambda m, o, n: m.CosineAnnealingLR(o, max(1, n // 4), LR / 10), "past the trough"),
    Case("CosineAnnealingWarmRestarts", lambda m, o, n: m.CosineAnnealingWarmRestarts(o, max(1, n // 10), 2, LR / 10)),
    Case("CyclicLR", lambda m, o, n: m.CyclicLR(o, LR / 10, LR, max(1, n // 20), cycle_momentum=False)),
    Case("OneCycleLR", lambda m, o, n: m.OneCycleLR(o, LR, total_steps=n + 10)),
    Case("SWALR", lambda m, o, n: m.SWALR(o, LR / 3, max(1, n // 2), "cos")),
    Case("LambdaLR", lambda m, o, n: m.LambdaLR(o, inverse_square_root)),
    Case("MultiplicativeLR", lambda m, o, n: m.MultiplicativeLR(o, slowly)),
    Case("SequentialLR", _sequential, "linear, then cosine"),
    Case("ChainedScheduler", _chained, "constant and exponential"),
    Case("ReduceLROnPlateau", lambda m, o, n: m.ReduceLROnPlateau(o, factor=0.9, patience=max(1, n // 100))),
]


def present() -> list[Case]:
    """Cases of the schedulers that this version has, the parts of composed ones included."""
    names = set(fused_sched.lr_scheduler.__all__)
    needs = {"SequentialLR": {"LinearLR"}, "ChainedScheduler": {"ConstantLR"}}
    return [case for case in CASES if {case.name, *needs.get(case.name, set())} <= names]


def one_each() -> list[Case]:
    """The first case of each scheduler that there is."""
    return list({case.name: case for case in reversed(present())}.values())[::-1]


def stepper(scheduler: Any) -> Callable[[], object]:
    """One step of a scheduler; one that wants a metric gets a loss that stopped falling."""
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return lambda: scheduler.step(1.0)
    return scheduler.step
