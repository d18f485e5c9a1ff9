"""Tensors in param groups under CUDA graphs: what a graph writes to them is an edit, and schedules write to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from gpus import DEVICE, Body, Gpu, Graph
from schedule_twins import TORCH
from torch.nn import Parameter

import fused_sched
from fused_sched.optim.foreign import home_of

NEAR = {torch.float64: 1e-12, torch.float32: 3e-6}
KINDS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "AdamW": {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.02},
}
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("ExponentialLR", {"gamma": 0.97}),
    ("CosineAnnealingLR", {"T_max": 9, "eta_min": 0.001}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3}),
]


def on_device(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(on_device(x, dtype) for x in value)
    return torch.tensor(value, dtype=dtype).to(DEVICE)


def stepped(optimizer: Any, scheduler: Any) -> Body:
    """A step of an optimizer and then of its scheduler."""

    def body() -> None:
        optimizer.step()
        scheduler.step()

    return body


def check_close(ours: Iterable[torch.Tensor], torchs: Iterable[torch.Tensor], relative: float) -> None:
    for p, q in zip(ours, torchs, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=relative, atol=relative)


class Loop:
    """A step of ours with everything in tensors; torch's with numbers, which follow what is written to the lr."""

    def __init__(self, kind: str, dtype: torch.dtype, backend: Any, schedule: tuple[str, Any], fused: bool) -> None:
        generator = torch.Generator().manual_seed(5)
        start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((7,), (3, 33))]
        self.tensors = {key: on_device(value, dtype) for key, value in KINDS[kind].items()}
        self.lr: torch.Tensor = self.tensors["lr"]
        numbers = {k: tuple(map(float, v)) if isinstance(v, tuple) else float(v) for k, v in self.tensors.items()}
        self.ours = [Parameter(x.to(DEVICE)) for x in start]
        self.torchs = [Parameter(x.clone()) for x in start]
        self.mine: Any = getattr(fused_sched.optim, kind)(
            [{"params": [p]} for p in self.ours], backend=backend, **self.tensors
        )
        self.theirs: Any = getattr(torch.optim, kind)([{"params": [p]} for p in self.torchs], foreach=False, **numbers)
        name, arguments = schedule
        self.schedule = getattr(fused_sched.lr_scheduler, name)(self.mine, fused=fused, **arguments)
        self.oracle = getattr(TORCH, name)(self.theirs, **arguments)
        for p in self.ours:
            p.grad = torch.zeros_like(p)

    def step(self) -> None:
        for p in self.ours:
            p.grad.copy_(torch.sin(p.detach() * 3) * 0.5 + 0.01)
        self.mine.step()
        self.schedule.step()

    def torchs_step(self) -> None:
        for p in self.torchs:
            p.grad = torch.sin(p.detach() * 3) * 0.5 + 0.01
        self.theirs.step()
        self.oracle.step()

    def edit_torchs(self, factor: float) -> None:
        for group in self.theirs.param_groups:
            group["lr"] *= factor

    def check(self, relative: float) -> None:
        check_close(self.ours, self.torchs, relative)
        assert self.lr.cpu().item() == pytest.approx(self.theirs.param_groups[-1]["lr"], rel=relative)
        for mine, theirs in zip(self.mine.param_groups, self.theirs.param_groups, strict=True):
            assert all(mine[key] is value for key, value in self.tensors.items() if key != "betas")
            if "betas" in theirs:
                assert [float(x.cpu()) for x in mine["betas"]] == pytest.approx(theirs["betas"], rel=relative)


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=[name for name, _ in SCHEDULES])
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_replays_read_and_write_the_tensors(
    kind: str,
    dtype: torch.dtype,
    schedule: tuple[str, Any],
    fused: bool,
    gpu_backend: Any,
    warm_up: Callable[[Body, int], None],
    capture: Callable[[Body], Graph],
    gpu: Gpu,
) -> None:
    loop = Loop(kind, dtype, gpu_backend, schedule, fused)
    warm_up(loop.step, 2)
    graph = capture(loop.step)
    for _ in range(2):
        loop.torchs_step()
    for step in range(8):
        if step == 4:
            loop.lr.mul_(0.5)
            loop.edit_torchs(0.5)
        graph.replay()
        loop.torchs_step()
    gpu.synchronize()
    loop.check(NEAR[dtype])


