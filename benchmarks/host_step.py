"""Host time of optimizer.step() plus scheduler.step() on tiny tensors, and of the scheduler alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import interleave

import fused_sched

warnings.filterwarnings("ignore", message="Detected call of")
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "StepLR": (1000,),
    "MultiStepLR": ([100_000, 200_000],),
    "ExponentialLR": (0.999999,),
    "CosineAnnealingLR": (1_000_000,),
    "CyclicLR": (1e-4, 1e-3),
    "LambdaLR": (lambda epoch: 0.999999**epoch,),
}


def _tiny(n: int) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.randn(4)) for _ in range(n)]
    for p in made:
        p.grad = torch.randn(4)
    return made


def _training_step(optim: Any, scheduler: Any, n: int, **options: Any) -> Callable[[], None]:
    optimizer = optim(_tiny(n), lr=1e-4, **options)
    schedule = scheduler(optimizer, T_max=1_000_000)

    def step() -> None:
        optimizer.step()
        schedule.step()

    return step


def step_rows(seconds: float) -> list[dict[str, Any]]:
    """AdamW and CosineAnnealingLR on 1, 10, 148, 448 and 1000 tensors of 4 elements with static gradients."""
    ours, theirs = fused_sched.lr_scheduler.CosineAnnealingLR, torch.optim.lr_scheduler.CosineAnnealingLR
    result = []
    for n in (1, 10, 148, 448, 1000):
        times = interleave(
            {
                "fused_sched": _training_step(fused_sched.optim.AdamW, ours, n),
                "torch fused": _training_step(torch.optim.AdamW, theirs, n, fused=True),
                "torch foreach": _training_step(torch.optim.AdamW, theirs, n, foreach=True),
            },
            seconds,
        )
        ratio = times["torch fused"]["median_us"] / times["fused_sched"]["median_us"]
        print(f"host step, {n:5} tensors: {ratio:6.2f}x  ours {times['fused_sched']['median_us']:8.1f} us", flush=True)
        result.append({"tensors": n, "times": times, "ratio": ratio})
    return result


def scheduler_rows(seconds: float) -> list[dict[str, Any]]:
    """scheduler.step() alone for 1, 8, 64 and 465 param groups, against torch's with a float lr and a tensor lr."""
    result = []
    for name, arguments in ARGUMENTS.items():
        for groups in (1, 8, 64, 465):
            candidates = {}
            for label, library, lr in (
                ("fused_sched", fused_sched, 1e-3),
                ("torch", torch, 1e-3),
                ("torch, tensor lr", torch, torch.tensor(1e-3)),
            ):
                schedulers = library.optim.lr_scheduler if library is torch else library.lr_scheduler
                optimizer = library.optim.AdamW([{"params": _tiny(1)} for _ in range(groups)], lr=lr)
                candidates[label] = getattr(schedulers, name)(optimizer, *arguments).step
            times = interleave(candidates, seconds, rounds=9, batch_seconds=5e-4)
            ratio = times["torch"]["median_us"] / times["fused_sched"]["median_us"]
            print(
                f"{name:18} {groups:4} groups: {ratio:6.2f}x  ours {times['fused_sched']['median_us']:7.2f} us",
                flush=True,
            )
            result.append({"scheduler": name, "groups": groups, "times": times, "ratio": ratio})
    return result
