"""The compiled kernels on a GPU against the C++ kernels on the host: same bits where no power is involved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpus import DEVICE, REAL, Body, Gpu
from tolerances import COSINE_PAST_TROUGH_RELATIVE, DEVICES_RELATIVE, SCHEDULE_RELATIVE

from fused_sched import backends
from fused_sched.lr_scheduler import CosineAnnealingLR, CyclicLR, ExponentialLR, LambdaLR, MultiStepLR, StepLR
from fused_sched.optim import SGD, Adam, AdamW

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZES = [1, 7, 8, 130, 1024, 1031, *([8192, 70_001] if REAL else [2051])]
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "sgd momentum": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd dampening": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "maximize": True}),
    "adam": (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (AdamW, {"lr": 0.01}),
    "amsgrad": (AdamW, {"lr": 0.01, "amsgrad": True, "betas": (0.3, 0.9)}),
}


@pytest.fixture
def triton(gpu: Gpu) -> Any:
    """The backend."""
    return gpu.backend("triton")


def tensors(dtype: torch.dtype, offset: int, device: str) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(n + offset, generator=generator).to(dtype).to(device)[offset:] for n in SIZES]
    return [torch.nn.Parameter(t) for t in made]


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_update_matches_the_host(rule: str, dtype: torch.dtype, offset: int, triton: Any) -> None:
    if backends.reason_unavailable("cpu") is not None:
        pytest.skip("the C++ extension is the oracle")
    make, options = RULES[rule]
    mine, theirs = tensors(dtype, offset, DEVICE), tensors(dtype, offset, "cpu")
    pair = [make(mine, backend=triton, **options), make(theirs, backend="cpu", **options)]
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            missing = (i + step) % 5 == 4
            q.grad = None if missing else torch.randn(q.shape, generator=generator).to(dtype)
            p.grad = None if missing else q.grad.to(DEVICE)
        for optimizer in pair:
            optimizer.step()
    exact = make is SGD
    for p, q in zip(mine, theirs, strict=True):
        tolerance = 0.0 if exact else DEVICES_RELATIVE[dtype]
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=tolerance, atol=tolerance)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: CosineAnnealingLR(o, T_max=50, eta_min=1e-4),
    "cyclic": lambda o: CyclicLR(o, base_lr=1e-3, max_lr=1.0, step_size_up=7, mode="exp_range", gamma=0.99),
    "exponential": lambda o: ExponentialLR(o, gamma=0.97),
    "lambda": lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch), horizon=16),
    "multistep": lambda o: MultiStepLR(o, milestones=[3, 3, 20, 50], gamma=0.3),
    "step": lambda o: StepLR(o, step_size=9, gamma=0.5),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.thin
def test_the_device_runs_the_program_as_the_host_does(name: str, triton: Any) -> None:
    params = tensors(torch.float32, 0, DEVICE)
    optimizer = SGD([{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(params)], momentum=0.9, backend=triton)
    scheduler = SCHEDULERS[name](optimizer)
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(120):
        optimizer.step()
        scheduler.step()
        mirror = torch.tensor([g["lr"] for g in optimizer.param_groups], dtype=torch.float64)
        block = optimizer._block
        device = torch.stack([block.tensor[block.slot(g, "lr")] for g in range(len(params))]).cpu()
        tolerance = COSINE_PAST_TROUGH_RELATIVE if name == "cosine" else SCHEDULE_RELATIVE
        torch.testing.assert_close(device, mirror, rtol=tolerance, atol=0)


def test_one_kernel_a_step(triton: Any, work: Callable[[Body], list[str]]) -> None:
    params = [torch.nn.Parameter(torch.randn(100 + i, device=DEVICE)) for i in range(148)]
    optimizer = AdamW([{"params": params[:70]}, {"params": params[70:], "weight_decay": 0.0}], backend=triton)
    scheduler = CosineAnnealingLR(optimizer, T_max=100, fused=True)
    for p in params:
        p.grad = torch.randn_like(p)

    def step() -> None:
        optimizer.step()
        scheduler.step()

    for _ in range(3):
        step()
    kernels = work(step)
    assert len(kernels) == 1, kernels


def test_eager_steps_do_not_wait(triton: Any, no_sync: Callable[[], Any]) -> None:
    params = tensors(torch.float32, 0, DEVICE)
    optimizer = AdamW(params, backend=triton)
    scheduler = CosineAnnealingLR(optimizer, T_max=10, fused=True)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    scheduler.step()
    with no_sync():
        for _ in range(20):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
