"""Random sequences of replays, steps, edits, loads, measurements, skipped updates and reads: as eager, and as torch."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, REAL, Gpu
from schedule_twins import OURS, TORCH, Parts, build
from tolerances import SCHEDULE_RELATIVE
from torch import Tensor
from torch.utils._pytree import tree_map

from fused_sched import graphed, lr_scheduler
from fused_sched.optim import SGD, AdamW

OPERATIONS = 100  # of a sequence
SEQUENCES = 4  # of a test
KL = ("KLAdaptiveLR", {"target_kl": 0.02, "min_lr": 1e-4, "max_lr": 0.5})
WARM_UP = (("LinearLR", {"total_iters": 9}), ("ExponentialLR", {"gamma": 0.97}))
SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 3, "gamma": 0.7}),
    ("ExponentialLR", {"gamma": 0.98}),
    ("CosineAnnealingLR", {"T_max": 37}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 7, "cycle_momentum": False}),
    ("LambdaLR", {"lr_lambda": lambda step: 1 / (1 + 0.1 * step)}),
    ("SequentialLR", {"schedulers": Parts(*WARM_UP), "milestones": [9]}),
    KL,
]


class KLRule(torch.optim.lr_scheduler.LRScheduler):
    """The rule of rsl_rl, with torch's optimizers."""

    kl = 0.0

    def get_lr(self) -> list[float]:
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        if self.kl > 0.04:
            return [max(1e-4, lr / 1.5) for lr in lrs]
        return [min(0.5, lr * 1.5) for lr in lrs] if 0 < self.kl < 0.01 else lrs


class Side:
    """One of the three: torch's on the CPU, ours eager, ours by replays."""

    def __init__(
        self, how: str, backend: Any, name: str, scheduler: tuple[str, dict[str, Any]], fused: bool, stops: str
    ) -> None:
        self.stops = stops
        self.is_torchs, self.device = how == "torch", "cpu" if how == "torch" else DEVICE
        self.params = [torch.nn.Parameter(torch.linspace(-1, 1, n).to(self.device)) for n in (3, 1)]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(self.params, (0.1, 0.03), strict=True)]
        more: dict[str, Any] = {"foreach": False} if self.is_torchs else {"backend": backend}
        if name == "sgd":
            cls: Any = torch.optim.SGD if self.is_torchs else SGD
            self.optimizer: Any = cls(groups, lr=0.1, momentum=0.9, **more)
        else:
            self.optimizer = (torch.optim.AdamW if self.is_torchs else AdamW)(groups, lr=0.1, **more)
        kind, arguments = scheduler
        self.measures = scheduler is KL
        if self.is_torchs:
            self.scheduler = (
                KLRule(self.optimizer) if self.measures else build(TORCH, kind, self.optimizer, **arguments)
            )
        else:
            self.flag = torch.zeros((), device=DEVICE)
            if stops == "always":
                self.optimizer.stop_when(self.flag)
            self.scheduler = build(OURS, kind, self.optimizer, fused=fused, **arguments)
        self.update: Callable[..., Any] = self.train
        if how == "graph":
            self.update = graphed(self.train, self.optimizer)

    def train(self, x: Tensor, kl: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = (self.params[0] * x).sum() + (self.params[1] * x[:1]).sum()
        loss.backward()
        if self.measures:
            self.scheduler.observe(kl)
        if self.stops == "as given":  # as a GradScaler does
            self.optimizer.found_inf = self.flag
        self.optimizer.step()
        self.optimizer.found_inf = None
        self.scheduler.step()
        return loss

    def step(self, x: Tensor, kl: float, skipped: bool, by_hand: bool = False) -> None:
        if self.is_torchs:
            for p, g in zip(self.params, (x, x[:1]), strict=True):
                p.grad = g.clone()
            self.scheduler.kl = kl
            if not skipped:
                self.optimizer.step()
            self.scheduler.step()
            return
        self.flag.fill_(float(skipped))
        given = x.to(DEVICE), torch.full((), kl, device=DEVICE)
        stops, self.stops = self.stops, self.stops if skipped or not by_hand else "never"
        (self.train if by_hand else self.update)(*given)
        self.stops = stops

    def edit(self, group: int, key: str, value: float, factor: bool) -> None:
        groups = self.optimizer.param_groups
        groups[group][key] = groups[group][key] * value if factor else value

    def save(self) -> Any:
        return tree_map(_own, (self.optimizer.state_dict(), self.scheduler.state_dict()))

    def load(self, saved: Any) -> None:
        self.optimizer.load_state_dict(tree_map(_own, saved[0]))
        self.scheduler.load_state_dict(tree_map(_own, saved[1]))

    def lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]


