"""One of our schedulers beside torch's of the same name, each with its optimizer, and the argument sets to try."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lane
import measured
import numpy as np
import torch
from tolerances import COSINE_PAST_TROUGH_RELATIVE, SCHEDULE_RELATIVE, UPDATE_RELATIVE
from torch.optim import lr_scheduler as torch_lr_scheduler
from torch.optim import swa_utils

import fused_sched
from fused_sched import backends, lr_scheduler

OURS = lr_scheduler
TORCH = SimpleNamespace(
    **vars(torch_lr_scheduler),
    SWALR=swa_utils.SWALR,
    KLAdaptiveLR=measured.KLAdaptiveLR,
    FeedbackLR=measured.FeedbackLR,
)
HOMES = {"ours": (fused_sched.optim, OURS), "torch": (torch.optim, TORCH)}

LEAVES = (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LambdaLR",
    "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "SWALR", "StepLR",
)  # fmt: skip
NESTED = ("ChainedScheduler", "SequentialLR")
NAMES = (*LEAVES, *NESTED)  # what can be fused: step() takes nothing
EVERY = (*NAMES, "ReduceLROnPlateau")
# What torch does not have; its twin is written for the tests. Each with arguments.
MEASURED: dict[str, dict[str, Any]] = {
    "KLAdaptiveLR": {"target_kl": 0.01, "min_lr": 1e-6, "max_lr": 1.0},
    "FeedbackLR": {"function": measured.by_kl},
}


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


class Recorder:
    """1 / (step + 1), and a list of the steps it was asked for: a side effect, so it is never traced."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, step: float) -> float:
        self.calls.append(step)
        return 1.0 / (step + 1)


