"""Host time: a training loop's optimizer and scheduler on tiny tensors, the scheduler alone, and how both scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import schedules
import torch
from device import Host
from floors import empty_call
from harness import Call, Row, interleave, reason, time_text

import fused_sched

EMPTY = "an empty call"
TENSORS = (1, 10, 148, 448, 1000)
GROUPS = (1, 8, 64, 465)
HORIZON = 10**7  # steps after which a schedule ends; further than any measurement goes


def tiny(n: int, device: Host, elements: int = 4) -> list[torch.nn.Parameter]:
    """Parameters with gradients."""
    made = [torch.nn.Parameter(torch.randn(elements, device=device.name)) for _ in range(n)]
    for p in made:
        p.grad = torch.randn(elements, device=device.name)
    return made


def library_of(name: str) -> tuple[Any, Any]:
    """Modules of optimizers and of schedulers; ``name`` begins with ``fused_sched`` or ``torch``."""
    if name.startswith("fused_sched"):
        return fused_sched.optim, fused_sched.lr_scheduler
    return torch.optim, schedules.TORCH


def _options(name: str, device: Host) -> dict[str, Any]:
    if name.startswith("torch"):
        return {"fused": True} if "fused" in name else {"foreach": True}
    return {"backend": "triton"} if device.dry else {}


def training_step(name: str, groups: Sequence[Sequence[torch.nn.Parameter]], device: Host) -> Call:
    """AdamW and CosineAnnealingLR of a library."""
    optim, scheduler = library_of(name)
    optimizer = optim.AdamW([{"params": list(params)} for params in groups], lr=1e-4, **_options(name, device))
    fused = {"fused": True} if name.startswith("fused_sched") else {}
    schedule = scheduler.CosineAnnealingLR(optimizer, T_max=1_000_000, **fused)

    def step() -> None:
        optimizer.step()
        schedule.step()

    return step


NAMES = ("fused_sched", "torch fused", "torch foreach")


def step_rows(device: Host, seconds: float, tensors: Sequence[int] = TENSORS) -> list[Row]:
    """AdamW and CosineAnnealingLR on tensors of 4 elements with static gradients; on a GPU, only the enqueueing."""
    result = []
    for n in tensors:
        steps = {name: training_step(name, [tiny(n, device)], device) for name in NAMES}
        times = interleave({**steps, EMPTY: empty_call}, seconds, sample=device.enqueued)
        ratio = times["torch fused"]["median_us"] / times["fused_sched"]["median_us"]
        print(f"host, {n:5} tensors: {ratio:6.2f}x, ours {time_text(times['fused_sched']['median_us'])}", flush=True)
        result.append({"tensors": n, "times": times, "ratio": ratio})
        device.synchronize()
    return result


def scheduler_rows(
    device: Host, seconds: float, cases: Sequence[schedules.Case], groups: Sequence[int] = GROUPS
) -> list[Row]:
    """scheduler.step() alone, against torch's with a float lr and with the tensor lr that a graph needs."""
    result = []
    for case in cases:
        for n in groups:
            candidates, absent = {}, {}
            for label in ("fused_sched", "torch", "torch, tensor lr"):
                lr = torch.tensor(1e-3, device=device.name) if "tensor" in label else 1e-3
                optim, scheduler = library_of(label)
                options = _options(label, device) if label == "fused_sched" else {}
                optimizer = optim.AdamW([{"params": tiny(1, device)} for _ in range(n)], lr=lr, **options)
                optimizer.step()
                try:
                    candidates[label] = schedules.stepper(case.make(scheduler, optimizer, HORIZON))
                    candidates[label]()
                except Exception as error:
                    absent[label] = f"failed: {reason(error)}"
            times = interleave(candidates, seconds, 3 if device.dry else 9, 5e-4, device.enqueued)
            both = "torch" in times and "fused_sched" in times
            ratio = times["torch"]["median_us"] / times["fused_sched"]["median_us"] if both else None
            result.append({"scheduler": case.name, "groups": n, "times": times, "ratio": ratio, "absent": absent})
            shown = f"{ratio:6.2f}x" if ratio is not None else str(absent)
            print(f"{case.name:28} {n:4} groups: {shown}", flush=True)
    return result


# axis -> points, and what param groups a point has
Groups = Callable[[int, Host], list[list[torch.nn.Parameter]]]
AXES: dict[str, tuple[tuple[int, ...], Groups]] = {
    "tensors of 64": ((1, 10, 100, 1000, 5000), lambda n, d: [tiny(n, d, 64)]),
    "groups of one tensor of 64": ((1, 8, 64, 465), lambda n, d: [tiny(1, d, 64) for _ in range(n)]),
    "elements of one tensor": ((10**3, 10**5, 10**6, 10**7), lambda n, d: [tiny(1, d, n)]),
}


def scaling_rows(device: Host, seconds: float, largest: int = 10**8) -> list[Row]:
    """A step until the device is done, along one axis at a time."""
    result = []
    for axis, (points, make) in AXES.items():
        for n in points:
            if n > largest:
                continue
            steps = {name: training_step(name, make(n, device), device) for name in NAMES[:2]}
            times = interleave(steps, seconds, 3 if device.dry else 7, 2e-3, device.wall)
            result.append({"axis": axis, "n": n, "times": times})
            shown = ", ".join(f"{name} {time_text(t['median_us'])}" for name, t in times.items())
            print(f"{n:9} {axis}: {shown}", flush=True)
    return result
