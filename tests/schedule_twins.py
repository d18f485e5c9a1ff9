"""One of our schedulers beside torch's of the same name, each with its optimizer, and the argument sets to try."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tolerances import COSINE_PAST_TROUGH_RELATIVE, SCHEDULE_RELATIVE
from torch.optim import lr_scheduler as torch_lr_scheduler

import fused_sched
from fused_sched import backends

NAMES = ("CosineAnnealingLR", "CyclicLR", "ExponentialLR", "LambdaLR", "MultiStepLR", "StepLR")


class Decay:
    """A callable object with state of its own, as LambdaLR and CyclicLR save it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: float) -> float:
        return self.rate**step


def warmup(step: int, length: int = 100) -> float:
    return min(1.0, (step + 1) / length)


def inverse_square_root(step: int) -> float:
    return 1.0 / math.sqrt(step + 1.0)


@dataclass(frozen=True)
class Case:
    """Arguments of one scheduler.

    Attributes:
        name: class name.
        arguments: keyword arguments; called with the number of groups, so that lists fit.
        relative: how far a backend's libm may take the lr; 0 where every operation is IEEE's.
        steps: how many steps to compare; fewer where torch itself ends.
    """

    name: str
    arguments: Callable[[int], dict[str, Any]]
    relative: float = 0.0
    steps: int = 2_000
    label: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.label}"


def _case(name: str, label: str, relative: float = 0.0, steps: int = 2_000, **arguments: Any) -> Case:
    def for_groups(n: int) -> dict[str, Any]:
        return {k: v(n) if isinstance(v, PerGroup) else v for k, v in arguments.items()}

    return Case(name, for_groups, relative, steps, label)