class Parts:
    """The argument of a SequentialLR or ChainedScheduler: names of schedulers and their arguments."""

    def __init__(self, *parts: tuple[str, dict[str, Any]]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"Parts{self.parts}"


def build(home: Any, name: str, made: Any, /, **arguments: Any) -> Any:
    """The scheduler ``name`` of ``home`` on the optimizer ``made``, with all its parts."""
    for key, value in arguments.items():
        if isinstance(value, Parts):
            arguments[key] = [build(home, part, made, **more) for part, more in value.parts]
        elif isinstance(value, list):
            arguments[key] = [*value]  # torch's class keeps it, and a test may change it
    return getattr(home, name)(optimizer=made, **arguments)


def metric(step: int) -> float:
    """A loss that falls with plateaus, for ReduceLROnPlateau; sometimes NaN."""
    return math.nan if step % 11 == 7 else 1.0 / (1 + step // 6) + (step % 3) / 64


def divergence(step: int) -> float:
    """What KLAdaptiveLR and FeedbackLR follow in tests."""
    return (0.001, 0.05, 0.01, math.inf, 0.0, 0.2, 0.003)[step % 7]


def advance(scheduler: Any) -> None:
    """One step of any scheduler."""
    if isinstance(scheduler, torch_lr_scheduler.ReduceLROnPlateau):
        scheduler.step(metric(scheduler.last_epoch))
        return
    scheduler.step()
    # for the next step, which may be the optimizer's
    if type(scheduler).__name__ in MEASURED and scheduler.last_epoch % 4 != 2:
        scheduler.observe(divergence(scheduler.last_epoch))
    observe_in_parts(scheduler)


def observe_in_parts(scheduler: Any) -> None:
    """Give a number to all parts that follow one, also to those that are not due."""
    for part in getattr(scheduler, "_schedulers", ()):
        if type(part).__name__ in MEASURED:
            part.observe(divergence(part.last_epoch))
        observe_in_parts(part)


def position(scheduler: Any) -> Any:
    """``last_epoch``, and that of all parts."""
    inner = [position(part) for part in getattr(scheduler, "_schedulers", [])]
    return getattr(scheduler, "last_epoch", None), inner


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

_WARMUP = ("LinearLR", {"start_factor": 0.1, "total_iters": 20})
_COSINE = ("CosineAnnealingLR", {"T_max": 400, "eta_min": 1e-4})

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
    _case("CyclicLR", "scale_fn of cycles", SCHEDULE_RELATIVE, base_lr=0.01, max_lr=0.1, step_size_up=7,
          scale_fn=Decay(0.9), steps=500),
    _case("CyclicLR", "scale_fn of iterations", SCHEDULE_RELATIVE, base_lr=0.01, max_lr=0.1, step_size_up=7,
          scale_mode="iterations",
          scale_fn=inverse_square_root, steps=500),
    _case("CyclicLR", "scale_fn makes mode ignored", SCHEDULE_RELATIVE, base_lr=0.01, max_lr=0.1, step_size_up=7,
          mode="nonsense",
          scale_fn=inverse_square_root, steps=100),
    _case("LambdaLR", "function", SCHEDULE_RELATIVE, steps=FULL, lr_lambda=inverse_square_root),
    _case("LambdaLR", "list", SCHEDULE_RELATIVE, lr_lambda=PerGroup(lambda i: Decay(0.99 - 0.1 * i))),
    _case("LambdaLR", "callable object", SCHEDULE_RELATIVE, lr_lambda=Decay(0.999)),
    _case("LambdaLR", "partial", SCHEDULE_RELATIVE, lr_lambda=functools.partial(warmup, length=50), steps=200),
    _case("LambdaLR", "int", SCHEDULE_RELATIVE, lr_lambda=lambda step: step // 10, steps=200),
    _case("LambdaLR", "bool", SCHEDULE_RELATIVE, lr_lambda=lambda step: step % 3 == 0, steps=200),
    _case("LambdaLR", "numpy float64", SCHEDULE_RELATIVE, lr_lambda=lambda step: np.float64(0.5) ** (step / 7),
          steps=200),
    _case("LambdaLR", "numpy float32", lr_lambda=lambda step: np.float32(1 / (1 + step)), steps=200),
    _case("LambdaLR", "nan and inf", lr_lambda=lambda step: [1.0, math.nan, math.inf, -0.0][step % 4], steps=20),
    _case("LambdaLR", "side effect", steps=300, lr_lambda=Recorder()),
    _case("MultiplicativeLR", "constant", steps=FULL, lr_lambda=lambda step: 0.9997),
    _case("MultiplicativeLR", "function", SCHEDULE_RELATIVE, 300, lr_lambda=inverse_square_root),
    _case("MultiplicativeLR", "list", SCHEDULE_RELATIVE, 300, lr_lambda=PerGroup(lambda i: Decay(0.999 - 0.1 * i))),
    _case("MultiplicativeLR", "branches", lr_lambda=lambda step: 0.5 if step % 10 == 0 else 1.0, steps=300),
    _case("MultiplicativeLR", "side effect", steps=50, lr_lambda=Recorder()),
    _case("ConstantLR", "seven", steps=FULL, factor=0.3, total_iters=7),
    _case("ConstantLR", "undone at once", steps=20, factor=0.3, total_iters=1),
    _case("ConstantLR", "total_iters 0", steps=20, factor=0.3, total_iters=0),
    _case("ConstantLR", "factor 0 for ever", steps=20, factor=0, total_iters=0),
    _case("ConstantLR", "negative total_iters", steps=20, factor=0.5, total_iters=-3),
    _case("ConstantLR", "fractional total_iters", steps=20, factor=0.5, total_iters=2.5),
    _case("LinearLR", "up", steps=FULL, start_factor=0.01, total_iters=2_000),
    _case("LinearLR", "down to 0", steps=60, start_factor=1.0, end_factor=0.0, total_iters=40),
    _case("LinearLR", "no change", steps=20, start_factor=0.5, end_factor=0.5, total_iters=7),
    _case("LinearLR", "total_iters 0", steps=20, start_factor=0.25, total_iters=0),
    _case("LinearLR", "total_iters 1", steps=20, start_factor=0.25, total_iters=1),
    _case("LinearLR", "fractional total_iters", steps=20, start_factor=0.25, total_iters=6.5),
    _case("PolynomialLR", "power 1", SCHEDULE_RELATIVE, FULL, total_iters=9_000),
    _case("PolynomialLR", "power 2.3", SCHEDULE_RELATIVE, 100, total_iters=60, power=2.3),
    _case("PolynomialLR", "power 0", SCHEDULE_RELATIVE, 20, total_iters=9, power=0),
    _case("PolynomialLR", "total_iters 0", SCHEDULE_RELATIVE, 20, total_iters=0, power=2.0),
    _case("PolynomialLR", "total_iters 1", SCHEDULE_RELATIVE, 20, total_iters=1, power=0.5),
    _case("PolynomialLR", "fractional total_iters", SCHEDULE_RELATIVE, 20, total_iters=6.5, power=1.5),
    _case("CosineAnnealingWarmRestarts", "alike", SCHEDULE_RELATIVE, FULL, T_0=500, eta_min=1e-3),
    _case("CosineAnnealingWarmRestarts", "twice as long", SCHEDULE_RELATIVE, T_0=4, T_mult=2, eta_min=1e-3),
    _case("CosineAnnealingWarmRestarts", "three times as long", SCHEDULE_RELATIVE, T_0=1, T_mult=3, eta_min=1e-3),
    _case("CosineAnnealingWarmRestarts", "every step", SCHEDULE_RELATIVE, 50, T_0=1),
    _case("CosineAnnealingWarmRestarts", "eta_min above lr", SCHEDULE_RELATIVE, 50, T_0=7, eta_min=2),
    _case("OneCycleLR", "two phases", SCHEDULE_RELATIVE, FULL, max_lr=1.0, total_steps=FULL),
    _case("OneCycleLR", "one step past the end", SCHEDULE_RELATIVE, 40, max_lr=1.0, total_steps=40),
    _case("OneCycleLR", "past the end, linear", steps=40, max_lr=1.0, total_steps=40, anneal_strategy="linear"),
    _case("OneCycleLR", "three phases", SCHEDULE_RELATIVE, 60, max_lr=1.0, total_steps=60, three_phase=True),
    _case("OneCycleLR", "three phases, linear", steps=60, max_lr=1.0, total_steps=60, three_phase=True, pct_start=0.4,
          anneal_strategy="linear"),
    _case("OneCycleLR", "lists", SCHEDULE_RELATIVE, 200, max_lr=PerGroup(lambda i: 0.1 + i), epochs=10,
          steps_per_epoch=25, base_momentum=PerGroup(lambda i: 0.5 + 0.1 * i),
          max_momentum=PerGroup(lambda i: 0.6 + 0.1 * i), div_factor=10.0, final_div_factor=100.0),
    _case("OneCycleLR", "momentum alone", SCHEDULE_RELATIVE, 60, max_lr=0.4, total_steps=60, cycle_momentum=False),
    _case("OneCycleLR", "no first phase", SCHEDULE_RELATIVE, 30, max_lr=0.4, total_steps=30, pct_start=0.0),
    _case("OneCycleLR", "no second phase", SCHEDULE_RELATIVE, 29, max_lr=0.4, total_steps=30, pct_start=1.0),
    _case("SWALR", "cos", SCHEDULE_RELATIVE, FULL, swa_lr=0.05, anneal_epochs=3_000),
    _case("SWALR", "linear", steps=40, swa_lr=0.05, anneal_epochs=13, anneal_strategy="linear"),
    _case("SWALR", "anneal_epochs 0", SCHEDULE_RELATIVE, 20, swa_lr=0.05, anneal_epochs=0),
    _case("SWALR", "anneal_epochs 0, linear", steps=20, swa_lr=0.05, anneal_epochs=0, anneal_strategy="linear"),
    _case("SWALR", "anneal_epochs 1", SCHEDULE_RELATIVE, 20, swa_lr=0.05, anneal_epochs=1),
    _case("SWALR", "list", SCHEDULE_RELATIVE, 40, swa_lr=PerGroup(lambda i: 0.01 * i), anneal_epochs=13),
    _case("SequentialLR", "warmup and cosine", SCHEDULE_RELATIVE, 400, schedulers=Parts(_WARMUP, _COSINE),
          milestones=[20]),
    _case("SequentialLR", "duplicate milestones", steps=30, milestones=[2, 2], schedulers=Parts(
          ("ConstantLR", {"factor": 0.5, "total_iters": 9}), ("StepLR", {"step_size": 2}),
          ("ExponentialLR", {"gamma": 0.9}))),
    _case("SequentialLR", "unsorted milestones", steps=30, milestones=[9, 4, 12], schedulers=Parts(
          ("ConstantLR", {"factor": 0.5, "total_iters": 9}), ("StepLR", {"step_size": 2}),
          ("ExponentialLR", {"gamma": 0.9}), ("LinearLR", {"total_iters": 6}))),
    _case("SequentialLR", "milestone 0", steps=30, milestones=[0, 5], schedulers=Parts(
          ("ConstantLR", {"factor": 0.5, "total_iters": 9}), ("StepLR", {"step_size": 2}),
          ("ExponentialLR", {"gamma": 0.9}))),
    _case("SequentialLR", "fractional milestone", steps=30, milestones=[4.5], schedulers=Parts(
          ("ConstantLR", {"factor": 0.5, "total_iters": 9}), ("ExponentialLR", {"gamma": 0.9}))),
    _case("SequentialLR", "one scheduler", steps=30, milestones=[], schedulers=Parts(("StepLR", {"step_size": 2}))),
    _case("SequentialLR", "a sequence first", steps=60, milestones=[12], schedulers=Parts(
          ("SequentialLR", {"milestones": [4], "schedulers": Parts(
              ("ConstantLR", {"factor": 0.5, "total_iters": 9}), ("StepLR", {"step_size": 2, "gamma": 0.5}))}),
          ("ExponentialLR", {"gamma": 0.9}))),
    _case("ChainedScheduler", "three", SCHEDULE_RELATIVE, 500, schedulers=Parts(
          _WARMUP, _COSINE, ("MultiStepLR", {"milestones": [50, 200], "gamma": 0.3}))),
    _case("ChainedScheduler", "the last overwrites", steps=40, schedulers=Parts(
          ("ExponentialLR", {"gamma": 0.9}), ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.4, "step_size_up": 5}))),
    _case("ChainedScheduler", "one twice", steps=40, schedulers=Parts(
          ("ExponentialLR", {"gamma": 0.9}), ("ExponentialLR", {"gamma": 0.9}))),
    _case("ReduceLROnPlateau", "min rel", factor=0.5, patience=1, steps=300),
    _case("ReduceLROnPlateau", "max abs", mode="max", threshold_mode="abs", factor=0.9, patience=3, cooldown=2,
          steps=300),
    _case("ReduceLROnPlateau", "list", factor=0.5, patience=0, min_lr=PerGroup(lambda i: 0.001 * i), steps=300),
]  # fmt: skip