def _own(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def _run(rng: random.Random, backend: Any) -> None:
    stops = rng.choice(["never", "always", "as given"])
    case = rng.choice(["sgd", "adamw"]), rng.choice(SCHEDULERS), rng.random() < 0.6, stops
    sides = [Side(how, backend, *case) for how in ("torch", "eager", "graph")]
    torchs, eager, graph = sides
    saved: list[list[Any]] = []
    largest = max(torchs.lrs())

    def look() -> None:
        nonlocal largest
        largest = max(largest, *torchs.lrs())
        for one in (eager, graph):
            assert one.scheduler.last_epoch == torchs.scheduler.last_epoch
            if rng.random() < 0.2:  # and so has the device
                assert one.scheduler.state_dict()["last_epoch"] == torchs.scheduler.last_epoch
            assert one.lrs() == pytest.approx(torchs.lrs(), rel=0, abs=SCHEDULE_RELATIVE * largest)
        lasts = [[*map(float, one.scheduler.get_last_lr())] for one in (torchs, graph)]
        assert lasts[1] == pytest.approx(lasts[0], rel=0, abs=SCHEDULE_RELATIVE * largest)
        for p, q in zip(eager.params, graph.params, strict=True):
            torch.testing.assert_close(p.cpu(), q.cpu(), rtol=0, atol=1e-6 if REAL else 0)

    skipping = 0
    for _ in range(OPERATIONS):
        what = rng.choices(["step", "by hand", "edit", "load", "save", "skip", "read"], [12, 2, 2, 1, 1, 2, 2])[0]
        if what in ("step", "by hand"):
            x = torch.tensor([rng.uniform(-1, 1) for _ in range(3)])
            kl = rng.choice([0.001, 0.02, 0.1, 0.0, float("nan"), float("inf"), -1.0])
            for one in sides:
                one.step(x, kl, skipping > 0, by_hand=what == "by hand" and one is graph)
            skipping -= skipping > 0
        elif what == "edit":
            group = rng.randrange(2)
            chosen = rng.choice([("lr", 0.5, True), ("lr", 0.07, False), ("weight_decay", 0.02, False)])
            for one in sides:
                one.edit(group, *chosen)
        elif what == "save":
            saved.append([one.save() for one in sides])
        elif what == "load" and saved:
            for one, state in zip(sides, rng.choice(saved), strict=True):
                one.load(state)
        elif what == "skip" and stops != "never":
            skipping = rng.randrange(1, 4)
        elif what == "read":
            look()
    look()


def test_random_sequences(rng: random.Random, gpu_backend: Any) -> None:
    for _ in range(SEQUENCES):
        _run(rng, gpu_backend)


# -- a run that is killed ------------------------------------------------------------------------------------


class Run:
    """A training with clipping, averages and an lr by the KL divergence; what it saves goes through a file's bytes."""

    def __init__(self, backend: Any) -> None:
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).to(DEVICE)
        options = {"max_grad_norm": 0.5, "ema_decay": 0.9, "skip_nonfinite": True}
        self.optimizer = AdamW(self.net.parameters(), lr=0.05, backend=backend, **options)  # type: ignore[arg-type]
        self.scheduler = lr_scheduler.KLAdaptiveLR(self.optimizer, 0.02, max_lr=0.1, fused=True)
        self.step = graphed(self.update, self.optimizer, warmup=1)
        self.done = 0

    def update(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        before = self.net(x)
        before.square().mean().backward()
        self.scheduler.observe((before.detach() * 0.05).square().mean())
        self.optimizer.step()
        self.scheduler.step()
        return before.detach()

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(self.done))
            if self.done % 7 == 3:
                x[0, 0] = torch.inf
            self.step(x.to(DEVICE))
            self.done += 1

    def checkpoint(self) -> bytes:
        state = self.net.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict(), self.done
        file = io.BytesIO()
        torch.save(tree_map(lambda x: x.cpu().clone() if isinstance(x, Tensor) else x, state), file)
        return file.getvalue()

    def load(self, checkpoint: bytes) -> None:
        state = torch.load(io.BytesIO(checkpoint), weights_only=False)
        net, optimizer, scheduler, self.done = tree_map(lambda x: x.to(DEVICE) if isinstance(x, Tensor) else x, state)
        with torch.no_grad():
            for name, value in self.net.state_dict().items():
                value.copy_(net[name])
        self.optimizer.load_state_dict(optimizer)
        self.scheduler.load_state_dict(scheduler)

    def bits(self) -> list[Any]:
        state = self.optimizer.state_dict()
        tensors = [t.cpu() for s in state["state"].values() for t in s.values()]
        params = [p.detach().cpu() for p in self.net.parameters()]
        return [[t.tolist() for t in (*params, *tensors)], repr(state["param_groups"]), self.scheduler.state_dict()]


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_nothing_had_happened(rng: random.Random, gpu: Gpu) -> None:
    backend, steps = gpu.backend(None), 24
    whole = Run(backend)
    whole.go_on(steps)
    for _ in range(50):
        run, kept = Run(backend), b""
        every, killed = rng.randrange(1, 6), rng.randrange(1, steps)
        while run.done < killed:
            if run.done % every == 0:
                kept = run.checkpoint()
            run.go_on(1)
        run = Run(backend)
        run.load(kept)
        run.go_on(steps - run.done)
        assert run.bits() == whole.bits()