class PerGroup:
    """An argument that is a list with one value for each group."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __call__(self, n: int) -> list[Any]:
        return [self.make(i) for i in range(n)]


FULL = 10_000  # steps of at least one case of each scheduler

CASES: list[Case] = [
    _case("StepLR", "every 1000", steps=FULL, step_size=1000, gamma=0.5),
    _case("StepLR", "every step", step_size=1, gamma=0.999),
    _case("StepLR", "negative step_size", step_size=-2, gamma=0.5, steps=200),
    _case("StepLR", "fractional step_size", step_size=2.5, gamma=0.5, steps=200),
    _case("StepLR", "gamma 0", step_size=3, gamma=0, steps=20),
    _case("StepLR", "negative gamma", step_size=3, gamma=-1, steps=100),
    _case("MultiStepLR", "three", SCHEDULE_RELATIVE, FULL, milestones=[100, 5000, 9000], gamma=0.3),
    _case("MultiStepLR", "duplicates", SCHEDULE_RELATIVE, 20, milestones=[2, 2, 3], gamma=0.3),
    _case("MultiStepLR", "unsorted", SCHEDULE_RELATIVE, 20, milestones=[3, 1], gamma=0.1),
    _case("MultiStepLR", "float", SCHEDULE_RELATIVE, 20, milestones=[2.0, 3.5], gamma=0.1),
    _case("MultiStepLR", "empty", SCHEDULE_RELATIVE, 20, milestones=[]),
    _case("MultiStepLR", "decays at construction", SCHEDULE_RELATIVE, 20, milestones=[0, 5], gamma=0.5),
    _case("MultiStepLR", "many", SCHEDULE_RELATIVE, 1500, milestones=[*range(3, 1000, 7)], gamma=0.99),
    _case("ExponentialLR", "slow", steps=FULL, gamma=0.9997),
    _case("ExponentialLR", "gamma 0", gamma=0, steps=10),
    _case("ExponentialLR", "down to subnormals", gamma=0.5),
    _case("ExponentialLR", "growing", gamma=1.01),
    _case("CosineAnnealingLR", "to the trough", SCHEDULE_RELATIVE, FULL, T_max=10_001, eta_min=1e-5),
    _case("CosineAnnealingLR", "many periods", COSINE_PAST_TROUGH_RELATIVE, FULL, T_max=50, eta_min=1e-3),
    _case("CosineAnnealingLR", "T_max 1", SCHEDULE_RELATIVE, 50, T_max=1),
    _case("CosineAnnealingLR", "T_max 2", SCHEDULE_RELATIVE, 50, T_max=2),
    _case("CosineAnnealingLR", "T_max 2.5", SCHEDULE_RELATIVE, 50, T_max=2.5),
    _case("CosineAnnealingLR", "negative T_max", SCHEDULE_RELATIVE, 50, T_max=-2),
    _case("CosineAnnealingLR", "eta_min above lr", COSINE_PAST_TROUGH_RELATIVE, 500, T_max=100, eta_min=2.0),
    _case("CyclicLR", "triangular", steps=FULL, base_lr=0.01, max_lr=0.1, step_size_up=300, step_size_down=500),
    _case("CyclicLR", "lists", base_lr=PerGroup(lambda i: 0.01 / (i + 1)), max_lr=PerGroup(lambda i: 0.1 * (i + 1)),
          step_size_up=7),
    _case("CyclicLR", "triangular2", SCHEDULE_RELATIVE, base_lr=0.01, max_lr=0.1, step_size_up=10, mode="triangular2"),
    _case("CyclicLR", "exp_range", SCHEDULE_RELATIVE, base_lr=0.01, max_lr=0.1, step_size_up=10, mode="exp_range",
          gamma=0.999),
    _case("CyclicLR", "no way down", base_lr=0.01, max_lr=0.1, step_size_up=10, step_size_down=0, steps=100),
    _case("CyclicLR", "momentum lists", base_lr=0.01, max_lr=0.1, step_size_up=7,
          base_momentum=PerGroup(lambda i: 0.5 + 0.1 * i), max_momentum=PerGroup(lambda i: 0.6 + 0.1 * i), steps=300),
    _case("CyclicLR", "momentum alone", base_lr=0.01, max_lr=0.1, step_size_up=7, cycle_momentum=False, steps=300),
    _case("CyclicLR", "scale_fn of cycles", base_lr=0.01, max_lr=0.1, step_size_up=7, scale_fn=Decay(0.9), steps=500),
    _case("CyclicLR", "scale_fn of iterations", base_lr=0.01, max_lr=0.1, step_size_up=7, scale_mode="iterations",
          scale_fn=inverse_square_root, steps=500),
    _case("CyclicLR", "scale_fn makes mode ignored", base_lr=0.01, max_lr=0.1, step_size_up=7, mode="nonsense",
          scale_fn=inverse_square_root, steps=100),
    _case("LambdaLR", "function", steps=FULL, lr_lambda=inverse_square_root),
    _case("LambdaLR", "list", lr_lambda=PerGroup(lambda i: Decay(0.99 - 0.1 * i))),
    _case("LambdaLR", "callable object", lr_lambda=Decay(0.999)),
    _case("LambdaLR", "partial", lr_lambda=functools.partial(warmup, length=50), steps=200),
    _case("LambdaLR", "int", lr_lambda=lambda step: step // 10, steps=200),
    _case("LambdaLR", "bool", lr_lambda=lambda step: step % 3 == 0, steps=200),
    _case("LambdaLR", "numpy float64", lr_lambda=lambda step: np.float64(0.5) ** (step / 7), steps=200),
    _case("LambdaLR", "numpy float32", lr_lambda=lambda step: np.float32(1 / (1 + step)), steps=200),
    _case("LambdaLR", "nan and inf", lr_lambda=lambda step: [1.0, math.nan, math.inf, -0.0][step % 4], steps=20),
]  # fmt: skip


def parameters(n_groups: int, device: str = "cpu") -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((3,), 1.0 + i, device=device)) for i in range(n_groups)]


def device_of(backend: str | None) -> str:
    """Where the parameters go: to the CPU if the backend serves it."""
    return "cpu" if backend is None or "cpu" in backends._DEVICES[backend] else "cuda"


def patience(backend: str, steps: int) -> int:
    """``steps``, or fewer: the reference backend takes about 0.5 ms an advance, Triton's interpreter much longer."""
    if backend == "cpu":
        return steps
    interpreted = backend == "triton" and not torch.cuda.is_available()
    return min(steps, 6 if interpreted else 150)