def parameters(n_groups: int, device: str = "cpu") -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((3,), 1.0 + i, device=device)) for i in range(n_groups)]


AnyBackend = str | backends.Backend


def name_of(backend: AnyBackend) -> str:
    """Of a backend that was given as such or by its name."""
    return backend.name if isinstance(backend, backends.Backend) else backend


def device_of(backend: AnyBackend | None) -> str:
    """Where the parameters go: to the CPU if the backend serves it; one that was made for a test does."""
    by_name = isinstance(backend, str) and "cpu" not in backends._DEVICES[backend]
    return "cuda" if by_name else "cpu"


def patience(backend: AnyBackend, steps: int) -> int:
    """``steps``, or fewer: the reference backend takes about 0.5 ms an advance, Triton's interpreter much longer."""
    if name_of(backend) == "cpu":
        return steps
    interpreted = name_of(backend) == "triton" and not lane.PTX and not torch.cuda.is_available()
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


def made_with(lrs: list[float], backend: AnyBackend | None = None, kind: str = "SGD", **options: Any) -> Any:
    """Our optimizer with one param group for each lr."""
    return optimizer(fused_sched.optim, kind, lrs, backend=backend, **options)


@dataclass
class Twins:
    """Ours and torch's, to be driven alike."""

    ours: Any
    torchs: Any
    our_optimizer: Any
    torch_optimizer: Any

    def step(self) -> None:
        advance(self.ours)
        advance(self.torchs)

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
    backend: AnyBackend | None = None,
    ours: dict[str, Any] | None = None,
    **options: Any,
) -> Twins:
    """Both schedulers, fresh; ``ours`` holds arguments that torch's class does not have."""
    arguments = arguments or {**DEFAULTS, **MEASURED}[name]
    mine = optimizer(fused_sched.optim, kind, lrs, backend=backend, **options)
    theirs = optimizer(torch.optim, kind, lrs, **options)
    return Twins(
        build(OURS, name, mine, **arguments, **(ours or {})), build(TORCH, name, theirs, **arguments), mine, theirs
    )


