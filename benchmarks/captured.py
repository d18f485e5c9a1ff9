"""Contenders whose step is a CUDA graph: torch with the scheduler outside of it, and with a schedule inside.

torch's schedulers run on the host. So a captured step either leaves them outside, where they fill the lr that the
graph reads, or has the schedule written anew as torch operations on a step count that lives on the device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from contenders import FOREACH, FUSED, Built, Contender, eager, in_graph, make_optimizer, stock_cosine
from device import Host
from problems import ETA_MIN, PERIOD, Tensors


def _capturable(device: Host, options: dict[str, Any]) -> dict[str, Any]:
    return options if device.dry else {**options, "capturable": True}  # torch refuses the flag on the CPU


def tensor_lr_optimizer(tensors: Tensors, device: Host, options: dict[str, Any]) -> Any:
    """torch's optimizer with what a graph needs of it."""
    # a dry run: torch's foreach classes take a tensor lr only where they are capturable
    tensor_lr = not (device.dry and options == FOREACH)
    return make_optimizer(torch.optim, tensors, tensor_lr, **_capturable(device, options))


def scheduler_outside(name: str, **options: Any) -> Contender:
    """The update in a graph; torch's scheduler fills the lr after each replay."""

    def build(tensors: Tensors, device: Host) -> Built:
        optimizer = tensor_lr_optimizer(tensors, device, options)
        scheduler = stock_cosine(optimizer)
        return in_graph(eager(optimizer, scheduler), optimizer.step, scheduler.step)

    return Contender(name, build)


class ScheduleOfOperations:
    """The cosine as an expert would write it today: torch operations on a count on the device, in float64."""

    def __init__(self, optimizer: Any, device: str) -> None:
        self._lrs = [group["lr"] for group in optimizer.param_groups]
        self._first = [float(lr) for lr in self._lrs]
        self._count = torch.zeros((), dtype=torch.float64, device=device)

    def step(self) -> None:
        self._count += 1
        height = torch.cos(self._count * (math.pi / PERIOD)).add_(1).mul_(0.5)
        for lr, first in zip(self._lrs, self._first, strict=True):
            lr.copy_(height * (first - ETA_MIN) + ETA_MIN)


def schedule_inside(name: str, **options: Any) -> Contender:
    """Update and schedule in a graph, the schedule as torch operations."""

    def build(tensors: Tensors, device: Host) -> Built:
        optimizer = tensor_lr_optimizer(tensors, device, options)
        built = eager(optimizer, ScheduleOfOperations(optimizer, tensors.device))
        return in_graph(built, built.step)

    return Contender(name, build)


FUSED_OUTSIDE = scheduler_outside("torch fused, graph", **FUSED)
FUSED_INSIDE = schedule_inside("torch fused, schedule in graph", **FUSED)
FOREACH_OUTSIDE = scheduler_outside("torch foreach, graph", **FOREACH)