SHARED: list[tuple[str, list[dict[str, Any]]]] = [
    ("SGD", [{"momentum": "x", "lr": "x"}, {"lr": "x", "weight_decay": "x"}]),
    ("AdamW", [{"lr": "x"}, {"lr": "y", "weight_decay": "x", "eps": "y"}]),
    ("AdamW", [{"lr": "y", "betas": ("x", "y")}, {"lr": "x"}, {"lr": "x", "weight_decay": "y"}]),
]


@pytest.mark.thin
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("case", range(len(SHARED)))
def test_replays_share_a_tensor_between_fields(
    case: int,
    dtype: torch.dtype,
    fused: bool,
    gpu_backend: Any,
    warm_up: Callable[[Body, int], None],
    capture: Callable[[Body], Graph],
    gpu: Gpu,
) -> None:
    kind, groups = SHARED[case]
    sides = []
    for home, device, more in (
        (fused_sched.optim, DEVICE, {"backend": gpu_backend}),
        (torch.optim, "cpu", {"foreach": False}),
    ):
        tensors = {name: torch.tensor(v, dtype=dtype).to(device) for name, v in (("x", 0.1), ("y", 0.2))}

        def of(value: Any, tensors: Any = tensors) -> Any:
            return tuple(map(of, value)) if isinstance(value, tuple) else tensors[value]

        params = [Parameter(torch.ones(5, dtype=torch.float64).to(device)) for _ in groups]
        given = [{"params": [p], **{k: of(v) for k, v in g.items()}} for p, g in zip(params, groups, strict=True)]
        made = getattr(home, kind)(given, lr=0.3, **more)
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        sides.append((made, params, tensors))
    (mine, params, tensors), (theirs, twins, values) = sides
    scheduler = fused_sched.lr_scheduler.StepLR(mine, 2, 0.5, fused=fused)
    oracle = TORCH.StepLR(theirs, 2, 0.5)

    body = stepped(mine, scheduler)
    warm_up(body, 2)
    graph = capture(body)
    for step in range(7):
        if step >= 2:
            graph.replay()
        theirs.step()
        oracle.step()
    gpu.synchronize()
    for name, tensor in tensors.items():
        assert tensor.cpu().item() == pytest.approx(values[name].item(), rel=NEAR[dtype])
    check_close(params, twins, NEAR[dtype])


@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_a_write_inside_the_graph_is_an_edit(
    dtype: torch.dtype,
    gpu_backend: Any,
    warm_up: Callable[[Body, int], None],
    capture: Callable[[Body], Graph],
    gpu: Gpu,
) -> None:
    """As of loops whose lr follows a measurement: every replay multiplies it, and the schedule too."""
    loop = Loop("AdamW", dtype, gpu_backend, SCHEDULES[0], fused=True)

    def body() -> None:
        loop.lr.mul_(0.75)
        loop.step()

    warm_up(body, 1)
    graph = capture(body)
    for _ in range(6):
        graph.replay()
    for _ in range(7):
        loop.edit_torchs(0.75)
        loop.torchs_step()
    gpu.synchronize()
    loop.check(NEAR[dtype])


def test_a_step_with_tensors_does_not_wait(gpu_backend: Any, no_sync: Callable[[], Any], gpu: Gpu) -> None:
    loop = Loop("SGD", torch.float32, gpu_backend, SCHEDULES[1], fused=False)
    loop.step()
    gpu.synchronize()
    with no_sync():
        for _ in range(3):
            loop.lr.mul_(0.5)
            loop.mine.step()
            loop.schedule.step()