def optimizer(module: Any, kind: str, lrs: list[float], **options: Any) -> Any:
    """An optimizer of ``module`` with one param group of one parameter for each lr."""
    device = device_of(options.get("backend"))
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters(len(lrs), device), lrs, strict=True)]
    if kind == "SGD":
        options = {"momentum": 0.7, **options}
    if module is torch.optim:
        options = {"foreach": False, **{k: v for k, v in options.items() if k != "backend"}}
    made = getattr(module, kind)(groups, lr=0.123, **options)
    made._opt_called = True  # most tests drive the scheduler alone
    return made


@dataclass
class Twins:
    """Ours and torch's, to be driven alike."""

    ours: Any
    torchs: Any
    our_optimizer: Any
    torch_optimizer: Any

    def step(self) -> None:
        self.ours.step()
        self.torchs.step()

    def edit(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Apply ``change`` to the param groups of both."""
        change(self.our_optimizer.param_groups)
        change(self.torch_optimizer.param_groups)

    def both(self, act: Callable[[Any, Any], None]) -> None:
        """``act(scheduler, optimizer)`` on both."""
        act(self.ours, self.our_optimizer)
        act(self.torchs, self.torch_optimizer)

    def optimizer_step(self) -> None:
        for made in (self.our_optimizer, self.torch_optimizer):
            for group in made.param_groups:
                for p in group["params"]:
                    p.grad = torch.ones_like(p) if p.grad is None else p.grad.fill_(1.0)
            made.step()


def twins(
    name: str,
    arguments: dict[str, Any] | None = None,
    *,
    lrs: list[float],
    kind: str = "SGD",
    backend: str | None = None,
    ours: dict[str, Any] | None = None,
    **options: Any,
) -> Twins:
    """Both schedulers, fresh; ``ours`` holds arguments that torch's class does not have."""
    arguments = arguments or DEFAULTS[name]
    mine = optimizer(fused_sched.optim, kind, lrs, backend=backend, **options)
    theirs = optimizer(torch.optim, kind, lrs, **options)
    return Twins(
        getattr(fused_sched.lr_scheduler, name)(mine, **arguments, **(ours or {})),
        getattr(torch_lr_scheduler, name)(theirs, **arguments),
        mine,
        theirs,
    )


# One set of arguments for each scheduler, in which something happens within ten steps.
DEFAULTS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 5, 5, 9], "gamma": 0.5},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 7, "eta_min": 0.01},
    "CyclicLR": {"base_lr": 0.02, "max_lr": 0.4, "step_size_up": 4, "mode": "exp_range", "gamma": 0.98},
    "LambdaLR": {"lr_lambda": inverse_square_root},
}


def random_lrs(rng: random.Random, n: int) -> list[float]:
    return [10.0 ** rng.uniform(-4, 0) for _ in range(n)]


def seen(made: Any) -> list[dict[str, float]]:
    """What a scheduler may write in each group, as plain numbers."""
    rows = []
    for group in made.param_groups:
        row = {"lr": float(group["lr"])}
        if "momentum" in group:
            row["momentum"] = float(group["momentum"])
        if "betas" in group:
            row["beta1"], row["beta2"] = (float(x) for x in group["betas"])
        rows.append(row)
    return rows


def same_bits(a: float, b: float) -> bool:
    """Equal, the sign of zero included; NaN equals NaN."""
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1.0, a) == math.copysign(1.0, b))


def assert_alike(actual: list[dict[str, float]], expected: list[dict[str, float]], relative: float, when: str) -> None:
    """Compare two :func:`seen`; ``relative`` 0 asks for the same bits."""
    assert len(actual) == len(expected)
    for group, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.keys() == b.keys()
        for key in a:
            near = same_bits(a[key], b[key]) or (relative and math.isclose(a[key], b[key], rel_tol=relative))
            assert near, f"{when}: group {group}: {key} is {a[key]!r}, torch has {b[key]!r}"