# One set of arguments for each scheduler, in which something happens within ten steps.
DEFAULTS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 5, 5, 9], "gamma": 0.5},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 7, "eta_min": 0.01},
    "CyclicLR": {"base_lr": 0.02, "max_lr": 0.4, "step_size_up": 4, "mode": "exp_range", "gamma": 0.98},
    "LambdaLR": {"lr_lambda": inverse_square_root},
    "MultiplicativeLR": {"lr_lambda": inverse_square_root},
    "ConstantLR": {"factor": 0.25, "total_iters": 4},
    "LinearLR": {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 7},
    "PolynomialLR": {"total_iters": 8, "power": 2.5},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2, "eta_min": 0.01},
    "OneCycleLR": {"max_lr": 0.5, "total_steps": 250, "pct_start": 0.03},
    "SWALR": {"swa_lr": 0.05, "anneal_epochs": 6},
    "SequentialLR": {
        "schedulers": Parts(
            ("LinearLR", {"start_factor": 0.25, "total_iters": 3}),
            ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.01}),
            ("ExponentialLR", {"gamma": 0.9}),
        ),
        "milestones": [3, 8],
    },
    "ChainedScheduler": {
        "schedulers": Parts(
            ("ConstantLR", {"factor": 0.25, "total_iters": 4}),
            ("StepLR", {"step_size": 3, "gamma": 0.5}),
            ("ExponentialLR", {"gamma": 0.9}),
        )
    },
    "ReduceLROnPlateau": {"factor": 0.5, "patience": 1, "cooldown": 1},
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