def test_a_tensor_that_the_graph_does_not_have_is_refused(
    gpu_backend: Any, warm_up: Callable[[Body, int], None], capture: Callable[[Body], Graph], gpu: Gpu
) -> None:
    p = Parameter(torch.ones(3, device="cpu").to(DEVICE))
    p.grad = torch.zeros_like(p)
    made = fused_sched.optim.SGD([p], lr=0.1, backend=gpu_backend)
    warm_up(made.step, 1)
    graph = capture(made.step)
    with pytest.raises(RuntimeError, match="^lr was assigned as a tensor, but a captured CUDA graph has no lr that is"):
        made.param_groups[0]["lr"] = on_device(0.5, torch.float32)
    assert made.param_groups[0]["lr"] == 0.1
    graph.replay()
    gpu.synchronize()


# -- optimizers of others ------------------------------------------------------------------------------------


class Plain(torch.optim.Optimizer):
    """Gradient descent by tensor operations alone."""

    def __init__(self, params: Any, lr: Any) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


DRIVEN = [*SCHEDULES[:2], ("LambdaLR", {"lr_lambda": lambda epoch: 1 / (1 + epoch)})]


@pytest.mark.thin
@pytest.mark.parametrize("schedule", DRIVEN, ids=[name for name, _ in DRIVEN])
@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_any_optimizer_with_its_lr_in_tensors(
    dtype: torch.dtype,
    schedule: tuple[str, Any],
    gpu_backend: Any,
    warm_up: Callable[[Body, int], None],
    capture: Callable[[Body], Graph],
    gpu: Gpu,
) -> None:
    lrs = [on_device(0.1, dtype), on_device(0.03, dtype)]
    params = [Parameter(torch.ones(5, dtype=torch.float64).to(DEVICE)) for _ in lrs]
    twins = [Parameter(torch.ones(5, dtype=torch.float64)) for _ in lrs]
    made = Plain([{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)], lr=1.0)
    theirs = Plain([{"params": [p], "lr": float(lr.cpu())} for p, lr in zip(twins, lrs, strict=True)], lr=1.0)
    home_of(made, gpu_backend)
    name, arguments = schedule
    arguments = {**arguments, **({"cycle_momentum": False} if name == "CyclicLR" else {})}
    scheduler = getattr(fused_sched.lr_scheduler, name)(made, **arguments)
    oracle = getattr(TORCH, name)(theirs, **arguments)
    assert scheduler.program is not None
    for p in (*params, *twins):
        p.grad = torch.full_like(p, 0.5)

    body = stepped(made, scheduler)
    warm_up(body, 2)
    graph = capture(body)
    for _ in range(300):
        graph.replay()
    for _ in range(302):
        theirs.step()
        oracle.step()
    gpu.synchronize()
    for lr, group in zip(lrs, theirs.param_groups, strict=True):
        assert lr.cpu().item() == pytest.approx(group["lr"], rel=2 * torch.finfo(dtype).eps, abs=1e-15)
    check_close(params, twins, NEAR[dtype])
    assert scheduler.last_epoch == oracle.last_epoch


@pytest.mark.real_gpu
@pytest.mark.parametrize("kind", ["AdamW", "NAdam", "RAdam", "Muon"])
def test_torchs_capturable_optimizers(
    kind: str, warm_up: Callable[[Body, int], None], capture: Callable[[Body], Graph], gpu: Gpu
) -> None:
    if not hasattr(torch.optim, kind):
        pytest.skip(f"this torch has no {kind}")
    lr = on_device(0.01, torch.float32)
    p = Parameter(torch.ones(8, 8, device=DEVICE))
    p.grad = torch.full_like(p, 0.5)
    options = {} if kind == "Muon" else {"capturable": True}
    made = getattr(torch.optim, kind)([p], lr=lr, **options)
    scheduler = fused_sched.lr_scheduler.CosineAnnealingLR(made, T_max=50)

    body = stepped(made, scheduler)
    warm_up(body, 3)
    graph = capture(body)
    for _ in range(20):
        graph.replay()
    gpu.synchronize()
    oracle = TORCH.CosineAnnealingLR(torch.optim.SGD([Parameter(torch.ones(1))], lr=0.01), T_max=50)
    oracle.optimizer.step()
    for _ in range(23):
        oracle.step()
    assert lr.item() == pytest.approx(oracle.get_last_lr()[0], rel=1e-6)
