"""How far schedules are from eager torch with a float lr, whose arithmetic is float64.

torch's schedulers with a tensor lr, which a captured step needs, compute in float32. One that is called inside of a
captured graph is worse off: its count is in Python, where no replay moves it.
"""

from __future__ import annotations

import math
from typing import Any

import schedules
import torch
from device import Host
from harness import Row, reason

import fused_sched

REPLAYS = 1000


def _optimizer(optim: Any, lr: Any, device: str = "cpu", **options: Any) -> Any:
    p = torch.nn.Parameter(torch.zeros(1, device=device))
    p.grad = torch.zeros_like(p)
    made = optim.AdamW([p], lr=lr, **options)
    made.step()
    return made


def _relative(value: float, truth: float) -> float:
    return abs(value - truth) / abs(truth) if truth else (0.0 if value == 0 else math.inf)


def lr_error_rows(steps: int, cases: list[schedules.Case]) -> list[Row]:
    """Largest relative error of the lr over ``steps`` steps, and at the end, on the CPU."""
    result = []
    for case in cases:
        row: Row = {"scheduler": str(case), "steps": steps, "largest": {}, "last": {}, "absent": {}}
        torchs = schedules.TORCH
        truth_optimizer = _optimizer(torch.optim, schedules.LR)
        contenders: dict[str, tuple[Any, Any, Any]] = {
            "fused_sched": (fused_sched.optim, fused_sched.lr_scheduler, schedules.LR),
            "torch, tensor lr": (torch.optim, torchs, torch.tensor(schedules.LR)),
        }
        truth = schedules.stepper(case.make(torchs, truth_optimizer, steps))
        running = {}
        for name, (optim, library, lr) in contenders.items():
            optimizer = _optimizer(optim, lr)
            try:
                running[name] = schedules.stepper(case.make(library, optimizer, steps)), optimizer.param_groups[0]
            except Exception as error:
                row["absent"][name] = f"failed: {reason(error)}"
        largest = dict.fromkeys(running, 0.0)
        last = dict.fromkeys(running, 0.0)
        truth_group = truth_optimizer.param_groups[0]
        for _ in range(steps):
            truth()
            exact = truth_group["lr"]
            for name, (step, group) in running.items():
                step()
                last[name] = _relative(float(group["lr"]), exact)
                if not last[name] <= largest[name]:
                    largest[name] = last[name]
        row["largest"], row["last"] = largest, last
        print(f"{case!s:40} largest error of the lr: {largest}", flush=True)
        result.append(row)
    return result


def frozen_rows(device: Any, cases: list[schedules.Case], replays: int = REPLAYS) -> list[Row]:
    """Relative error of the lr after replays of a graph with scheduler.step() in it; only a GPU can tell.

    A dry run has no graph that could freeze anything, and so no row.
    """
    result: list[Row] = []
    for case in cases:
        row: Row = {"scheduler": str(case), "replays": replays, "last": {}, "absent": {}}
        truth_optimizer = _optimizer(torch.optim, schedules.LR)
        truth = schedules.stepper(case.make(schedules.TORCH, truth_optimizer, 2 * replays))
        for _ in range(replays):
            truth()
        exact = float(truth_optimizer.param_groups[0]["lr"])
        for name in ("fused_sched", "torch, tensor lr"):
            try:
                row["last"][name] = _relative(_after_replays(name, case, device, replays), exact)
            except Exception as error:
                row["absent"][name] = f"refused in a capture: {reason(error)}"
        print(f"{case!s:40} after {replays} replays: {row['last']} {row['absent']}", flush=True)
        result.append(row)
    return result if not device.dry else []


def _after_replays(name: str, case: schedules.Case, device: Host, replays: int) -> float:
    ours = name == "fused_sched"
    optim, library = (fused_sched.optim, fused_sched.lr_scheduler) if ours else (torch.optim, schedules.TORCH)
    lr: Any = schedules.LR if ours else torch.tensor(schedules.LR, device=device.name)
    backend = {"backend": "triton"} if device.dry else {}
    options = backend if ours else ({"fused": True} if device.dry else {"fused": True, "capturable": True})
    optimizer = _optimizer(optim, lr, device.name, **options)
    step = schedules.stepper(case.make(library, optimizer, 2 * replays))

    def body() -> None:
        optimizer.step()
        step()

    with device.side_stream():
        for _ in range(3):
            body()
    captured = device.captured(body)  # type: ignore[attr-defined]
    for _ in range(replays - 3):
        captured.replay()
    device.synchronize()
    return float(optimizer.param_groups[0]["lr"])