def on_the_device(made: Any) -> list[dict[str, float]]:
    """As :func:`seen`, read from the device and not from the host's mirror."""
    block = made._block
    values = block.tensor.tolist()
    pairs = zip(made.param_groups, seen(made), strict=True)
    return [{key: values[block.slot(group.row, key)] for key in row} for group, row in pairs]


def last_lr_on_the_device(scheduler: Any) -> list[float]:
    """As ``scheduler.get_last_lr()``, read from the device."""
    schedule = scheduler._schedule
    start = schedule.program.offsets[f"{scheduler._scope}_last_lr"]
    return schedule.memory.tensor[start : start + schedule.n_groups].tolist()  # type: ignore[no-any-return]


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


def compare_steps(pair: Twins, steps: int, relative: float = 0.0) -> None:
    """Step both and compare after each."""
    for step in range(1, steps + 1):
        pair.step()
        assert_alike(seen(pair.our_optimizer), seen(pair.torch_optimizer), relative, f"{step} steps on")
        assert position(pair.ours) == position(pair.torchs)


def single(backend: AnyBackend | None = None, lr: float = 0.1, **options: Any) -> Any:
    """Our SGD with one group."""
    return optimizer(fused_sched.optim, "SGD", [lr], backend=backend, **options)


def train(made: Any, scheduler: Any, steps: int) -> list[list[dict[str, float]]]:
    """Steps of an optimizer and its scheduler; what was :func:`seen` after each."""
    history = []
    for _ in range(steps):
        for i, group in enumerate(made.param_groups):
            for p in group["params"]:
                p.grad = torch.full_like(p, 0.25 * (i + 1))
        made.step()
        advance(scheduler)
        history.append(seen(made))
    return history


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Parameters after some updates."""
    relative = 2 * UPDATE_RELATIVE[theirs.dtype]
    torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=relative, atol=relative)
